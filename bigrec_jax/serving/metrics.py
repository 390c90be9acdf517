"""What Prometheus reads of a server; docs/serve.md lists the names."""

import prometheus_client as prometheus
from prometheus_client import core, registry

from bigrec_jax.serving import engine as engine_lib, keeper as keeper_lib

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
  """Counters of one server, and gauges read from it when asked.

  Attributes:
    requests: by path and status.
    seconds: from a request's head to its answer, by path.
    users: histories that were answered.
  """

  def __init__(self, engine: engine_lib.Engine, keeper: keeper_lib.Keeper):
    """Makes a registry of its own, so that servers don't mix."""
    self._registry = prometheus.CollectorRegistry()
    self.requests = prometheus.Counter(
      "bigrec_requests",
      "Requests that were answered.",
      ("path", "status"),
      registry=self._registry,
    )
    self.seconds = prometheus.Histogram(
      "bigrec_request_seconds",
      "Seconds from a request to its answer.",
      ("path",),
      buckets=_SECONDS,
      registry=self._registry,
    )
    self.users = prometheus.Counter(
      "bigrec_histories",
      "Histories for which a list was made.",
      registry=self._registry,
    )
    self._registry.register(_State(engine, keeper))
    prometheus.ProcessCollector(registry=self._registry)

  def text(self) -> bytes:
    """Returns all of them as Prometheus reads them."""
    return prometheus.generate_latest(self._registry)


class _State(registry.Collector):
  """Gauges of what an engine is at."""

  def __init__(self, engine: engine_lib.Engine, keeper: keeper_lib.Keeper):
    self._engine, self._keeper = engine, keeper

  def collect(self):
    """Yields the gauges."""
    engine, catalogue = self._engine, self._keeper.state()
    for name, help_text, value in (
      ("ready", "1 once every program is compiled.", engine.ready.is_set()),
      (
        "compilations_since_ready",
        "Programs compiled while requests waited; stays 0.",
        engine.compiled_since_ready,
      ),
      ("waiting", "Histories that wait for a slot.", len(engine.waiting)),
      ("slots_busy", "Histories that are being written.", engine.busy),
      ("slots", "Histories that are written side by side.", engine.slots),
      ("catalogue_version", "Edition that is shown.", catalogue["version"]),
      ("catalogue_items", "Items that may be listed.", catalogue["items"]),
      ("catalogue_room", "Items that can be added.", catalogue["room"]),
    ):
      yield core.GaugeMetricFamily(f"bigrec_{name}", help_text, float(value))
