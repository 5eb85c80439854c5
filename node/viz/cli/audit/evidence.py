"""Run `viz audit receipts | payouts`: check payments by computing them again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import (
    AUDIT_DIFFERENT,
    AUDIT_INCONCLUSIVE,
    AsJson,
    DataDir,
    DeploymentFile,
    data_dir,
    guarded,
    lines,
    run,
    say,
    show,
)
from viz.cli.own_chain import CreatorRpcOption, own_chain, required_rpc, trusted_deployment
from viz.domain.display import amount, counted
from viz.errors import InvalidRequest
from viz.given_file import about, read_given

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment
    from viz.domain.ports.transactions import Event
    from viz.domain.receipt_audit import PublicReceipt
    from viz.domain.units import Address, Hash32

EXITS: Final = {"reproduced": 0, "different": AUDIT_DIFFERENT, "inconclusive": AUDIT_INCONCLUSIVE}
_SEVERITY: Final = ("reproduced", "inconclusive", "different")
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
MAX_FILE_RECEIPTS: Final = 100_000
_WORDS: Final = {
    "reproduced": "reproduced: everything agrees",
    "different": "different: something does not agree",
    "inconclusive": "inconclusive: nothing disagrees, but not everything could be checked",
}


def finish(found: dict[str, Any], *, as_json: bool) -> None:
    """Print the verdict and its reasons, and end with the verdict's exit code."""
    verdict = found["verdict"]
    if not show(found, as_json=as_json):
        for finding in found.get("findings", ()):
            say(f"finding  {finding}", style="red")
        for missing in found.get("missing", ()):
            say(f"missing  {missing}")
        unchecked = found.get("notChecked", ())
        if unchecked and verdict == "reproduced":
            say(f"reproduced: what was checked agrees. Not checked: {'; '.join(unchecked)}")
        else:
            say(_WORDS[verdict])
    if status := EXITS[verdict]:
        raise typer.Exit(status)


# payouts


@guarded
def payouts(
    to_block: Annotated[
        int, typer.Option("--to", min=0, help="Last block to read. Default: the newest.")
    ] = 0,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild every balance of Settlement from its events, and follow every payout.

    Compares deposits, settled totals, royalties and balances with the contract's own views, each
    distribution with the shares and the owners at that time, and all payments with the token's
    transfers. Exit code 0: everything agrees. 13: something does not.
    """
    trusted = trusted_deployment(deployment, folder)
    found = run(_payouts(required_rpc(rpc, trusted, "an audit of payouts"), trusted, to_block))
    if not as_json:
        rows = [
            ("to block", str(found["toBlock"])),
            ("channels, adapters", f"{found['channels']}, {found['adapters']}"),
            *(
                (what, amount(int(found[key]), trusted))
                for what, key in (
                    ("deposits", "deposits"),
                    ("royalties that wait", "undistributed"),
                    ("balances to collect", "balances"),
                    ("Settlement holds", "held"),
                    ("more than it owes", "beyond"),
                )
            ),
        ]
        lines("Settlement, rebuilt from its events", rows)
    finish(found, as_json=as_json)


async def _payouts(rpc: str, trusted: Deployment, to_block: int) -> dict[str, Any]:
    from viz.chain.settlement_history import SettlementHistory

    async with own_chain(rpc, trusted) as chain:
        last = await chain.rpc.block()
        if to_block > last.number:
            raise InvalidRequest(
                f"--to {to_block} is after the chain's newest block, {last.number}: name that one "
                "or an older one"
            )
        last = await chain.rpc.block(to_block) if to_block else last
        return (await SettlementHistory(chain).read(last)).to_json()


# receipts


@guarded
def receipts(
    files: Annotated[
        list[Path],
        typer.Argument(help="Receipts of one node, as `viz channel receipts FILE` writes them."),
    ],
    node: Annotated[str, typer.Option(help="Address of the node's key.", metavar="ADDRESS")],
    periods: Annotated[
        str,
        typer.Option(
            "--periods",
            metavar="URL",
            help="The node's URL: also check that its published receipts include yours, and add up "
            "to what it claimed.",
        ),
    ] = "",
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Check a node's receipts of your channels against the heads that were settled on the chain.

    `viz channel receipts FILE` gets them from the node. Each must be signed by the node, follow the
    one before it, and add up. If a receipt was changed, left out or replaced after a claim, its
    head differs from the one that your voucher signed and the chain has. Exit code 0: every head
    and sum agrees. 13: one does not. 14: receipts are missing, nothing of a channel was claimed, or
    with --periods, published and claimed amounts are not the same yet.
    """
    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "an audit of receipts")
    unknown: list[str] = []
    given = [each for path in files for each in _read_receipts(path, unknown)]
    own = _own_heads(given, folder, trusted)
    found = run(_receipts(given, own, node, rpc, trusted, periods))
    if unknown:
        found |= {"verdict": "different", "findings": [*found["findings"], *unknown]}
    if not as_json:
        rows = [
            (
                f"channel {each['channelId'][:18]}...",
                f"{counted(each['receipts'], 'receipt')}, "
                f"{amount(int(each['billed']), trusted)} billed, "
                f"{amount(int(each['settled']), trusted)} settled" + _ahead(each, trusted),
            )
            for each in found["channels"]
        ]
        lines("Receipts", rows)
        if periods:
            _say_published(found["published"], trusted)
    finish(found, as_json=as_json)


