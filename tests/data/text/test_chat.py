"""Prompts in a model's chat template, against transformers' rendering."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from bigrec_jax import config as config_lib, errors
from bigrec_jax.data.text import chat, encoding, prompts, tokenization
from bigrec_jax.tasks import next_title

pytestmark = pytest.mark.torch
transformers = pytest.importorskip("transformers")

CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content']"
  " + '<|im_end|>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's: with BOS, the date, and trimmed turns.
LLAMA3 = (
  "{% if not date_string is defined %}{% set date_string ="
  " strftime_now('%d %b %Y') %}{% endif %}"
  "{{ bos_token }}{{ 'Today ' + date_string + '\n' }}"
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' +"
  " m['content'] | trim + '<|im_end|>' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
INSTRUCTION, INPUT = "Recommend a game.", 'The user has played:"A", "B"\n '


def make(directory, template, eos="<|im_end|>", add_bos=False):
  """A small tokenizer with the two tokens of a turn and a template."""
  tokenization.train_bpe(["the game of games"] * 3, 270, directory)
  file = directory / "tokenizer.json"
  tokenizer = tokenizers.Tokenizer.from_file(str(file))
  tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
  if not add_bos:  # The file says it, whatever the settings say.
    tokenizer.post_processor = processors.Sequence([])
  tokenizer.save(str(file))
  settings = json.loads((directory / "tokenizer_config.json").read_text())
  settings |= {"eos_token": eos, "add_bos_token": add_bos}
  if template:
    settings["chat_template"] = template
  (directory / "tokenizer_config.json").write_text(json.dumps(settings))
  chat._tokenizer.cache_clear()
  return tokenization.load_tokenizer(directory)


def section(style="chat"):
  return config_lib.PromptConfig(style, INSTRUCTION, "The user has played:")


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_a_training_text_is_the_conversation(template, add_bos, tmp_path):
  tokenizer = make(tmp_path, template, add_bos=add_bos)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  turns = chat.Chat(tmp_path, tokenizer)
  prompt = prompts.Prompt.from_config(section(), turns.prompt)
  user = {"role": "user", "content": f"{INSTRUCTION}\n\n{INPUT}".strip()}
  answer = {"role": "assistant", "content": '"the game"'}

  def ids(turns, open_end):
    text = theirs.apply_chat_template(
      turns,
      tokenize=False,
      add_generation_prompt=open_end,
      date_string="26 Jul 2024",
    )
    found = theirs.encode(text, add_special_tokens=False)
    has_bos = found[0] == theirs.bos_token_id
    return found if has_bos or not add_bos else [theirs.bos_token_id, *found]

  question = prompt.inference_text(INSTRUCTION, INPUT)
  assert question == prompt.prompt_text(INSTRUCTION, INPUT)
  assert tokenizer.encode(question) == ids([user], True)
  text = next_title.text_of(
    next_title.Parts(INSTRUCTION, INPUT, '"the game"'), prompt
  )
  (example,) = encoding.Encoder(
    tokenizer, max_length=999, train_on_inputs=False
  ).encode_batch([text])
  expected = ids([user, answer], False)
  if template == CHATML:  # The line break after a turn is nobody's to learn.
    assert theirs.decode(expected[-1:]) == "\n"
    expected = expected[:-1]
  np.testing.assert_array_equal(example.tokens, expected)
  assert example.tokens[-1] == tokenizer.eos_id
  labels = example.tokens[example.first_label :]
  assert tokenizer.decode(labels) == '"the game"'


def test_templates_have_names_of_their_own(tmp_path):
  for name, template in (("a", CHATML), ("b", LLAMA3)):
    (tmp_path / name).mkdir()
    make(tmp_path / name, template)
  one, other, again = (
    chat.Chat(tmp_path / name, tokenization.load_tokenizer(tmp_path / name))
    for name in ("a", "b", "a")
  )
  assert one.fingerprint == again.fingerprint != other.fingerprint


def test_what_is_no_instruct_model_is_refused(tmp_path):
  tokenizer = make(tmp_path, None)
  with pytest.raises(errors.UserError, match="no chat template found"):
    chat.Chat(tmp_path, tokenizer)
  tokenizer = make(tmp_path, CHATML, eos="</s>")
  with pytest.raises(errors.UserError, match="end-of-sequence token '</s>' ex"):
    chat.Chat(tmp_path, tokenizer)
  tokenizer = make(tmp_path, "{{ raise_exception('users only') }}")
  with pytest.raises(errors.UserError, match="template fails: users only"):
    chat.Chat(tmp_path, tokenizer)
