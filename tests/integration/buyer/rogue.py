"""A node of its own invention in the place of a buyer's node, which keeps the vouchers it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.integration.api.harness import ADAPTER, NODE_KEY, PRICE
from tests.integration.buyer.test_untrue_node import DONE, PROMPT_TOKENS, Stream, said

from viz.buyer.client import BuyerClient
from viz.domain.eip712 import sign
from viz.domain.node_channel import PresentedVoucher
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Address, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import NodeUnreachable, VizError
from viz.protocol.messages import AccessToken, ChannelView
from viz.protocol.payment import (
    NEED_VOUCHER_EVENT,
    RECEIPT_EVENT,
    NeedVoucher,
    receipt_to_json,
)
from viz.protocol.sse import sse_event

# One part of an answer: bytes, an error that ends it, or a call that makes one of them.
Part = bytes | VizError | Callable[[], bytes]
Script = Callable[[bytes], Sequence[Part]]
# Lets the buyer's task that signs run.
PAUSE = b": wait\n\n"
PAUSED_S = 0.002
CUT = NodeUnreachable("cut")


class RogueStream(Stream):
    """An answer that may break off, and that waits at each ``PAUSE``."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__([])
        self._parts = list(parts)

    async def iter_any(self) -> AsyncIterator[bytes]:
        while self._parts:
            part = self._parts.pop(0)
            made = part() if callable(part) else part
            if isinstance(made, VizError):
                raise made
            await asyncio.sleep(PAUSED_S if made == PAUSE else 0)
            yield made

    def close(self) -> None:
        self._parts.clear()


class Rogue:
    """Answers as ``script`` says, with the true node's key; ``held_units`` is its best voucher.

    It serves one buyer after another: ``attach`` puts it in the place of a buyer's node.
    ``on_voucher`` sees each voucher, and may refuse it.
    """

    def __init__(self) -> None:
        self.script: Script = lambda _: []
        self.on_voucher: Callable[[PresentedVoucher], None] = lambda _: None
        self.requests: list[bytes] = []
        self.receipts: list[SignedReceipt] = []
        self.held_units: Units = 0
        self.client: BuyerClient

    @property
    def billed_units(self) -> Units:
        return sum(each.receipt.amount_units for each in self.receipts)

    def attach(self, client: BuyerClient) -> None:
        self.client, api = client, client.api
        true_channel = api.channel

        async def channel(signer: Address, token: AccessToken) -> ChannelView:
            return replace(await true_channel(signer, token), seq=len(self.receipts))

        async def receipts(
            signer: Address, after: int, token: AccessToken
        ) -> tuple[SignedReceipt, ...]:
            return tuple(self.receipts[after:])

        async def voucher(presented: PresentedVoucher) -> ChannelView:
            self.held_units = max(self.held_units, presented.row.end_units)
            self.on_voucher(presented)
            return await channel(client.signer, await client.token())

        @asynccontextmanager
        async def generate(
            path: str, body: bytes, token: AccessToken, headers: Mapping[str, str]
        ) -> AsyncIterator[Stream]:
            self.requests.append(body)
            yield RogueStream(self.script(body))

        for name, call in (
            ("channel", channel),
            ("receipts", receipts),
            ("voucher", voucher),
            ("generate", generate),
        ):
            setattr(api, name, call)

    def bill(
        self,
        body: bytes,
        text: str,
        units: Units,
        adapter_id: AdapterId = ADAPTER,
        *,
        tokens: int | None = None,
    ) -> bytes:
        """Sign the next receipt, for so much and for ``tokens``, by default the text's."""
        lines = (UsageLine(adapter_id, units),)
        receipt = Receipt(
            channel_id(self.client.signer, self.client.info.node),
            len(self.receipts) + 1,
            usage_hash(lines),
            ZERO_HASH,
            salted_hash(ZERO_HASH, body),
            salted_hash(ZERO_HASH, text.encode()),
            PROMPT_TOKENS,
            len(text) if tokens is None else tokens,
            units,
            self.billed_units + units,
            0,
        )
        signature = sign(NODE_KEY, self.client.voucher_signer.domain.digest(receipt))
        signed = SignedReceipt(receipt, lines, ZERO_HASH, ZERO_HASH, signature)
        self.receipts.append(signed)
        return sse_event(receipt_to_json(signed), RECEIPT_EVENT)

    def good(self, adapter_id: AdapterId = ADAPTER) -> Script:
        """Return the script of an answer of 60 tokens that is delivered and billed as it is."""
        text = "a" * 60
        units = PRICE.amount_units(PROMPT_TOKENS, len(text))
        return lambda body: [
            *[said("a")] * len(text),
            *[PAUSE] * 10,
            lambda: self.bill(body, text, units, adapter_id),
            DONE,
        ]

    def demanding(self, units: Units, adapter_id: AdapterId) -> Script:
        """Return the script of a good answer that begins by demanding so much."""
        good = self.good(adapter_id)
        return lambda body: [self.need(units, adapter_id), *[PAUSE] * 5, *good(body)]

    def need(self, units: Units, adapter_id: AdapterId = ADAPTER) -> bytes:
        """Return the event that demands so much."""
        need = NeedVoucher(adapter_id, 0, 0, units, ())
        return sse_event(need.to_json(), NEED_VOUCHER_EVENT)
