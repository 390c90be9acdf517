"""What the server answers, as an OpenAPI document and as a page of it."""

import html
import importlib.metadata
import json
from typing import Any

from bigrec_jax.config import ServeConfig
from bigrec_jax.data.prepared import histories as histories_lib

_ID = {"type": "string", "description": "An external id, or a title."}


def document(config: ServeConfig, has_token: bool) -> dict[str, Any]:
  """Returns the OpenAPI 3.1 document.

  Args:
    config: whose limits it names.
    has_token: whether requests must bear a token.
  """
  found: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
      "title": "bigrec_jax",
      "version": importlib.metadata.version("bigrec_jax"),
      "description": "Lists of catalogue items for histories.",
    },
    "paths": {
      "/v1/recommend": {"post": _recommend(config)},
      "/v1/catalogue": {
        "get": _operation("What is offered, in numbers.", None, _state()),
        "post": _operation(
          "Adds items; answers once they are recommendable.",
          _object(items=_array(_object(external_id=_text(), title=_text()))),
          _state(new=_whole(), known=_whole(), restored=_whole()),
          (400, 409, 413, 507),
        ),
      },
      "/v1/catalogue/withdraw": {
        "post": _operation(
          "Lists these items no more.",
          _object(external_ids=_array(_text())),
          _state(),
          (400, 409, 413),
        )
      },
      "/v1/catalogue/reload": {
        "post": _operation(
          "Shows the edition that counts on disk.", None, _state(), (409,)
        )
      },
      "/v1/catalogue/rollback": {
        "post": _operation(
          "Shows the edition before the present one.", None, _state(), (409,)
        )
      },
      "/health/live": {"get": _operation("200 while the process runs.")},
      "/health/ready": {
        "get": _operation(
          "200 once every program is compiled, until the server is stopped.",
          refusals=(503,),
        )
      },
      "/metrics": {"get": _operation("Counters and gauges, for Prometheus.")},
    },
  }
  if has_token:
    scheme = {"type": "http", "scheme": "bearer"}
    found["components"] = {"securitySchemes": {"token": scheme}}
    for path, operations in found["paths"].items():
      if path.startswith("/v1/"):
        for operation in operations.values():
          operation["security"] = [{"token": []}]
          operation["responses"]["401"] = {"description": _REFUSALS[401]}
  return found


_REFUSALS = {
  400: "A field is wrong; error.field names it.",
  401: "No bearer token, or another one.",
  408: "The body took too long.",
  409: "It doesn't fit the catalogue as it is.",
  413: "The body, a history or a prompt is beyond its limit.",
  429: "Too many wait; Retry-After says when to try again.",
  503: "Programs are being compiled, or the server is being stopped.",
  504: "The deadline passed.",
  507: "There is no room for more items.",
}


def page(described: dict[str, Any]) -> str:
  """Returns an HTML page of a document, which loads nothing from elsewhere."""
  parts = []
  for path, operations in described["paths"].items():
    for method, operation in operations.items():
      parts.append(
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
      )
      parts.append(f"<p>{html.escape(operation['summary'])}</p>")
      if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]
        parts.append(f"<h3>Body</h3>{_shown(schema['schema'])}")
      rows = []
      for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json", {})
        cell = html.escape(answer["description"])
        cell += _shown(content["schema"]) if content else ""
        rows.append(f"<tr><th>{status}</th><td>{cell}</td></tr>")
      parts.append(f"<h3>Answers</h3><table>{''.join(rows)}</table>")
  title = html.escape(described["info"]["title"])
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{title}</title><style>{_STYLE}</style></head><body>"
    f'<h1>{title}</h1><p><a href="openapi.json">openapi.json</a></p>'
    f"{''.join(parts)}</body></html>"
  )


_STYLE = (
  ":root{color-scheme:light dark}body{font:16px/1.5 system-ui;margin:2rem auto;"
  "max-width:60rem;padding:0 1rem}pre{overflow-x:auto}th{vertical-align:top;"
  "padding-right:1rem;text-align:left}"
)


def _shown(schema: dict[str, Any]) -> str:
  return f"<pre>{html.escape(json.dumps(schema, indent=2))}</pre>"


def _recommend(config: ServeConfig) -> dict[str, Any]:
  ids = {"type": ["array", "null"], "items": _ID}
  history = _array(_ID, maxItems=config.max_history)
  body = _object(
    histories=_array(history, maxItems=config.max_histories),
    k=_whole(minimum=1, maximum=config.max_k),
    exclude_history={"type": "boolean"},
    allow=ids,
    deny=ids,
    deadline_ms={"type": "number", "maximum": config.deadline_ms},
    unknown={"enum": list(histories_lib.UNKNOWN)},
  )
  body["required"] = ["histories"]
  item = {
    "type": "object",
    "required": ["external_id", "title", "score"],
    "properties": {
      "external_id": _text(),
      "title": _text(),
      "score": {"type": "number"},
      "distance": {"type": "number"},
      "popularity": {"type": "number"},
      "cf_rank": _whole(),
    },
  }
  answer = _object(
    recommendations=_array(_array(item)),
    provenance={"type": "object"},
    details=_array({"type": "object"}),
  )
  refused = (400, 408, 413, 429, 503, 504)
  return _operation("A list for each history.", body, answer, refused)


def _state(**more: Any) -> dict[str, Any]:
  names = ("version", "items", "added", "withdrawn", "room")
  return _object(
    **{name: _whole() for name in names}, fingerprint=_text(), **more
  )


def _operation(
  summary: str,
  body: dict[str, Any] | None = None,
  answer: dict[str, Any] | None = None,
  refusals: tuple[int, ...] = (),
) -> dict[str, Any]:
  good: dict[str, Any] = {"description": "The answer."}
  if answer is not None:
    good["content"] = {"application/json": {"schema": answer}}
  found: dict[str, Any] = {
    "summary": summary,
    "responses": {"200": good}
    | {str(s): {"description": _REFUSALS[s]} for s in refusals},
  }
  if body is not None:
    content = {"application/json": {"schema": body}}
    found["requestBody"] = {"required": True, "content": content}
  return found


def _object(**properties: Any) -> dict[str, Any]:
  return {"type": "object", "properties": properties}


def _array(items: dict[str, Any], **limits: Any) -> dict[str, Any]:
  return {"type": "array", "items": items, **limits}


def _text() -> dict[str, Any]:
  return {"type": "string"}


def _whole(**limits: Any) -> dict[str, Any]:
  return {"type": "integer", **limits}