def _ahead(channel: dict[str, Any], trusted: Deployment) -> str:
    """Say how much more was settled than the receipts bill."""
    rest_units = int(channel["settled"]) - int(channel["billed"])
    if rest_units <= 0:
        return ""
    if int(channel["paidAhead"]):
        return f", {amount(rest_units, trusted)} of it paid ahead"
    return f", {amount(rest_units, trusted)} of it not billed by these receipts"


def _read_receipts(path: Path, unknown: list[str]) -> Sequence[PublicReceipt]:
    """Return a file's receipts; add to ``unknown`` each kind of member that no signature covers."""
    from viz.domain.receipt_audit import PublicReceipt
    from viz.domain.strict_json import load_json
    from viz.protocol.payment import receipts_from_json, unsigned_members

    raw = read_given(path, MAX_FILE_BYTES)
    with about(path, "Give what `viz channel receipts FILE` wrote"):
        try:
            value = load_json(raw, max_values=MAX_FILE_BYTES)
        except ValueError as error:
            raise InvalidRequest(f"it cannot be read as JSON: {error}") from error
        read = receipts_from_json(value, MAX_FILE_RECEIPTS)
    names = set(value) - {"receipts"}
    for item, each in zip(value["receipts"], read, strict=True):
        names |= unsigned_members(item, each)
    unknown += [
        f"{path} has a member {name[:60]!r}, which no receipt has" for name in sorted(names)
    ]
    return [PublicReceipt(each.receipt, each.lines, each.signature) for each in read]


def _own_heads(
    given: Sequence[PublicReceipt], folder: Path | None, trusted: Deployment
) -> dict[Hash32, Hash32]:
    """Return the head of each of these channels in the data folder's own ledgers, if it has any."""
    from viz import log
    from viz.buyer.ledger.spending import channels_on_disk
    from viz.domain.typed_data import channel_id
    from viz.domain.units import ZERO_HASH

    log.configure("warning")
    home, wanted = data_dir(folder) / "buyer", {each.receipt.channel_id for each in given}
    found: dict[Hash32, tuple[int, Hash32]] = {}
    for kept, channel in channels_on_disk(home, trusted):
        if kept.signer is None or channel is None or channel.unlinked:
            continue
        place = channel_id(kept.signer, kept.node)
        # Of several copies of a channel's folder the one with the most receipts counts.
        if place in wanted and channel.seq > found.get(place, (-1, ZERO_HASH))[0]:
            found[place] = channel.seq, channel.head
    return {place: head for place, (_, head) in found.items()}


async def _receipts(
    given: Sequence[PublicReceipt],
    own_heads: dict[Hash32, Hash32],
    node: str,
    rpc: str,
    trusted: Deployment,
    periods: str,
) -> dict[str, Any]:
    from viz.chain.settlement_history import SettlementHistory
    from viz.domain.eip712 import settlement_domain
    from viz.domain.receipt_audit import audit_receipts
    from viz.domain.units import parse_address

    address = parse_address(node)
    async with own_chain(rpc, trusted) as chain:
        last = await chain.rpc.block()
        history = SettlementHistory(chain)
        events = await history.events(last.number)
        channels = {each.receipt.channel_id for each in given}
        _require_node_of(channels, events, address)
        await history.require_settled(events, channels, last.number)
    claims = [event for event in events if event.name == "Claimed"]
    domain = settlement_domain(trusted.chain_id, trusted.settlement)
    chains = audit_receipts(given, claims, node=address, domain=domain, own_heads=own_heads)
    if not periods:
        return chains.to_json()
    from viz.cli.audit.periods import read_periods
    from viz.cli.http import get_as
    from viz.domain.receipt_periods import audit_periods
    from viz.protocol.messages import NodeInfo
    from viz.protocol.payment import NODE_PATH

    earnings = [event for event in events if event.name == "Earned"]
    info = await get_as(NodeInfo.from_json, periods, NODE_PATH)
    if info.node != address:
        raise InvalidRequest(
            f"--periods {periods} is the URL of node {info.node}, and --node is {address}: name "
            "the URL of that node",
            param="periods",
        )
    read = await read_periods(periods)
    published = audit_periods(read, given, earnings, node=address, domain=domain)
    told = chains.to_json()
    return told | {
        "verdict": max(chains.verdict, published.verdict, key=_SEVERITY.index),
        "published": published.to_json(),
        "findings": [*told["findings"], *published.findings],
        "missing": [*told["missing"], *published.missing],
    }


def _require_node_of(channels: Collection[Hash32], events: Sequence[Event], node: Address) -> None:
    """Raise InvalidRequest if a channel is with another node: then nothing could be held against
    the one that was named. A channel's id is the hash of its signer and its node.
    """
    from viz.domain.typed_data import channel_id
    from viz.domain.units import Address

    for event in events:
        if event.name != "ChannelOpened" or event.args["channelId"] not in channels:
            continue
        signer, its_node = Address(event.args["signer"]), Address(event.args["node"])
        if its_node != node and channel_id(signer, its_node) == event.args["channelId"]:
            raise InvalidRequest(
                f"--node {node} is not the node of these receipts' channel, which is with "
                f"{its_node}: name that one",
                param="node",
            )


def _say_published(found: dict[str, Any], trusted: Deployment) -> None:
    rows: list[tuple[str, object]] = [
        ("periods, your receipts in them", f"{len(found['periods'])}, {found['included']}"),
        *((f"root of period {each['number']}", each["root"]) for each in found["periods"][-3:]),
    ]
    rows += [
        (
            f"adapter {each['adapterId']}",
            f"{amount(int(each['published']), trusted)} published, "
            f"{amount(int(each['claimed']), trusted)} claimed",
        )
        for each in found["adapters"]
    ]
    lines("Receipts that the node published", rows)
