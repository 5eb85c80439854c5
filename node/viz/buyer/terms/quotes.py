"""Keep the quotes that a node gave a buyer, while they are valid.

Owns the check of a payment challenge and its quote. Holds nothing that must survive the process.

A quote's life is measured from when it came, because the node's clock may differ from this
machine's. If a quote has ended for the node, the node refuses it, and a new one is asked for.
"""

from __future__ import annotations

from typing import Final

from viz.buyer.terms.checks import QUOTE_LIFE_S, check_quote
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.display import amount
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.chain import Deployment
from viz.domain.ports.clock import Clock
from viz.domain.units import ZERO_ADDRESS, Hash32
from viz.errors import ChannelUnknown, NodeNotTrusted
from viz.protocol.messages import AdapterOffer, NodeInfo
from viz.protocol.payment import Challenge, SignedQuote

QUOTE_LEFT_S: Final = 10


class KeptQuotes:
    """One quote for each adapter and base model."""

    def __init__(self, deployment: Deployment, clock: Clock) -> None:
        self._deployment = deployment
        self._clock = clock
        self._kept: dict[str, tuple[Hash32, SignedQuote]] = {}
        self._came_s: dict[str, int] = {}

    def of(self, offer: AdapterOffer) -> tuple[Hash32, SignedQuote] | None:
        """Return the adapter's quote if it stays valid for long enough; None if not."""
        known = self._kept.get(offer.model)
        age_s = self._clock.now_s() - self._came_s.get(offer.model, 0)
        return known if known and 0 <= age_s < QUOTE_LIFE_S - QUOTE_LEFT_S else None

    def drop(self, offer: AdapterOffer) -> None:
        """Forget the quote, so that the next request gets a new one or the list price."""
        self._kept.pop(offer.model, None)

    def is_for_another(self, challenge: Challenge, info: NodeInfo, offer: AdapterOffer) -> bool:
        """Say whether a 402 quotes other weights or another tokenizer than the description."""
        if challenge.quote is None:
            return False
        quote = challenge.quote.quote
        digests = (quote.weights_digest, quote.tokenizer_digest)
        return digests != (offer.weights_digest, info.base_of(offer).tokenizer_digest)

    def accept(
        self, challenge: Challenge, info: NodeInfo, offer: AdapterOffer, channel: BuyerChannel
    ) -> None:
        """Check a 402 and keep its quote.

        Raises NodeNotTrusted, InvalidSignature, ChannelUnknown.
        """
        here = (self._deployment.chain_id, self._deployment.settlement, info.node)
        if (challenge.chain_id, challenge.contract, challenge.node) != here:
            raise NodeNotTrusted("the payment challenge is for another chain, contract or node")
        if channel.payer == ZERO_ADDRESS:
            suggested = amount(challenge.suggested_deposit_units, self._deployment)
            raise ChannelUnknown(
                "open a channel first: `viz channel open` deposits into it, and this node suggests "
                f"{suggested}"
            )
        if challenge.quote is not None:
            digest = check_quote(
                challenge.quote,
                domain=settlement_domain(self._deployment.chain_id, self._deployment.settlement),
                info=info,
                offer=offer,
                signer=channel.signer,
                now_s=self._clock.now_s(),
            )
            self._kept[offer.model] = (digest, challenge.quote)
            self._came_s[offer.model] = self._clock.now_s()
