"""One JSON object a line on stderr for whatever a server has to say."""

import datetime
import json
import logging
import sys
from typing import Any

_LOGGER = logging.getLogger("bigrec_jax.serve")


class _Json(logging.Formatter):
  """A record as a JSON object: time, level, message, and what it adds."""

  def format(self, record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    line: dict[str, Any] = {
      "time": moment.isoformat(timespec="milliseconds"),
      "level": record.levelname.lower(),
      "message": record.getMessage(),
    }
    line |= getattr(record, "more", {})
    if record.exc_info:
      line["exception"] = self.formatException(record.exc_info)
    return json.dumps(line, ensure_ascii=False)


def set_up() -> None:
  """Makes every record of this process a line of JSON."""
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(_Json())
  for each in logging.root.handlers:  # Theirs decide what is news.
    for wanted in each.filters:
      handler.addFilter(wanted)
  logging.root.handlers[:] = [handler]
  _LOGGER.setLevel(logging.INFO)


def request(**fields: Any) -> None:
  """Writes the line of a request that was answered."""
  _LOGGER.info("request", extra={"more": fields})
