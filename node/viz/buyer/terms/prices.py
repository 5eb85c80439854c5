"""Keep the prices that a buyer accepted by paying, and refuse higher ones until it accepts them.

Owns the caps on prices, the record of what was agreed for each adapter, and the messages about a
price that changed. The amounts of requests are ``viz.buyer.vouchers.voucher_signer``'s.

Invariants: no price above a cap is paid. If the buyer named no cap, no price is paid that is more
than a quarter above the lowest one paid for this adapter before, however slowly it rose, or above
the one that the node told first for the same request. A price that a node told and did not sell at
is not accepted: it holds for that request only. Every change of a price that is paid is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.offers import is_record_key, kept_for, record_key
from viz.domain.display import price as spelled
from viz.domain.display import prices
from viz.domain.ports.chain import Deployment
from viz.domain.pricing import Price
from viz.domain.units import BPS, UINT64_MAX, AdapterId, Units
from viz.errors import BooksMismatch, InvalidRequest, PriceAboveCap
from viz.protocol.messages import AdapterOffer
from viz.protocol.wire import Json, Reader

RECORD: Final = "prices.json"
RISE_BPS: Final = 2_500
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AgreedPrice:
    """What was agreed for an adapter, and the price that was paid last."""

    agreed: Price
    last: Price


class Prices:
    """The prices of one channel's adapters."""

    def __init__(
        self,
        ledger: BuyerLedger,
        deployment: Deployment,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Read what was agreed before; raise BooksMismatch if it cannot be read."""
        self._ledger = ledger
        self._deployment = deployment
        self._say = say or _log.warning
        self._known = _read(ledger.kept_record(RECORD))

    def were_agreed(self, offer: AdapterOffer) -> bool:
        """Return whether this offer was paid for before, at whatever price."""
        return kept_for(self._known, offer.adapter_id, offer.model) is not None

    def check(
        self,
        adapter_id: AdapterId,
        model: str,
        price: Price,
        limits: Limits,
        *,
        told: Price | None = None,
    ) -> None:
        """Raise PriceAboveCap if a price may not be paid.

        ``told`` is what the node told first for this request, if that was another price.
        """
        self._check_caps(model, price, limits)
        known = kept_for(self._known, adapter_id, model)
        if known is not None:
            here = "the price that this folder last accepted from this node is"
            self._check_rise(model, price, known.agreed, here, limits)
        if told is not None:
            here = "for this request this node first told"
            self._check_rise(model, price, told, here, limits)

    def agree(self, adapter_id: AdapterId, model: str, price: Price, limits: Limits) -> None:
        """Accept a price and record it, as the node sells at it; raise PriceAboveCap."""
        self.check(adapter_id, model, price, limits)
        known, key = kept_for(self._known, adapter_id, model), record_key(adapter_id, model)
        if known is None:
            self._keep(key, AgreedPrice(price, price))
            _log.info("accepted a price", model=model, price=self._both(price))
            return
        if price == known.last:
            return
        self._say(f"{model} costs {self._both(price)} now; it was {self._both(known.last)}")
        self._keep(key, AgreedPrice(_lowest(known.agreed, price, limits), price))

    def _check_rise(
        self, model: str, price: Price, before: Price, said: str, limits: Limits
    ) -> None:
        rose = (
            not limits.prompt_price_stated
            and _is_above(price.prompt_price_units, before.prompt_price_units),
            not limits.completion_price_stated
            and _is_above(price.completion_price_units, before.completion_price_units),
        )
        if any(rose):
            raise PriceAboveCap(
                f"{model} costs {self._both(price)} now, and {said} {self._both(before)}: nothing "
                f"is paid at that price. To accept it, ask again with {self._options(price, rose)}"
            )

    def _check_caps(self, model: str, price: Price, limits: Limits) -> None:
        caps = Price(limits.prompt_price_units, limits.completion_price_units)
        if not price.is_within(caps):
            over = (
                price.prompt_price_units > caps.prompt_price_units,
                price.completion_price_units > caps.completion_price_units,
            )
            raise PriceAboveCap(
                f"{model} costs {self._both(price)}, and this buyer pays at most "
                f"{self._both(caps)}: nothing is paid at that price. To allow it, ask again with "
                f"{self._options(price, over)}"
            )

    def _both(self, price: Price) -> str:
        return prices(price.prompt_price_units, price.completion_price_units, self._deployment)

    def _options(self, price: Price, which: tuple[bool, bool]) -> str:
        named = (
            ("--max-prompt-price", price.prompt_price_units),
            ("--max-completion-price", price.completion_price_units),
        )
        return " ".join(
            f"{option} {spelled(units, self._deployment).partition(' ')[0]}"
            for (option, units), wanted in zip(named, which, strict=True)
            if wanted
        )

    def _keep(self, key: str, known: AgreedPrice) -> None:
        after = {**self._known, key: known}
        self._ledger.keep_record(RECORD, {each: _to_json(value) for each, value in after.items()})
        self._known = after


def limits_in(
    deployment: Deployment,
    *,
    prompt_price_units: Units | None = None,
    completion_price_units: Units | None = None,
    request_units: Units | None = None,
) -> Limits:
    """Return a buyer's limits in the deployment's token, with the caps that the buyer named."""
    token = 10**deployment.token_decimals
    default = Limits()
    limits = Limits(
        prompt_price_units=default.prompt_price_units * token // 10**6,
        completion_price_units=default.completion_price_units * token // 10**6,
        request_units=default.request_units * token // 10**6,
    )
    if request_units is not None:
        limits = replace(limits, request_units=request_units)
    if prompt_price_units is not None:
        limits = replace(limits, prompt_price_units=prompt_price_units, prompt_price_stated=True)
    if completion_price_units is not None:
        limits = replace(
            limits, completion_price_units=completion_price_units, completion_price_stated=True
        )
    return limits


def _lowest(before: Price, now: Price, limits: Limits) -> Price:
    """Return the price that is agreed by paying ``now``; it rises only if the buyer named a cap."""
    prompt = min(before.prompt_price_units, now.prompt_price_units)
    completion = min(before.completion_price_units, now.completion_price_units)
    return Price(
        now.prompt_price_units if limits.prompt_price_stated else prompt,
        now.completion_price_units if limits.completion_price_stated else completion,
    )


def _is_above(now_units: Units, agreed_units: Units) -> bool:
    return now_units * BPS > agreed_units * (BPS + RISE_BPS)


def _to_json(known: AgreedPrice) -> Json:
    return {
        "agreed": [str(known.agreed.prompt_price_units), str(known.agreed.completion_price_units)],
        "last": [str(known.last.prompt_price_units), str(known.last.completion_price_units)],
    }


def _read(kept: Json) -> dict[str, AgreedPrice]:
    try:
        if not all(map(is_record_key, kept)):
            raise ValueError(kept)
        return {
            key: AgreedPrice(*(_price(value, name) for name in ("agreed", "last")))
            for key, value in kept.items()
        }
    except (InvalidRequest, ValueError, TypeError) as error:
        raise BooksMismatch(
            f"the prices that were agreed to ({RECORD} beside the channel's ledger) cannot be "
            "read: restore the file. It holds no money; without it they are agreed to anew"
        ) from error


def _price(value: object, name: str) -> Price:
    prompt, completion = Reader(value, "a price").array(name, 2)
    pair = Reader({"prompt": prompt, "completion": completion}, "a price")
    return Price(pair.units("prompt", UINT64_MAX), pair.units("completion", UINT64_MAX))
