"""Beam search of transformers 4.28.1, the version the paper ran with.

That version cannot live beside ours, so its results are a golden file. In an
environment with transformers==4.28.1 and torch:

  python -m tests.reference.old_generate

The weights are drawn by numpy here and in the test alike.
"""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden" / "transformers_4_28.json"
VOCAB, WIDTH, MLP, LAYERS, HEADS, EOS = 67, 24, 40, 2, 4, 2
BATCH, BEAMS = 8, 4
SETTINGS = [
  {"max_new_tokens": tokens, "length_penalty": penalty, "early_stopping": early}
  for tokens in (6, 14)
  for penalty in (0.0, 1.0, 2.0)
  for early in (False, True)
]


def weights() -> dict[str, np.ndarray]:
  """Returns Hugging Face tensors of a tiny LLaMA with lively logits."""
  rng = np.random.default_rng(17)

  def draw(*shape: int, scale: float = 0.1) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)

  found = {"model.embed_tokens.weight": draw(VOCAB, WIDTH)}
  for layer in range(LAYERS):
    prefix = f"model.layers.{layer}"
    for name in "qkvo":
      found[f"{prefix}.self_attn.{name}_proj.weight"] = draw(WIDTH, WIDTH)
    for name in ("gate", "up"):
      found[f"{prefix}.mlp.{name}_proj.weight"] = draw(MLP, WIDTH)
    found[f"{prefix}.mlp.down_proj.weight"] = draw(WIDTH, MLP)
    for name in ("input", "post_attention"):
      found[f"{prefix}.{name}_layernorm.weight"] = 1 + draw(WIDTH)
  found["model.norm.weight"] = 1 + draw(WIDTH)
  head = draw(VOCAB, WIDTH, scale=0.5)
  head[EOS] *= 1.6  # EOS in some hypotheses and not in others.
  found["lm_head.weight"] = head
  return found


def prompts() -> list[list[int]]:
  """Returns prompts of 3 to 29 tokens."""
  rng = np.random.default_rng(18)
  lengths = rng.integers(3, 30, 3 * BATCH)
  return [rng.integers(3, VOCAB, length).tolist() for length in lengths]


def main() -> None:
  """Writes the golden file."""
  import torch
  import transformers

  config = transformers.LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=MLP,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    rms_norm_eps=1e-6,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=EOS,
  )
  torch.set_num_threads(1)
  model = transformers.LlamaForCausalLM(config).eval()
  state = {name: torch.from_numpy(w) for name, w in weights().items()}
  missing = model.load_state_dict(state, strict=False)
  assert all(name.endswith("inv_freq") for name in missing.missing_keys)
  found = []
  for settings in SETTINGS:
    tokens, scores = [], []
    for start in range(0, len(prompts()), BATCH):
      batch = prompts()[start : start + BATCH]
      width = max(map(len, batch))
      ids = torch.zeros((BATCH, width), dtype=torch.long)
      mask = torch.zeros_like(ids)
      for row, prompt in enumerate(batch):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
      with torch.no_grad():
        result = model.generate(
          input_ids=ids,
          attention_mask=mask,
          num_beams=BEAMS,
          num_return_sequences=BEAMS,
          return_dict_in_generate=True,
          output_scores=True,
          **settings,
        )
      rows = result.sequences[:, width:].tolist()
      rows = [r[: r.index(EOS) + 1] if EOS in r else r for r in rows]
      tokens += [rows[n : n + BEAMS] for n in range(0, len(rows), BEAMS)]
      scores += result.sequences_scores.reshape(-1, BEAMS).tolist()
    found.append({**settings, "tokens": tokens, "scores": scores})
  version = {"transformers": transformers.__version__}
  GOLDEN.write_text(json.dumps({**version, "results": found}) + "\n")


if __name__ == "__main__":
  main()
