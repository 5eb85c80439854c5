"""Check what a certificate of destruction says: against itself, the chain and the clock.

Its signature is ``viz.protocol.destruction``'s. A right signature shows only who says it; a
statement that cannot be true proves no destruction. Invariant: what an honest node certifies, in
any way to a destruction, is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from viz.domain.display import moment
from viz.domain.units import Address
from viz.errors import NodeNotTrusted
from viz.protocol.destruction import DestructionCertificate

# Two endpoints of a chain are some blocks apart, and the reading of a withdrawal takes time.
APART_S: Final = 900
_NO_PROOF: Final = "It proves no destruction: ask the node's operator for a true one"
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class CertainTime:
    """What a certificate is compared with, in seconds since 1970.

    ``newest_s`` is the newest time that can be, and ``whose`` says by whom. ``withdrawn_at_s`` is
    when the chain says that the work was withdrawn (0: never), None if no chain was asked.
    """

    newest_s: int
    whose: str = "the chain's newest time"
    withdrawn_at_s: int | None = None


def require_of(made: DestructionCertificate, asked: Address, known: CertainTime) -> None:
    """Raise NodeNotTrusted if another account signed a certificate than the node that was asked.

    Also if it cannot be true of itself, is of a later time than the newest, or the chain's date of
    the withdrawal is another one. An owner may end a custody before the withdrawal, so a
    certificate of that may have no date.
    """
    signed = made.certificate
    if signed.node != asked:
        raise NodeNotTrusted(
            f"the certificate of {moment(signed.time_s)} is signed by {signed.node}, and the node "
            f"that gave it is {asked}: it is another account's statement, and says nothing of what "
            "this node destroyed"
        )
    require_possible(made)
    if signed.time_s > known.newest_s + APART_S:
        raise NodeNotTrusted(
            f"the certificate says that work {signed.content_id} was destroyed "
            f"{moment(signed.time_s)}, and {known.whose} is {moment(known.newest_s)}: it certifies "
            "what has not happened"
        )
    if known.withdrawn_at_s is not None:
        _require_date(made, known.withdrawn_at_s)


def _require_date(made: DestructionCertificate, withdrawn_at_s: int) -> None:
    """Raise NodeNotTrusted unless a certificate's date of the withdrawal can be the chain's."""
    signed = made.certificate
    if signed.withdrawn_at_s == withdrawn_at_s:
        return
    # Without a date it is an owner's end of the custody, which was before the withdrawal.
    before = withdrawn_at_s and signed.time_s <= withdrawn_at_s + APART_S
    if signed.withdrawn_at_s or not before:
        said, dated = _date(signed.withdrawn_at_s), moment(signed.time_s)
        raise NodeNotTrusted(
            f"the certificate of {dated} says that work {signed.content_id} was withdrawn {said}, "
            f"and the chain says {_date(withdrawn_at_s)}"
        )


def require_possible(made: DestructionCertificate) -> None:
    """Raise NodeNotTrusted for a certificate that cannot be true, whatever chain and clock say."""
    if wrong := _impossible(made):
        raise NodeNotTrusted(
            f"a certificate of work {made.certificate.content_id} cannot be true: {wrong}. "
            f"{_NO_PROOF}"
        )


def _impossible(made: DestructionCertificate) -> str:
    """Return why a certificate cannot be true, whatever the chain says; empty if it can.

    ``dueAt`` may be long before the withdrawal: a trainer can retire its adapter before the owner
    withdraws the work, and its weights are destroyed after that.
    """
    signed = made.certificate
    if not made.destroyed:
        return "it names nothing that was destroyed"
    if both := sorted(set(made.destroyed) & {each.item for each in made.left}):
        return f"it says that {both[0].kind} {both[0].name} was destroyed, and that it was left"
    for name, time_s in (("time", signed.time_s), ("dueAt", signed.due_at_s)):
        if not time_s:
            return f"its {name} is 0, which is no date"
    if not signed.withdrawn_at_s and not made.of_custody_only:
        return (
            "it says that the work was never withdrawn (withdrawnAt 0), and that more was "
            "destroyed than what was held for others: only a withdrawal ends any other use"
        )
    destroyed = moment(signed.time_s)
    if signed.time_s + APART_S < signed.withdrawn_at_s:
        withdrawn = moment(signed.withdrawn_at_s)
        return f"the work was destroyed {destroyed}, before it was withdrawn, {withdrawn}"
    if signed.time_s + APART_S < signed.due_at_s:
        due = moment(signed.due_at_s)
        return f"the work was destroyed {destroyed}, before its use ended, {due} (dueAt)"
    return ""


def require_each_once(found: Sequence[DestructionCertificate]) -> None:
    """Raise NodeNotTrusted if one destruction is certified twice: it is counted as two."""
    statements = [each.certificate for each in found]
    for each in statements:
        if statements.count(each) > 1:
            raise NodeNotTrusted(
                f"the node's answer has its certificate of {moment(each.time_s)} twice: one "
                "destruction has one certificate, so the rest proves nothing more"
            )


def require_no_more(answer: object, understood: object) -> None:
    """Raise NodeNotTrusted if an answer has members that were not understood.

    ``understood`` is what was read of it, as JSON values again. No signature covers the others, and
    whoever shows the answer with another program may take them for the node's statement.
    """
    if more := list(_unknown(answer, understood, "")):
        named = ", ".join(repr(each) for each in more[:_MOST_NAMED])
        raise NodeNotTrusted(
            f"the node's answer says more than a certificate does, in {named}: no signature covers "
            "it, so it is nobody's statement. Read only what is printed here"
        )


def _unknown(answer: Any, understood: Any, path: str) -> list[str]:
    found = []
    if isinstance(answer, dict) and isinstance(understood, dict):
        for name, value in answer.items():
            place = f"{path}.{name}" if path else str(name)
            if name in understood:
                found += _unknown(value, understood[name], place)
            else:
                found.append(place)
    elif isinstance(answer, list) and isinstance(understood, list):
        for index, (value, known) in enumerate(zip(answer, understood, strict=False)):
            found += _unknown(value, known, f"{path}[{index}]")
    return found


def _date(withdrawn_at_s: int) -> str:
    return moment(withdrawn_at_s) if withdrawn_at_s else "never"
