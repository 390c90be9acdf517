"""The one place for prompt strings and for the cleaning of titles.

A prompt has an instruction, an input (the titles of the history) and a
response (the title of the target), in the Alpaca layout that BIGRec uses
(docs/protocol.md, Prompts). The styles differ in what ends the header's
line:

  bigrec      the published bytes: one blank when training, two when
              generating (quirk 1), so the model never sees in training the
              header that it gets at test time;
  consistent  the training header in both;
  tallrec     the published bytes of TALLRec: a linter's comment that got into
              the text, in training and inference alike.
  chat        instruction and input are the user's turn and the response is the
              assistant's, in an instruct model's own template (chat.py).
  d3          the published bytes of D3 (arXiv 2406.14900, code/dataset.py): its
              layout, and header, history and response tokenised apart.
  sentence    no layout: "A user watched A, B. Now the user may want to watch",
              and " C." as what goes on (LMRecSys, clmscorer.py).

Everything here works on strings alone: it is imported without jax.
"""

import dataclasses
import string
from collections.abc import Callable, Sequence

from bigrec_jax import config, errors

STYLES = ("consistent", "bigrec", "tallrec", "chat", "d3", "sentence")
RESPONSE_MARKER = "Response:\n"

_WITH_INPUT = (
  "Below is an instruction that describes a task, paired with an input that"
  " provides further context. Write a response that appropriately completes"
  " the request."
)
_WITHOUT_INPUT = (
  "Below is an instruction that describes a task. Write a response that"
  " appropriately completes the request."
)
_TALLREC_END = "  # noqa: E501"
_TRAINING_END = {"consistent": " ", "bigrec": " ", "tallrec": _TALLREC_END}
_INFERENCE_END = _TRAINING_END | {"bigrec": "  "}
# Without an input, training and inference are the same in every style.
_WITHOUT_INPUT_END = {
  "consistent": "  ",
  "bigrec": "  ",
  "tallrec": _TALLREC_END,
}
_INPUT_END = "\n "
_STRIPPED = string.whitespace + '"'


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Renders instruction, history and target as text.

  Attributes:
    style: one of STYLES.
    instruction: The instruction of every rendered example.
    history_lead: What comes before the first title. A blank between the two
      is part of it: MovieLens and Games have none, Toys has one.
    render_turn: For `chat`: a user's turn -> the text up to the response.
  """

  style: str
  instruction: str
  history_lead: str
  render_turn: Callable[[str], str] | None = None

  def __post_init__(self):
    if self.style not in STYLES:
      raise errors.UserError(
        f"config.prompt.style: {self.style!r} found, one of"
        f" {', '.join(STYLES)} expected"
      )

  @classmethod
  def from_config(
    cls,
    section: config.PromptConfig,
    render_turn: Callable[[str], str] | None = None,
  ) -> "Prompt":
    """Makes the prompt of a configuration.

    Args:
      section: of the configuration.
      render_turn: of the model's chat template; style `chat` renders no prompt
        without it.
    """
    return cls(section.style, section.instruction, section.history, render_turn)

  def input_text(self, titles: Sequence[str]) -> str:
    """Returns the input block for a history, oldest title first.

    An empty history gives the lead alone, as the published notebooks do for
    users with one item.
    """
    if self.style == "sentence":
      return f"{self.history_lead} {', '.join(titles)}." if titles else ""
    quoted = ", ".join(f'"{title}"' for title in titles)
    end = "" if self.style == "d3" else _INPUT_END
    return f"{self.history_lead}{quoted}{end}"

  def output_text(self, title: str) -> str:
    """Returns the response that the model learns for a title."""
    if self.style == "sentence":
      return f" {title}."
    return f'"{title}"\n' if self.style == "d3" else f'"{title}"'

  @property
  def answer_context(self) -> str:
    """What a title is tokenised behind: the end of a prompt, "" for nothing."""
    if self.style == "sentence":
      return self.instruction
    return "" if self.style == "d3" else RESPONSE_MARKER

  def seams(self, instruction: str, input: str) -> tuple[int, ...]:
    """Returns where prompt and response are cut before they are tokenised.

    Args:
      instruction: of the prompt.
      input: of the prompt.

    Returns:
      Ends of pieces, in characters, the last that of the prompt; none where
      prompt and response are one text.
    """
    if self.style != "d3":
      return ()
    header = len(_d3_header(instruction))
    return header, header + len(_d3_question(input))

  def prompt_text(self, instruction: str, input: str) -> str:
    """Returns the training text without its response.

    It ends right before the response; without `train_on_inputs` its tokens
    carry no loss (BIGRec train.py).
    """
    if self.style == "chat":
      return self._turn(instruction, input)
    if self.style == "sentence":
      return f"{input} {instruction}".lstrip()
    if self.style == "d3":
      return _d3_header(instruction) + _d3_question(input)
    return self._render(instruction, input, _TRAINING_END)

  def training_text(self, instruction: str, input: str, output: str) -> str:
    """Returns prompt and response, ending right after the response."""
    return self.prompt_text(instruction, input) + output

  def inference_text(self, instruction: str, input: str) -> str:
    """Returns the prompt that generation continues."""
    if self.style in ("chat", "d3", "sentence"):
      return self.prompt_text(instruction, input)
    return self._render(instruction, input, _INFERENCE_END)

  def _turn(self, instruction: str, input: str) -> str:
    if self.render_turn is None:
      raise ValueError("style chat without a chat template")
    return self.render_turn(f"{instruction}\n\n{input}".strip())

  def _render(self, instruction: str, input: str, ends: dict[str, str]) -> str:
    """Returns the prompt; `ends` by style is what ends the first line."""
    if not input:
      return (
        f"{_WITHOUT_INPUT}{_WITHOUT_INPUT_END[self.style]}\n\n"
        f"### Instruction:\n{instruction}\n\n### {RESPONSE_MARKER}"
      )
    return (
      f"{_WITH_INPUT}{ends[self.style]}\n\n### Instruction:\n{instruction}\n\n"
      f"### Input:\n{input}\n\n### {RESPONSE_MARKER}"
    )


def _d3_header(instruction: str) -> str:
  return f"{_WITH_INPUT} \n\n### Instruction:\n{instruction}\n"


def _d3_question(input: str) -> str:
  return f"### User Input: \n{input}\n\n### Response: \n"


def response_text(generated: str) -> str:
  """Returns what follows the last response marker, all text if there is none.

  The published inference.py splits the whole decoded text, so a model that
  writes the marker itself loses what it wrote before (quirk 10).
  """
  return generated.rpartition(RESPONSE_MARKER)[2]


def clean_title(text: str) -> str:
  """Strips white space and double quotes, in any order, from both ends.

  The published scripts strip differently in four places (quirk 17), so a
  prediction with a trailing newline keeps its closing quote there and an
  exact title is not at distance 0. One rule for catalogue titles and
  predictions makes equal titles equal; it is idempotent.
  """
  return text.strip(_STRIPPED)


def extract_title(generated: str) -> str:
  """Returns the cleaned title in the text that a model generated."""
  return clean_title(response_text(generated))
