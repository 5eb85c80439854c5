"""Look at each work, adapter and run by itself, so that the error of one stops no other.

Invariants: an error is logged once with the id that it concerns, and again only if it changed or
came back; the next look tries again. A fault of the chain's endpoint concerns all, and ends the
look.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import structlog

from viz.domain.ports.chain import ChainReader
from viz.errors import ChainUnreachable, VizError
from viz.services.upkeep.supervision import FATAL

_log: Final = structlog.get_logger()


class SeparateLooks:
    """The looks of one loop, and what was told of those that failed."""

    def __init__(self, chain: ChainReader) -> None:
        self._chain = chain
        self._told: dict[tuple[str, int | str], str] = {}

    async def at(self, part: Awaitable[None], kind: str, name: int | str) -> bool:
        """Await one item's part; return whether it succeeded.

        Raises the errors in ``FATAL``, and ChainUnreachable if the chain answers nothing else
        either.
        """
        try:
            await part
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001  one work must not keep the others' texts here
            if isinstance(error, ChainUnreachable):
                await self._chain.chain_time()
            self._tell(error, kind, name)
            return False
        self._told.pop((kind, name), None)
        return True

    def _tell(self, error: Exception, kind: str, name: int | str) -> None:
        reason = error.detail if isinstance(error, VizError) else f"{type(error).__name__}: {error}"
        if self._told.get((kind, name)) == reason:
            return
        self._told[kind, name] = reason
        trace = {} if isinstance(error, VizError | OSError) else {"exc_info": error}
        said = "an ended use is not dealt with yet, and is tried again"
        _log.error(said, **{kind: name}, reason=reason, **trace)
