"""Wait until the creator's own chain endpoint shows what a node has done there, or may have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from viz.errors import ChainError, FeeTooHigh, InputError, LicenseError, PaymentError, VizError

T = TypeVar("T")
TRIES: Final = 15
EVERY_S: Final = 2.0
# By these a node says that it sent nothing. After all others it may have sent what it was given.
_NOTHING_SENT: Final = (InputError, PaymentError, LicenseError, FeeTooHigh)


async def until_seen(look: Callable[[], Awaitable[T | None]], tries: int = TRIES) -> T | None:
    """Return what ``look`` finds; look again every ``EVERY_S`` seconds while it finds nothing.

    The endpoint, or another node, may get the block later than the node that sent it. Returns the
    last result; raises what ``look`` raises.
    """
    for looked in range(tries):
        if looked:
            await asyncio.sleep(EVERY_S)
        if found := await look():
            return found
    return None


async def seen_after(failed: VizError, look: Callable[[], Awaitable[T | None]]) -> T:
    """Return what ``look`` finds on the chain although a node's relay ``failed``.

    Looks once after a clear refusal, since that may be untrue too, and otherwise as long as after a
    good answer: a timeout or an odd answer does not tell what the node did. Raises ``failed``, with
    what to do, if nothing is found or the chain cannot be read.
    """
    refused = isinstance(failed, _NOTHING_SENT)
    try:
        if found := await until_seen(look, 1 if refused else TRIES):
            return found
        seen = "the chain does not have it so far"
    except ChainError as error:
        seen = f"the chain could not be read ({error.detail})"
    if refused:
        raise failed
    raise type(failed)(
        f"{failed.detail}. What you signed may still be done, and {seen}: give the same command "
        "again in a while, or with another --node or --direct",
        **failed.extensions,
    ) from failed
