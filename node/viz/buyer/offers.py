"""Which offer a model's name means, and how long an answer may be.

Owns the two ways to name a model (its id, and the name its node gives it) and the fitting of an
answer's length to the context. Does not know prices. Invariant: a name that could mean two adapters
means none, since the name decides whom the money goes to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from viz.errors import PromptTooLong, UnknownModel
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import CHAT_PATH

if TYPE_CHECKING:
    from viz.buyer.answer import PaidAnswer
    from viz.buyer.client import BuyerClient

NAMES_SHOWN: Final = 20
_LENGTHS: Final = ("max_tokens", "max_completion_tokens")


def find_offer(offers: Sequence[AdapterOffer], wanted: str) -> AdapterOffer | None:
    """Return the offer of a model's id, else of a name that is one offer's alone.

    Names are compared without regard to case. Raises UnknownModel where a name is of several.
    """
    for offer in offers:
        if offer.model == wanted:
            return offer
    named = [offer for offer in offers if offer.name and _same(offer.name, wanted)]
    if len(named) > 1:
        models = ", ".join(offer.model for offer in named)
        raise UnknownModel(
            f"{wanted[:80]!r} is the name of several models: say which of {models}", param="model"
        )
    return named[0] if named else None


def unknown(offers: Sequence[AdapterOffer], wanted: str) -> UnknownModel:
    """Return the error of a model that is not on offer, with what is."""
    names = [
        offer.model if offer.name in ("", offer.model) else f"{offer.model} ({offer.name})"
        for offer in offers[:NAMES_SHOWN]
    ]
    if len(offers) > NAMES_SHOWN:
        names.append(f"{len(offers) - NAMES_SHOWN} more")
    return UnknownModel(
        f"the node does not serve {wanted[:80]!r}; it serves: {', '.join(names)}", param="model"
    )


@asynccontextmanager
async def ask_fitting(
    client: BuyerClient, body: dict[str, Any], path: str = CHAT_PATH
) -> AsyncIterator[PaidAnswer]:
    """Ask, and where a longer answer is asked for than the context holds, for as long as it holds.

    Raises what ``BuyerClient.ask`` does; PromptTooLong only where the prompt leaves no room.
    """
    body = _at_most(body, client.info.context_tokens)
    async with AsyncExitStack() as stack:
        try:
            answer = await stack.enter_async_context(client.ask(body, path))
        except PromptTooLong as refusal:
            room = refusal.extensions.get("roomTokens")
            if not isinstance(room, int) or not 0 < room < client.info.context_tokens:
                raise
            answer = await stack.enter_async_context(client.ask(_at_most(body, room), path))
        yield answer


def _at_most(body: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return the request with the lengths that it names cut to ``tokens``."""
    cut = {
        name: tokens
        for name in _LENGTHS
        if isinstance(body.get(name), int)
        and not isinstance(body[name], bool)
        and body[name] > tokens
    }
    return {**body, **cut}


def _same(name: str, wanted: str) -> bool:
    return name.strip().casefold() == wanted.strip().casefold()
