"""Ask for an answer that fits the context: as long as asked for, or as long as there is room.

Many clients ask for more tokens than any context holds, and mean "as long as possible".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.client import BuyerClient
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.offers import find_offer
from viz.buyer.terms.request import named_lengths
from viz.errors import PromptTooLong
from viz.protocol.payment import CHAT_PATH


@asynccontextmanager
async def ask_fitting(
    client: BuyerClient,
    body: dict[str, Any],
    path: str = CHAT_PATH,
    *,
    limits: Limits | None = None,
    asked: Callable[[PaidAnswer], None] | None = None,
) -> AsyncIterator[PaidAnswer]:
    """Yield a paid answer whose length is cut to the room in the context.

    ``limits`` replace the client's for this answer. ``asked`` is called with each answer before the
    node is asked for it, which may refuse it. Raises what ``BuyerClient.ask`` raises, but
    PromptTooLong only if the prompt leaves no room.
    """
    context_tokens = _context_tokens(client, body)
    body = at_most(body, context_tokens)
    async with AsyncExitStack() as stack:

        async def begun(body: dict[str, Any]) -> PaidAnswer:
            answer = client.ask(body, path, limits=limits)
            if asked is not None:
                asked(answer)
            return await stack.enter_async_context(answer)

        try:
            answer = await begun(body)
        except PromptTooLong as refusal:
            answer = await begun(at_most(body, room_in(refusal, context_tokens)))
        yield answer


def _context_tokens(client: BuyerClient, body: dict[str, Any]) -> int:
    """Return the context of the model that is asked for; of the first base for an unknown model."""
    model = body.get("model")
    offer = find_offer(client.info.adapters, model) if isinstance(model, str) else None
    return client.info.base_of(offer).context_tokens if offer else client.info.context_tokens


def room_in(refusal: PromptTooLong, context_tokens: int) -> int:
    """Return how many tokens the prompt leaves for the answer; raise the refusal if none."""
    room = refusal.extensions.get("roomTokens")
    if not isinstance(room, int) or not 0 < room < context_tokens:
        raise refusal
    return room


def at_most(body: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return the request with each length that it names cut to ``tokens``."""
    return {**body, **{name: min(most, tokens) for name, most in named_lengths(body).items()}}
