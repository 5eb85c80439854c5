"""Do what the buyer's commands ask of a channel, whichever process holds it.

Owns the commands of ``viz buyer ask`` and ``viz channel`` as values in and values out. Amounts are
base units as text, as in every message. The command line calls the commands directly, or through
``viz.buyer.control.server`` while a proxy runs.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from viz.buyer.asking import Ended, OneNode, Write, chosen_line, pass_on
from viz.buyer.channel_receipts import former_receipts, receipts_of
from viz.buyer.client import BuyerClient
from viz.buyer.wallet.wallet import Wallet
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.display import prices
from viz.domain.ports.chain import ChannelState, Deployment
from viz.domain.units import ZERO_ADDRESS, Units, hex_of
from viz.errors import ChainError, PaymentError, VizError
from viz.protocol.answer_evidence import AnswerEvidence
from viz.protocol.payment import CHAT_PATH, receipt_to_json
from viz.protocol.wire import Json


class ChannelControl:
    """The commands of one channel."""

    def __init__(
        self, client: BuyerClient, ended: Ended | None = None, *, side: OneNode | None = None
    ) -> None:
        """``ended`` is called with each answer when it ends, even if an error ends it.

        ``side`` asks the client's node; None: without a budget.
        """
        self._client, self._ended = client, ended
        self._side = side or OneNode(client)
        self.record: AnswerEvidence | None = None
        """By which anybody can check the last answer; None if it has no receipt."""

    @property
    def deployment(self) -> Deployment:
        """The contracts that the buyer trusts."""
        return self._client.deployment

    async def show(self) -> Json:
        """Return what was deposited, signed and billed, read from the node now.

        ``mismatch`` says why the channel cannot be used, if the ledgers and the chain disagree. A
        buyer that reads its own chain also gets ``onChain``, the channel in the newest block, and
        does not depend on the node: ``notAnswered`` says why the node did not answer.
        """
        client, fault, mismatch = self._client, "", ""
        try:
            mismatch = await client.look()
        except VizError as error:
            own = isinstance(error, ChainError) and not error.answered
            if client.chain is None or own or isinstance(error, PaymentError):
                raise
            fault = error.detail
        seen = None
        if client.chain is not None:
            with suppress(ChainError):  # the last reading serves
                seen = await client.chain.channel(client.signer, client.info.node, confirmed=False)
        return described(client) | {
            "mismatch": mismatch,
            "onChain": on_chain(seen) if seen is not None else None,
            "notAnswered": fault,
        }

    async def receipts(self, home: Path, password: str) -> Json:
        """Return the channel's receipts as the node hands them out, and how many the ledger knows.

        Those of former channels to this node come first; ``home`` has their folders. Not among a
        proxy's commands, whose messages are bounded.
        """
        await self._client.look()
        former = await former_receipts(self._client, home, password)
        present = await receipts_of(self._client)
        handed_out = [*(each for of in former for each in of.receipts), *present]
        return {
            "node": self._client.info.node,
            "signer": self._client.signer,
            "known": self._client.channel.seq,
            "present": len(present),
            "former": [
                {
                    "signer": of.signer,
                    "known": of.known,
                    "count": len(of.receipts),
                    "fault": of.fault,
                }
                for of in former
            ],
            "receipts": [receipt_to_json(each) for each in handed_out],
        }

    async def forgive(self, allow_units: Units) -> Json:
        """Trust the node again, and pay up to ``allow_units`` of bills beyond what arrived.

        Returns the channel's state.
        """
        self._client.forgive(allow_units)
        return await self.show()

    async def open(self, wallet: Wallet, deposit_units: Units) -> Json:
        """Deposit into the channel; return its state."""
        await self._client.open_channel(wallet, deposit_units)
        return described(self._client)

    async def close(self, wallet: Wallet) -> Json:
        """Close the channel with the node's consent; return the total and the transaction."""
        client = self._client
        answer = await client.close_channel(wallet)
        seen, fault = None, ""
        if answer.transaction_hash:
            try:
                seen = await client.sees_closed()
            except ChainError as error:  # the close stands, whatever this endpoint says
                fault = error.detail
        return {
            "signer": client.signer,
            "node": client.info.node,
            "settled": str(answer.close.settled_units),
            "billed": str(sum(client.channel.billed.values())),
            "signed": str(client.channel.total_units),
            "transaction": hex_of(answer.transaction_hash),
            # With this anybody can submit the close, if the node did not.
            "close": answer.to_json(),
            # True or False is what the buyer's own chain shows; None: no chain was asked.
            "seenClosed": seen,
            "notSeen": fault,
        }

    async def ask(self, body: dict[str, Any], write: Write, tell: Write) -> Json:
        """Ask a question, pass the text on as it arrives, and return what it cost.

        If the question does not name a model by its id, ``tell`` gets a line with the chosen model
        and its price before the answer begins.
        """
        client, model = self._client, body.get("model")
        offer = await client.offer_of(str(model)) if model else client.usual_offer()
        if model != offer.model:
            price = prices(offer.prompt_price_units, offer.completion_price_units, self.deployment)
            await tell(chosen_line(offer.model, offer.name, price))
        if not model:
            body = {**body, "model": offer.model}
        side = self._side
        async with side.asking(body, CHAT_PATH) as answer:
            await pass_on(side, answer, write, self._ended)
        self.record = answer.evidence(client)
        return {
            "model": answer.model,
            "text": answer.text,
            "cost": str(answer.cost_units or 0),
        }


def on_chain(seen: ChannelState) -> Json:
    """Return a reading of the chain as a JSON object."""
    return {
        "payer": seen.payer,
        "deposit": str(seen.deposit_units),
        "settled": str(seen.settled_units),
        "closeAt": seen.close_at,
    }


def described(client: BuyerClient) -> Json:
    """Return a channel's state as a JSON object."""
    return describe(client.channel, client.voucher_signer.fault, client.closed_until_s)


def describe(channel: BuyerChannel, fault: str, closed_until_s: int = 0) -> Json:
    """Return a channel's state as a JSON object; ``fault`` says why its node is not trusted.

    ``closed_until_s`` is the deadline of a Close that the node signed, as it says; 0: none.
    """
    opened = channel.payer != ZERO_ADDRESS
    return {
        "signer": channel.signer,
        "node": channel.node,
        "payer": channel.payer,
        "open": opened,
        "closeAt": channel.close_at_s,
        "closedUntil": closed_until_s,
        "distrusted": fault,
        "deposit": str(channel.deposit_units),
        "settled": str(channel.settled_units),
        "signed": str(channel.total_units),
        "billed": str(sum(channel.billed.values())),
        "receipts": channel.seq,
    }
