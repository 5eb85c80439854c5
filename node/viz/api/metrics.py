"""Counts and gauges for Prometheus, in a registry of their own."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from viz.api.parts import Parts


class Metrics:
    """What ``/metrics`` shows."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.registry = CollectorRegistry()
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
            "viz_engine", "The engine's own figures", ("name",), registry=self.registry
        )
        self._mismatches = Gauge(
            "viz_books_mismatches",
            "Channels on which the node's books and the chain disagree",
            registry=self.registry,
        )
        self._compared = Gauge(
            "viz_books_compared_timestamp_seconds",
            "When books and chain were last compared",
            registry=self.registry,
        )

        self._turned_away = Counter(
            "viz_connections_refused_total",
            "Connections beyond api.max_connections",
            registry=self.registry,
        )
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
        """Count one connection that there was no room for."""
        self._turned_away.inc()

    def billed(self, prompt_tokens: int, completion_tokens: int, amount_units: int) -> None:
        """Count one billed generation."""
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("completion").inc(completion_tokens)
        self._units.inc(amount_units)

    def render(self) -> bytes:
        """Return the text exposition."""
        self._running.set(self._parts.serving.running)
        compared = self._parts.watchdog.last
        self._mismatches.set(len(compared.mismatches))
        self._compared.set(compared.compared_at_s)
        self._raised.set(self._parts.settlement.fees_raised)
        for name, value in self._parts.engine.stats().items():
            self._engine.labels(name).set(value)
        return generate_latest(self.registry)


METRICS: Final = web.AppKey("metrics", Metrics)
