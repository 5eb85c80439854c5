"""Log the cost of each answer that the proxy paid for.

Owns the words of the log, which are the same for a program and for a command through the proxy.
"""

from __future__ import annotations

import structlog

from viz.buyer.answer import PaidAnswer
from viz.buyer.client import BuyerClient
from viz.buyer.completion import usage_of
from viz.domain.display import amount

_log = structlog.get_logger()


def say_cost(client: BuyerClient, answer: PaidAnswer) -> None:
    """Log what an answer cost, in the token's amounts, and what is left of the deposit."""
    channel, here = client.channel, client.deployment
    left = amount(max(0, channel.limit_units - sum(channel.spent.values())), here)
    if answer.cost_units is None:
        _log.warning(
            "an answer broke off; its cost is not known yet", model=answer.model, left=left
        )
        return
    used = usage_of(answer)
    _log.info(
        "paid",
        model=answer.model,
        cost=amount(answer.cost_units, here),
        prompt_tokens=used["prompt_tokens"],
        completion_tokens=used["completion_tokens"],
        left=left,
    )
