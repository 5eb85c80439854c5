"""Log the cost of each answer that the proxy paid for.

Owns the words of the log, which are the same for a program and for a command through the proxy.
"""

from __future__ import annotations

import structlog

from viz.buyer.asking import AskedSide, StreamedAnswer
from viz.domain.display import amount

_log = structlog.get_logger()


def say_cost(side: AskedSide, answer: StreamedAnswer) -> None:
    """Log what an answer cost, in the token's amounts, and what is left of the deposits.

    If several nodes wrote it, or if tokens are ``estimated``, each part is logged too.
    """
    here = side.deployment
    left = amount(side.unspent_units(), here)
    for part in answer.parts_json():
        _log.info(
            "a part of an answer",
            node=part["node"],
            cost=amount(int(part["cost"]), here),
            billed=part["billed"],
            prompt_tokens=part["promptTokens"],
            completion_tokens=part["completionTokens"],
            estimated=part["estimated"],
            fault=part.get("fault", ""),
        )
    if answer.cost_units is None:
        _log.warning("an answer has no bill; its cost is not known", model=answer.model, left=left)
        return
    used = answer.usage
    _log.info(
        "paid",
        model=answer.model,
        cost=amount(answer.cost_units, here),
        prompt_tokens=used["prompt_tokens"],
        completion_tokens=used["completion_tokens"],
        left=left,
    )
