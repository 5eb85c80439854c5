"""Count for Prometheus, in one registry for the operator and one for everybody.

Strangers see whether the node runs and whether it has room. Only the operator sees the counts of
requests and tokens, because together with the prices they show the node's income.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from viz.api.context import NodeContext
from viz.api.monitoring.money_metrics import Figures, Given

# Otherwise each counter has a second line with the time at which the process began to count.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Hold the counters and gauges that ``/metrics`` shows."""

    def __init__(self, parts: NodeContext) -> None:
        self._parts = parts
        self.registry = CollectorRegistry()
        self._public = CollectorRegistry()
        self._up = Gauge(
            "viz_up", "Whether a part of the node answers", ("part",), registry=self._public
        )
        self._requests = Counter(
            "viz_http_requests_total",
            "Requests by route and status",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "viz_http_request_seconds", "Time to answer", ("path",), registry=self.registry
        )
        self._tokens = Counter(
            "viz_tokens_total", "Tokens billed", ("kind",), registry=self.registry
        )
        self._units = Counter(
            "viz_billed_units_total", "Token base units billed", registry=self.registry
        )
        self._running = Gauge(
            "viz_generations_running", "Generations under way", registry=self.registry
        )
        self._engine = Gauge(
            "viz_engine", "An engine's own figures", ("base", "name"), registry=self.registry
        )
        self._mismatches = Gauge(
            "viz_books_mismatches",
            "Channels on which the node's ledger and the chain disagree",
            registry=self.registry,
        )
        self._compared = Gauge(
            "viz_books_compared_timestamp_seconds",
            "When ledger and chain were last compared",
            registry=self.registry,
        )

        self._turned_away = Counter(
            "viz_connections_refused_total",
            "Connections beyond api.max_connections, or beyond one address's share of them",
            registry=None,
        )
        for each in (self.registry, self._public):
            each.register(self._turned_away)
        self._raised = Gauge(
            "viz_fees_raised",
            "Transactions that no block took, sent again at a higher fee, since the start",
            registry=self.registry,
        )

    def request(self, method: str, path: str, status: int, took_s: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(took_s)

    def turned_away(self) -> None:
        """Count one connection that was refused because all places were taken."""
        self._turned_away.inc()

    def billed(self, prompt_tokens: int, completion_tokens: int, amount_units: int) -> None:
        """Count one billed generation."""
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("completion").inc(completion_tokens)
        self._units.inc(amount_units)

    def render_public(self, health: Mapping[str, str]) -> bytes:
        """Return the metrics for strangers; ``health`` is ``ok`` for each part that answers."""
        for part, said in health.items():
            self._up.labels(part).set(said == "ok")
        return generate_latest(self._public)

    def render(self, money: Figures) -> bytes:
        """Return the metrics for the operator: what was counted here, and the figures ``money``."""
        self._running.set(self._parts.serving.running)
        compared = self._parts.reconciliation.last
        self._mismatches.set(len(compared.mismatches))
        self._compared.set(compared.compared_at_s)
        self._raised.set(self._parts.settlement.fees_raised)
        for engine in self._parts.engines:
            for name, value in engine.stats().items():
                self._engine.labels(engine.model.name, name).set(value)
        beside = CollectorRegistry()
        beside.register(Given(money))
        return generate_latest(self.registry) + generate_latest(beside)


METRICS: Final = web.AppKey("metrics", Metrics)
