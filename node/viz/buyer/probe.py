"""Buy one small answer as any buyer does, keep what proves it, and end the channel.

Owns the probe of ``viz audit node``: the request, its record, and the receipts of the channel as
the node hands them out. What they prove is for the auditor to compute. A node that does not verify
ends the probe with a finding; one that does not answer leaves something missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from viz.buyer.asking import OneNode, pass_on
from viz.buyer.channel_receipts import receipts_of
from viz.buyer.client import BuyerClient
from viz.buyer.wallet.wallet import Wallet
from viz.domain.eip712 import Domain, settlement_domain
from viz.domain.receipt_audit import PublicReceipt
from viz.errors import InvalidSignature, NodeNotTrusted, VizError
from viz.protocol.answer_evidence import AnswerEvidence
from viz.protocol.payment import CHAT_PATH


@dataclass(slots=True)
class ProbeEvidence:
    """What the probe has: the record of its answer, and the channel's receipts."""

    record: AnswerEvidence | None = None
    receipts: list[PublicReceipt] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ended: bool = False
    """Whether the channel was closed, and the chain shows it."""


async def ask(client: BuyerClient, found: ProbeEvidence, body: dict[str, Any]) -> None:
    """Buy the answer to one request and keep its record."""

    async def write(text: str) -> None:
        return

    try:
        side = OneNode(client)
        async with side.asking(body, CHAT_PATH) as answer:
            await pass_on(side, answer, write, None)
        found.record = answer.evidence(client)
    except (NodeNotTrusted, InvalidSignature) as error:
        found.findings.append(f"the answer does not verify: {error.detail}")
    except VizError as error:
        found.missing.append(f"an answer: {error.detail}")
    if found.record is None:
        if not found.findings and not found.missing:
            found.missing.append("a receipt for the answer: the node sent none")
        return
    found.findings += found.record.contradictions(domain_of(client))
    if not found.record.finish:
        found.missing.append("why the answer ended: the node did not say stop or length")


async def collect(client: BuyerClient, found: ProbeEvidence) -> None:
    """Read all receipts of the channel from the node; the record's must be among them."""
    if mismatch := await client.look():
        found.missing.append(f"the channel's state: {mismatch}")
    found.ended = not client.channel.deposit_units and client.channel.settled_units > 0
    try:
        found.receipts += [
            PublicReceipt(each.receipt, each.lines, each.signature)
            for each in await receipts_of(client)
        ]
    except (NodeNotTrusted, InvalidSignature) as error:
        found.findings.append(f"the receipts do not verify: {error.detail}")
        return
    except VizError as error:
        found.missing.append(f"the channel's receipts: {error.detail}")
        return
    if found.record is None:
        return
    digest = domain_of(client).digest(found.record.receipt.receipt)
    handed = {domain_of(client).digest(each.receipt) for each in found.receipts}
    if digest not in handed:
        found.findings.append(
            "the node hands out the channel's receipts without the one that it sent with the answer"
        )


async def close(client: BuyerClient, found: ProbeEvidence, wallet: Wallet) -> None:
    """Close the channel with the node, which claims before; the rest goes back to the wallet."""
    try:
        await client.close_channel(wallet)
        found.ended = await client.sees_closed() is True
        if not found.ended:
            found.missing.append("the end of the channel: the chain does not show it yet")
    except (NodeNotTrusted, InvalidSignature) as error:
        found.findings.append(f"the close does not verify: {error.detail}")
    except VizError as error:
        found.missing.append(f"the end of the channel: {error.detail}")


def domain_of(client: BuyerClient) -> Domain:
    """Return Settlement's domain in the deployment that the buyer trusts."""
    where = client.deployment
    return settlement_domain(where.chain_id, where.settlement)
