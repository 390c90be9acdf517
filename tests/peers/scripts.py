"""What the published train.py and inference.py do with text, in plain words.

docs/protocol.md (Training, Prompts); strings are written out once more here,
so that a slip in bigrec_jax/data/text/prompts.py cannot hide.
"""

from collections.abc import Callable

_BEFORE_INPUT = (
  "Below is an instruction that describes a task, paired with an input that"
  " provides further context. Write a response that appropriately completes"
  " the request."
)
_ALONE = (
  "Below is an instruction that describes a task. Write a response that"
  " appropriately completes the request.  "
)


def training_text(instruction: str, input: str, output: str) -> str:
  """Returns what train.py tokenises: one blank ends the header."""
  return _text(_BEFORE_INPUT + " ", instruction, input) + output


def inference_text(instruction: str, input: str) -> str:
  """Returns what inference.py tokenises: two blanks end the header."""
  return _text(_BEFORE_INPUT + "  ", instruction, input)


def _text(header: str, instruction: str, input: str) -> str:
  lines = [header if input else _ALONE, "", "### Instruction:", instruction]
  if input:
    lines += ["", "### Input:", input]
  return "\n".join([*lines, "", "### Response:", ""])


def labelled(
  row: dict[str, str],
  encode: Callable[[str], list[int]],
  eos_id: int,
  cutoff: int,
  train_on_inputs: bool,
) -> tuple[list[int], list[int]]:
  """Returns token ids and labels of a row; -100 is no label.

  Args:
    row: instruction, input and output.
    encode: text to ids, with BOS where the tokenizer adds it.
    eos_id: appended if it fits and isn't there.
    cutoff: the most tokens, kept from the left.
    train_on_inputs: whether the prompt's tokens are labels.
  """
  text = training_text(row["instruction"], row["input"], row["output"])
  ids = encode(text)[:cutoff]
  if len(ids) < cutoff and ids[-1] != eos_id:
    ids = [*ids, eos_id]
  if train_on_inputs:
    return ids, ids
  prompt = training_text(row["instruction"], row["input"], "")
  hidden = len(encode(prompt)[:cutoff])
  return ids, [-100] * hidden + ids[hidden:]


def prediction(decoded: str) -> str:
  """Returns the prediction that inference.py keeps of a decoded sequence."""
  return decoded.split("Response:\n")[-1]
