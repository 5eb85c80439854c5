"""What `viz audit node` reports: the offers, the money and the answer, as JSON and in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from viz.cli.console import lines
from viz.domain.display import amount, counted

if TYPE_CHECKING:
    from viz.audit.offer_audit import OfferAudit
    from viz.buyer.probe import ProbeEvidence
    from viz.domain.ports.chain import Deployment


def report_of(
    found: ProbeEvidence, offers: OfferAudit | None, money: dict[str, Any], file: Path | None
) -> dict[str, Any]:
    """Return the report as JSON values, without a verdict."""
    told = offers.to_json() if offers else {"adapters": [], "findings": [], "remarks": []}
    return {
        "offers": told,
        "receipts": len(found.receipts),
        "money": money,
        "replay": None,
        "record": str(file) if file else None,
        "recordFile": file,
        "findings": [*told["findings"], *found.findings],
        "missing": list(found.missing),
    }


def not_checked(found: dict[str, Any]) -> list[str]:
    """Return what nobody asked to be checked, and a verdict must not be read to include."""
    answer = [] if found["replay"] else ["whether the sold weights gave the answer"]
    told: list[str] = found["offers"].get("unchecked", [])
    return answer + told


def say_report(found: dict[str, Any], trusted: Deployment) -> None:
    """Print a report for a person."""
    money = found["money"]
    rows: list[tuple[str, object]] = [
        ("offers compared", len(found["offers"]["adapters"])),
        *(("remark", each) for each in found["offers"]["remarks"]),
        ("receipts", found["receipts"]),
    ]
    if money:
        rows += [
            ("billed", amount(int(money["billed"]), trusted)),
            ("claimed", amount(int(money["claimed"]), trusted)),
        ]
        for each in money["earned"]:
            rows.append(
                (
                    f"adapter {each['adapterId']}",
                    f"earned {amount(int(each['earned']), trusted)} in block {each['block']}: "
                    f"{amount(int(each['toWorks']), trusted)} to works, "
                    f"{amount(int(each['toTrainer']), trusted)} to its trainer, "
                    f"{amount(int(each['toNode']), trusted)} to the node",
                )
            )
            rows += [
                (
                    f"work {part['contentId']}",
                    f"{amount(int(part['units']), trusted)}, "
                    f"{'paid to' if part['paid'] else 'waits for'} {part['owner']}",
                )
                for part in each["works"]
            ]
    replay = found["replay"]
    said = "not replayed: give --weights, or --base-model for the base alone"
    rows.append(("answer", f"{counted(replay['tokens'], 'token')} replayed" if replay else said))
    if found["record"]:
        rows.append(("record", found["record"]))
    lines("Node, audited", rows)
