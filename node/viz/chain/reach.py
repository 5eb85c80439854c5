"""Wait at start for a chain that does not answer yet, such as one that is just starting too."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from viz.chain.rpc import Rpc
from viz.domain.ports.chain import Deployment
from viz.errors import ChainUnreachable

POLL_S: Final = 2.0
_log = structlog.get_logger()


async def check_when_reached(rpc: Rpc, deployment: Deployment, *, wait_s: int) -> None:
    """Run ``Rpc.check``; repeat it for up to ``wait_s`` seconds while the chain is unreachable.

    Raises ChainMismatch, and ChainUnreachable after ``wait_s``.
    """
    clock = asyncio.get_running_loop()
    until_s = clock.time() + wait_s
    while True:
        try:
            return await rpc.check(deployment)
        except ChainUnreachable as error:
            if clock.time() >= until_s:
                raise
            left_s = round(until_s - clock.time())
            _log.warning("waiting for the chain", reason=error.detail, at_most_s=left_s)
        await asyncio.sleep(POLL_S)
