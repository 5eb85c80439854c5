"""Read the operator's figures: money, training runs, and the chain's head.

A figure that cannot be read now is left out, as Prometheus expects, and the others are shown.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from viz.api.context import NodeContext
from viz.errors import VizError

Figures = list[Metric]
_STATES: Final = ("queued", "running", "done", "failed", "cancelled")


async def money_of(parts: NodeContext, limit_s: float) -> Figures:
    """Read the figures; those that take longer than ``limit_s`` are left out."""
    figures: Figures = []
    for read in (_ledger, _chain):
        try:
            async with asyncio.timeout(limit_s):
                figures += await read(parts)
        except (VizError, TimeoutError):
            continue
    return figures


async def _ledger(parts: NodeContext) -> Figures:
    channels = await parts.ledger.channels()
    states = Counter(run.state for run in await parts.ledger.trainings())
    trainings = GaugeMetricFamily("viz_trainings", "Training runs by state", labels=("state",))
    for state in _STATES:
        trainings.add_metric((state,), states[state])
    return [
        _gauge("viz_channels", "Channels that the ledger knows", len(channels)),
        _gauge("viz_receipts", "Receipts given", sum(row.seq for row in channels)),
        _gauge(
            "viz_receipted_units",
            "Token base units on all receipts",
            sum(row.total_units for row in channels),
        ),
        _gauge(
            "viz_unclaimed_units",
            "Token base units signed for and not claimed yet",
            sum(sum(row.unclaimed().values()) for row in channels),
        ),
        trainings,
    ]


async def _chain(parts: NodeContext) -> Figures:
    node = parts.sessions.node
    head, collectable, balance = await asyncio.gather(
        parts.chain.head(), parts.chain.collectable(node), parts.chain.token_balance(node)
    )
    return [
        _gauge("viz_chain_head_block", "Number of the newest block", head.number),
        _gauge(
            "viz_chain_head_age_seconds",
            "Seconds since the newest block, by this machine's clock",
            max(0, parts.clock.now_s() - head.time_s),
        ),
        _gauge("viz_collectable_units", "Token base units to collect from Settlement", collectable),
        _gauge("viz_balance_units", "Token base units of the node's key", balance),
    ]


def _gauge(name: str, what: str, value: int) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


class Given:
    """Give Prometheus the figures that were read before."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        yield from self._figures
