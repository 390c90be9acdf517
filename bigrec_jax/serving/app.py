"""The HTTP side: paths, limits, ids, answers; all else is the engine's."""

import asyncio
import dataclasses
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from absl import logging
from starlette import applications, exceptions, responses, routing
from starlette.requests import ClientDisconnect, Request

from bigrec_jax import errors
from bigrec_jax.config import ServeConfig
from bigrec_jax.recommend import recommendations
from bigrec_jax.serving import (
  engine as engine_lib,
  keeper as keeper_lib,
  logs,
  metrics as metrics_lib,
  openapi,
  refusals,
  requests,
  waiting,
)

_ID = "x-request-id"
# Of whoever asks, where it can be written to a log as it is.
_KNOWN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_JSON = "application/json"
_SHOWN_PATH = 200  # Characters.
Handler = Callable[[Request, bytes], Awaitable[responses.Response]]


class App:
  """Answers requests; `asgi` is what a web server runs.

  Attributes:
    asgi: the application.
    draining: set while the server is being stopped: it isn't ready any more.
  """

  def __init__(
    self,
    engine: engine_lib.Engine,
    keeper: keeper_lib.Keeper,
    token: str,
  ):
    """Makes the routes.

    Args:
      engine: makes the lists.
      keeper: changes the catalogue.
      token: that a request must bear; "" = none.
    """
    self._engine, self._keeper = engine, keeper
    limits: ServeConfig = engine.config
    self._limits = limits
    self._token = token.encode()
    self._metrics = metrics_lib.Metrics(engine, keeper)
    own = engine.recommender.config.recommend
    self._defaults = requests.Defaults(
      min(own.k, limits.max_k), own.exclude_history, own.unknown
    )
    self.draining = False
    self._one_search, self._one_change = asyncio.Lock(), asyncio.Lock()
    self._routes = [
      self._route("/v1/recommend", "POST", self._recommend),
      self._route("/v1/catalogue", "GET", self._catalogue),
      self._route("/v1/catalogue", "POST", self._add),
      self._route("/v1/catalogue/withdraw", "POST", self._withdraw),
      self._route("/v1/catalogue/reload", "POST", self._reload),
      self._route("/v1/catalogue/rollback", "POST", self._roll_back),
      routing.Route("/health/live", _live),
      routing.Route("/health/ready", self._ready),
      routing.Route("/metrics", self._measured),
      routing.Route("/openapi.json", self._described),
      routing.Route("/docs", self._page),
    ]
    self.asgi = applications.Starlette(
      routes=self._routes,
      exception_handlers={404: self._lost, 405: self._lost},
    )

  def _route(self, path: str, method: str, handler: Handler) -> routing.Route:
    async def endpoint(request: Request) -> responses.Response:
      return await self._answer(request, path, handler)

    return routing.Route(path, endpoint, methods=[method])

  async def _answer(
    self, request: Request, path: str, handler: Handler
  ) -> responses.Response:
    """Answers one request: checks, id, counters, and a line of the log."""
    start, own_id, problem = time.monotonic(), _request_id(request), ""
    try:
      self._check(request)
      response = await handler(request, await self._body(request))
    except ClientDisconnect:
      response, problem = responses.Response(status_code=499), "client left"
    except refusals.RefusedError as error:
      problem = str(error)
      response = _refused(error, own_id)
    except (errors.UserError, errors.NonFiniteError) as error:
      problem = errors.one_line(str(error))
      response = _refused(refusals.RefusedError(500, problem), own_id)
    except Exception:
      logging.exception("serve: request %s failed", own_id)
      problem = "internal error; the log has this request id"
      response = _refused(refusals.RefusedError(500, problem), own_id)
    seconds = time.monotonic() - start
    self._metrics.seconds.labels(path).observe(seconds)
    return self._counted(response, request, path, own_id, seconds, problem)

  async def _lost(
    self, request: Request, error: Exception
  ) -> responses.Response:
    """Answers what no route takes: another path, or another method."""
    assert isinstance(error, exceptions.HTTPException)
    own_id, path = _request_id(request), request.url.path[:_SHOWN_PATH]
    problem = f"{request.method} {path}: not here; GET /docs lists what is"
    response = _refused(
      refusals.RefusedError(error.status_code, problem), own_id
    )
    if error.status_code == 405:
      routes = [r for r in self._routes if r.path == request.url.path]
      allowed = set().union(*(route.methods or () for route in routes))
      response.headers["allow"] = ", ".join(sorted(allowed))
    # Whoever asks must not name the counters: each name stays in memory.
    return self._counted(response, request, "other", own_id, 0.0, problem)

  def _counted(
    self,
    response: responses.Response,
    request: Request,
    path: str,
    own_id: str,
    seconds: float,
    problem: str,
  ) -> responses.Response:
    """Counts and logs an answer, and puts the request's id on it."""
    response.headers[_ID] = own_id
    self._metrics.requests.labels(path, response.status_code).inc()
    logs.request(
      request_id=own_id,
      method=request.method,
      path=path,
      status=response.status_code,
      milliseconds=round(1e3 * seconds, 2),
      **({"problem": problem} if problem else {}),
    )
    return response

  def _check(self, request: Request) -> None:
    """Raises RefusedError where nothing need be read to refuse."""
    if self._token:
      kind, _, given = request.headers.get("authorization", "").partition(" ")
      known = hmac.compare_digest(given.strip().encode(), self._token)
      if kind.lower() != "bearer" or not known:
        raise refusals.RefusedError(
          401, "authorization: a bearer token expected", "authorization"
        )
    if self.draining:
      raise refusals.closing()
    if not self._engine.ready.is_set():
      raise refusals.RefusedError(
        503, "programs are being compiled (/health/ready)", retry_after=5
      )

  async def _body(self, request: Request) -> bytes:
    """Returns the body, read no further than its limit, and not for ever."""
    most = self._limits.max_body_kib << 10
    beyond = refusals.too_large(
      "body",
      f"body: more than {most:,} bytes found, at most that many expected"
      " (config.serve.max_body_kib)",
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and len(length) < 20 and int(length) > most:
      raise beyond
    body = bytearray()
    try:
      async with asyncio.timeout(self._limits.read_seconds):
        async for part in request.stream():
          body += part
          if len(body) > most:
            raise beyond
    except TimeoutError:
      raise refusals.RefusedError(
        408,
        f"body: not all read after {self._limits.read_seconds:g} s"
        " (config.serve.read_seconds)",
      ) from None
    return bytes(body)

  async def _recommend(
    self, request: Request, body: bytes
  ) -> responses.Response:
    ask = requests.recommend(body, self._limits, self._defaults)
    asked = await self._submitted(ask)
    lists = await self._wait(request, asked)
    self._metrics.users.inc(len(lists))
    return _json(await asyncio.to_thread(self._lists, lists))

  async def _submitted(self, ask: requests.Ask) -> waiting.Request:
    """Has titles looked up and tokenised beside the loop."""
    if ask.unknown != "nearest":
      return await asyncio.to_thread(self._engine.submit, ask)
    # Searches of a large catalogue take seconds: one thread, and no more.
    try:
      async with asyncio.timeout(ask.deadline_ms / 1e3):
        await self._one_search.acquire()
    except TimeoutError:
      raise refusals.expired() from None
    try:
      return await asyncio.to_thread(self._engine.submit, ask)
    finally:
      self._one_search.release()

  async def _changed(
    self, act: Callable[..., dict[str, Any]], *arguments: Any
  ) -> responses.Response:
    """Has the keeper change something; others wait without a thread.

    There are few threads, and whoever asks for lists needs one for a moment.
    """
    async with self._one_change:
      return _json(await asyncio.to_thread(act, *arguments))

  async def _wait(
    self, request: Request, asked: waiting.Request
  ) -> list[recommendations.Recommendations]:
    """Returns the lists, unless the client leaves or the deadline passes."""
    answer = asyncio.wrap_future(asked.answer)
    gone = asyncio.ensure_future(_left(request))
    left = max(0.0, asked.deadline - time.monotonic())
    try:
      await asyncio.wait(
        (answer, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED
      )
      if answer.done():
        return answer.result()
      if gone.done():
        raise ClientDisconnect
      raise refusals.expired()
    finally:
      gone.cancel()
      # The engine lets go of whoever is over.
      answer.cancel()
      asked.answer.cancel()

  def _lists(
    self, lists: list[recommendations.Recommendations]
  ) -> dict[str, Any]:
    common = _plain(dataclasses.asdict(self._engine.recommender.provenance))
    return {
      "recommendations": [list(map(_item, own)) for own in lists],
      "provenance": common,
      "details": [_details(own, common) for own in lists],
    }

  async def _catalogue(
    self, request: Request, body: bytes
  ) -> responses.Response:
    return _json(self._keeper.state())

  async def _add(self, request: Request, body: bytes) -> responses.Response:
    items = await asyncio.to_thread(requests.added, body)
    return await self._changed(self._keeper.add, items)

  async def _withdraw(
    self, request: Request, body: bytes
  ) -> responses.Response:
    ids = requests.withdrawn(body)
    return await self._changed(self._keeper.withdraw, ids)

  async def _reload(self, request: Request, body: bytes) -> responses.Response:
    requests.nothing(body)
    return await self._changed(self._keeper.reload)

  async def _roll_back(
    self, request: Request, body: bytes
  ) -> responses.Response:
    requests.nothing(body)
    return await self._changed(self._keeper.roll_back)

  async def _ready(self, request: Request) -> responses.Response:
    if self.draining:
      return _json({"status": "stopping"}, 503)
    if not self._engine.ready.is_set():
      return _json({"status": "compiling"}, 503)
    return _json({"status": "ready"})

  async def _measured(self, request: Request) -> responses.Response:
    return responses.Response(
      self._metrics.text(), media_type=metrics_lib.CONTENT_TYPE
    )

  async def _described(self, request: Request) -> responses.Response:
    return _json(openapi.document(self._limits, bool(self._token)))

  async def _page(self, request: Request) -> responses.Response:
    page = openapi.page(openapi.document(self._limits, bool(self._token)))
    return responses.HTMLResponse(page)


async def _live(request: Request) -> responses.Response:
  return _json({"status": "live"})


def _request_id(request: Request) -> str:
  given = request.headers.get(_ID, "")
  return given if _KNOWN_ID.fullmatch(given) else secrets.token_hex(8)


async def _left(request: Request) -> None:
  """Returns once the client has closed the connection."""
  while (await request.receive())["type"] != "http.disconnect":
    pass


def _refused(
  error: refusals.RefusedError, request_id: str
) -> responses.Response:
  content: dict[str, Any] = {"message": errors.one_line(str(error))}
  if error.field:
    content["field"] = error.field
  response = _json({"error": content, "request_id": request_id}, error.status)
  if error.retry_after is not None:
    response.headers["retry-after"] = str(error.retry_after)
  if error.status == 401:
    response.headers["www-authenticate"] = "Bearer"
  if error.status in (408, 413):
    # What is left of the body is not read.
    response.headers["connection"] = "close"
  return response


def _json(value: Any, status: int = 200) -> responses.Response:
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  # A title may hold half of a surrogate pair, which UTF-8 has not.
  content = text.encode("utf-8", "replace")
  return responses.Response(content, status, media_type=_JSON)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
  """Returns fields without those that say nothing."""
  return {key: value for key, value in values.items() if value is not None}


def _item(item: recommendations.Recommendation) -> dict[str, Any]:
  fields = {
    field.name: getattr(item, field.name)
    for field in dataclasses.fields(item)
    if field.name != "provenance"
  }
  return _plain(fields)


def _details(
  own: recommendations.Recommendations, common: dict[str, Any]
) -> dict[str, Any]:
  """Returns what is known of one list beside its items."""
  fields = {
    field.name: getattr(own, field.name)
    for field in dataclasses.fields(own)
    if field.name not in ("items", "provenance")
  }
  origin = _plain(dataclasses.asdict(own.provenance))
  other = {k: v for k, v in origin.items() if common.get(k) != v}
  return _plain(fields) | other
