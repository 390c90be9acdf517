"""How a choice among candidates is asked for, three ways for each domain.

The wording is our own; the published one is in prompt/*.txt of ljy0ustc/LLaRA,
and `task.choose.templates` takes it. There, several texts say 10 candidates
whatever their number; here {count} is it.
"""

from bigrec_jax import errors

FIELDS = ("{history}", "{candidates}", "{count}")  # The last may be missing.


def _three(one: str, done: str, does: str, name: str) -> tuple[str, ...]:
  """Returns the templates of a domain.

  Args:
    one: what an item is.
    done: what a user did with one.
    does: what a user does with the next one.
    name: by which items are listed.
  """
  return (
    f"A user {done} these {one}s, oldest first: {{history}}. Which {one} will"
    f" the user {does} next? It is one of these {{count}} {name}s:"
    " {candidates}. Answer:",
    f"Past {one}s of a user: {{history}}. Out of {{count}} {name}s,"
    f" {{candidates}}, pick the one {one} to suggest to the user now."
    f" Suggested {name}:",
    f"{{history}} is what a user {done} so far. Candidates: {{candidates}}."
    f" Name the single {name} among them that the user will {does} next."
    f" Next {one}:",
  )


TEMPLATES = {
  "movie": _three("movie", "watched", "watch", "title"),
  "game": _three("game", "played", "play", "title"),
  "artist": _three("artist", "listened to", "listen to", "name"),
  "item": _three("item", "chose", "choose", "title"),
}


def chosen(domain: str, given: tuple[str, ...]) -> tuple[str, ...]:
  """Returns the templates in use.

  Args:
    domain: a key of TEMPLATES.
    given: templates of the user's own in their place; none, or an empty one,
      = those of the domain.

  Raises:
    UserError: one lacks history or candidates.
  """
  own = tuple(text for text in given if text)
  for text in own:
    for field in FIELDS[:2]:
      if text.count(field) != 1:
        raise errors.UserError(
          f"config.task.choose.templates: {text!r}: {field} once expected"
        )
  return own or TEMPLATES[domain]
