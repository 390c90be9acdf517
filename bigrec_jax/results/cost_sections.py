"""The section of the report on time and money."""

from bigrec_jax.results import page, run_data


def costs(data: run_data.RunData, price_per_hour: float) -> page.Html:
  """Returns how fast each stage was, and what it cost.

  Args:
    data: the workdir.
    price_per_hour: of the machine; 0 = not known.
  """
  if not data.throughput:
    return page.missing(
      "metrics/throughput.json", "Every stage writes its figures there."
    )
  known = [row.get("seconds") or 0.0 for row in data.throughput.values()]
  total = sum(known)
  headers = ["stage", "done", "time", "share", "speed"]
  headers += ["cost"] if price_per_hour else []
  rows = []
  for stage, row in data.throughput.items():
    unit, speed = row.get("unit", ""), row.get("per_second")
    seconds = row.get("seconds")
    line: list[object] = [
      stage,
      page.join([row.get("count"), " ", unit]),
      None if seconds is None else duration(seconds),
      None if seconds is None or not total else f"{seconds / total:.0%}",
      None if speed is None else f"{_short(speed)} {unit}/s",
    ]
    if price_per_hour:
      line.append(None if seconds is None else _price(seconds, price_per_hour))
    rows.append(line)
  last: list[object] = ["all", None, duration(total), None, None]
  rows.append(
    last + ([_price(total, price_per_hour)] if price_per_hour else [])
  )
  caption = "Each stage's last run in this workdir, compilation included."
  if price_per_hour:
    caption += f" Cost at {price_per_hour:g} an hour of this machine."
  else:
    caption += " --config.report.price_per_hour adds what it cost."
  return page.table(headers, rows, caption)


def money(seconds: float, price_per_hour: float) -> str:
  """Returns what a time costs, "" where no price is known."""
  if not price_per_hour:
    return ""
  return f"{_price(seconds, price_per_hour)} at {price_per_hour:g} an hour"


def duration(seconds: float) -> str:
  """Returns a time in words."""
  if seconds < 60:
    return f"{_short(seconds)} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _price(seconds: float, price_per_hour: float) -> str:
  value = seconds / 3600 * price_per_hour
  return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def _short(value: float) -> str:
  """Returns three digits of a small number, all whole ones of a large."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
