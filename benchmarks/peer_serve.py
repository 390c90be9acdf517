"""transformers and PEFT behind Starlette and uvicorn; run by serve.py.

  python -m benchmarks.peer_serve WORKDIR THREADS

What such servers mostly are: the model in memory, a lock around it, one
request after the other. Prompt, weights, beams and the catalogue's vectors are
the workdir's; the adapter is merged for writing, and the base embeds what was
written. The list is of the items nearest to the best text, whatever that is:
what `--mode=serve` does without injection and `recommend.fallback`.
"""

import asyncio
import json
import socket
import sys
import threading

import numpy as np
import peft
import torch
import transformers
import uvicorn
from starlette import applications, requests, responses, routing

from benchmarks import serving
from bigrec_jax.data.text import encoding, prompts
from bigrec_jax.recommend import finished, shelf


class Peer:
  """Makes one list at a time."""

  def __init__(self, workdir: str):
    self.loaded = serving.load(workdir, fallback=False)
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    self._base = self._load()
    adapter = finished.find_adapter(self.loaded)
    tuned = peft.PeftModel.from_pretrained(self._load(), str(adapter))
    self._tuned = tuned.merge_and_unload().eval()
    items = finished.load_embeddings(self.loaded)
    # With what was added later, and without what was withdrawn.
    offered = shelf.Shelf(self.loaded, items, 0)
    self._items = torch.from_numpy(np.array(offered.vectors)).to(self._device)
    self._listed = offered.allowed(None)
    self._lock = threading.Lock()
    generate = self.loaded.config.generate
    tokenizer = self.loaded.tokenizer
    self._settings = transformers.GenerationConfig(
      num_beams=generate.num_beams,
      num_return_sequences=generate.num_beams,
      max_new_tokens=generate.max_new_tokens,
      length_penalty=generate.length_penalty,
      early_stopping=generate.early_stopping,
      do_sample=False,
      eos_token_id=list(tokenizer.eos_ids),
      pad_token_id=tokenizer.eos_id,
    )

  def _load(self) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(
      self.loaded.base_dir, dtype=getattr(torch, self.loaded.config.model.dtype)
    )
    return model.eval().to(self._device)

  def __call__(self, history: list[str], k: int) -> list[dict]:
    """Returns the list of one history of ids."""
    loaded, catalogue = self.loaded, self.loaded.offered
    found = map(catalogue.index_of_external_id, history)
    rows = [row for row in found if row is not None]
    newest = loaded.config.data.max_history
    titles = [catalogue.titles[row] for row in rows][-newest:]
    prompt = loaded.prompt
    asked = prompt.instruction, prompt.input_text(titles)
    (tokens,) = encoding.encode_questions(
      loaded.tokenizer, [(prompt.inference_text(*asked), prompt.seams(*asked))]
    )
    with self._lock, torch.inference_mode():
      given = torch.tensor([tokens], device=self._device)
      written = self._tuned.generate(
        given,
        attention_mask=torch.ones_like(given),
        generation_config=self._settings,
      )
      text = loaded.tokenizer.decode(written[0, len(tokens) :].tolist())
      title = prompts.extract_title(prompts.response_text(text))
      (ids,) = loaded.tokenizer.encode_data([title])
      ids = ids or [loaded.tokenizer.eos_id]
      states = self._base.model(
        torch.tensor([ids], device=self._device)
      ).last_hidden_state[0, -1]
      distances = torch.linalg.vector_norm(
        self._items - states.float()[None], dim=1
      ).cpu()
    order = torch.argsort(distances, stable=True).tolist()
    hidden = {catalogue.groups[row] for row in rows}
    listed = []
    for row in order:
      shown = self._listed is None or self._listed[row]
      if shown and catalogue.groups[row] not in hidden:
        hidden.add(catalogue.groups[row])
        listed.append(
          {
            "external_id": catalogue.external_ids[row],
            "title": catalogue.titles[row],
            "distance": distances[row].item(),
          }
        )
        if len(listed) == k:
          break
    return listed


def main(workdir: str, threads: int) -> None:
  """Loads, says where it listens, and serves until it is ended."""
  torch.set_num_threads(threads)
  peer = Peer(workdir)

  async def recommend(request: requests.Request) -> responses.Response:
    body = json.loads(await request.body())
    lists = [
      await asyncio.to_thread(peer, history, body["k"])
      for history in body["histories"]
    ]
    return responses.JSONResponse({"recommendations": lists})

  async def ready(request: requests.Request) -> responses.Response:
    return responses.JSONResponse({"status": "ready"})

  app = applications.Starlette(
    routes=[
      routing.Route("/v1/recommend", recommend, methods=["POST"]),
      routing.Route("/health/ready", ready),
    ]
  )
  sock = socket.create_server(("127.0.0.1", 0))
  sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # As ours does.
  print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
  config = uvicorn.Config(app, log_config=None, lifespan="off")
  uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]))
