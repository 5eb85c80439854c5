"""Make quotes (signed prices that are valid for a short time), and remember them meanwhile.

Quotes need not survive a restart: a buyer who returns with an unknown quote gets a new one.
Invariant: at most ``QUOTES_KEPT`` quotes are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from viz.domain.eip712 import Domain, sign_compact
from viz.domain.ports.clock import Clock
from viz.domain.typed_data import Quote
from viz.domain.units import Address, Hash32
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import SignedQuote

QUOTES_KEPT: Final = 50_000


class Quotes:
    """Make and remember the quotes of one node, each valid for ``valid_s`` seconds."""

    def __init__(
        self,
        domain: Domain,
        node: Address,
        key: bytes,
        clock: Clock,
        *,
        valid_s: int = 60,
    ) -> None:
        self._domain = domain
        self._node = node
        self._key = key
        self._clock = clock
        self._valid_s = valid_s
        self._issued: OrderedDict[Hash32, Quote] = OrderedDict()

    def make(
        self, signer: Address, offer: AdapterOffer, max_tokens: int, *, tokenizer_digest: Hash32
    ) -> SignedQuote:
        """Return a signed quote for ``signer`` at the offer's current price.

        ``tokenizer_digest``: what counts the tokens, that of the adapter's base model.
        """
        now_s = self._clock.now_s()
        quote = Quote(
            self._node,
            signer,
            offer.adapter_id,
            offer.weights_digest,
            tokenizer_digest,
            offer.prompt_price_units,
            offer.completion_price_units,
            max_tokens,
            now_s + self._valid_s,
        )
        digest = self._domain.digest(quote)
        self._issued[digest] = quote
        while self._issued and (
            len(self._issued) > QUOTES_KEPT
            or next(iter(self._issued.values())).valid_until_s < now_s
        ):
            self._issued.popitem(last=False)
        return SignedQuote(quote, sign_compact(self._key, digest))

    def find(self, digest: Hash32) -> Quote | None:
        """Return an issued quote by its digest; None if it is unknown or was forgotten."""
        return self._issued.get(digest)
