"""What a certificate of destruction says in words, and what it does not say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of

from viz.cli.creator.certificates import say_certificate
from viz.creator.certificate_checks import APART_S, CertainTime, require_of
from viz.domain.destruction import LISTING, HeldItem, LeftItem
from viz.domain.eip712 import public_address, settlement_domain
from viz.domain.units import ContentId
from viz.errors import NodeNotTrusted
from viz.protocol.destruction import DestructionCertificate, certify

KEY = b"\x11" * 32
NODE = public_address(KEY)
WHERE = settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)
CUSTODY = (HeldItem("key of the sealed work", "bafy"), HeldItem("place in custody", "3"))
WEIGHTS = HeldItem("weights", "fae0")
DUE_S, TIME_S = 1_800_600_000, 1_800_700_000
LATER = CertainTime(TIME_S)


def certificate(
    withdrawn_at_s: int,
    *destroyed: HeldItem,
    due_at_s: int = DUE_S,
    time_s: int = TIME_S,
    left: tuple[LeftItem, ...] = (),
) -> DestructionCertificate:
    return certify(
        KEY,
        WHERE,
        public_address(KEY),
        ContentId(3),
        withdrawn_at_s=withdrawn_at_s,
        due_at_s=due_at_s,
        time_s=time_s,
        destroyed=destroyed,
        left=left,
    )


@pytest.mark.parametrize(
    ("withdrawn_s", "destroyed", "custody"),
    [
        (1_800_000_000, CUSTODY, True),
        (0, CUSTODY, True),
        (1_800_000_000, (*CUSTODY, WEIGHTS), False),
        (1_800_000_000, (WEIGHTS,), False),
    ],
)
def test_an_end_of_custody_is_no_end_of_sales(
    capsys: pytest.CaptureFixture[str],
    withdrawn_s: int,
    destroyed: tuple[HeldItem, ...],
    custody: bool,
) -> None:
    """Protects the owner: the node may sell an adapter after it, until its retirement."""
    made = certificate(withdrawn_s, *destroyed)
    assert made.of_custody_only is custody
    say_certificate(made, public_address(KEY))
    told = capsys.readouterr().out
    assert ("custody ended" in told and "only what the node held for others" in told) is custody
    assert ("use of these ended" in told) is not custody
    assert ("withdrawn" in told) is bool(withdrawn_s)


def test_another_account_s_certificate_is_shown_as_such(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A right signature is not enough: whoever makes a key can sign that all is destroyed."""
    made, this = certificate(1_800_000_000, WEIGHTS), address_of(9)
    say_certificate(made, this)
    assert f"{public_address(KEY)}, which is NOT this node ({this})" in capsys.readouterr().out
    with pytest.raises(NodeNotTrusted, match="another account's statement"):
        require_of(made, this, LATER)
    say_certificate(made, made.certificate.node)
    assert "NOT" not in capsys.readouterr().out
    require_of(made, made.certificate.node, LATER)


@pytest.mark.parametrize(
    ("said", "on_chain", "destroyed", "agrees"),
    [
        (5, None, WEIGHTS, True),
        (5, 5, WEIGHTS, True),
        (5, 6, WEIGHTS, False),
        (5, 0, WEIGHTS, False),
        (0, 0, CUSTODY[0], True),
        (0, TIME_S + 1, CUSTODY[0], True),
        (0, TIME_S - APART_S, CUSTODY[0], True),
        (0, TIME_S - APART_S - 1, CUSTODY[0], False),
        (4, 5, CUSTODY[0], False),
    ],
)
def test_the_chain_s_date_of_the_withdrawal_is_compared(
    said: int, on_chain: int | None, destroyed: HeldItem, agrees: bool
) -> None:
    """An owner may end a custody first, and withdraw the work later: that has no date.

    After the withdrawal a custody's end has its date too.
    """
    made = certificate(said, destroyed)
    chain = CertainTime(TIME_S, withdrawn_at_s=on_chain)
    if agrees:
        require_of(made, public_address(KEY), chain)
        return
    with pytest.raises(NodeNotTrusted, match="and the chain says"):
        require_of(made, public_address(KEY), chain)


@pytest.mark.parametrize(
    ("withdrawn_s", "due_s", "time_s", "destroyed", "why"),
    [
        (5, DUE_S, TIME_S, (), "names nothing that was destroyed"),
        (0, DUE_S, 0, CUSTODY, "its time is 0"),
        (5, 0, TIME_S, (WEIGHTS,), "its dueAt is 0"),
        (TIME_S, 1, TIME_S - APART_S - 1, (WEIGHTS,), "before it was withdrawn"),
        (5, TIME_S, TIME_S - APART_S - 1, (WEIGHTS,), "before its use ended"),
        (5, 2**64 - 1, TIME_S, (WEIGHTS,), "before its use ended"),
        (0, DUE_S, TIME_S, (WEIGHTS,), "never withdrawn .* than what was held for others"),
        (0, DUE_S, TIME_S, (*CUSTODY, WEIGHTS), "never withdrawn .* what was held for others"),
        (0, DUE_S, TIME_S, (HeldItem(LISTING, "3"),), "never withdrawn"),
    ],
)
def test_a_certificate_with_impossible_dates_is_refused(
    withdrawn_s: int, due_s: int, time_s: int, destroyed: tuple[HeldItem, ...], why: str
) -> None:
    """Protects the owner: the node's signature is right, and what it says cannot have happened."""
    made = certificate(withdrawn_s, *destroyed, due_at_s=due_s, time_s=time_s)
    for known in (LATER, CertainTime(TIME_S, withdrawn_at_s=withdrawn_s)):
        with pytest.raises(NodeNotTrusted, match=f"work 3 cannot be true: .*{why}"):
            require_of(made, public_address(KEY), known)


def test_nothing_is_destroyed_and_left_at_once() -> None:
    """Protects the owner: the signature covers both lists, and one of them is false."""
    both = LeftItem(WEIGHTS.kind, WEIGHTS.name, "others use them")
    made = certificate(5, WEIGHTS, left=(both,))
    with pytest.raises(NodeNotTrusted, match="weights fae0 was destroyed, and that it was left"):
        require_of(made, public_address(KEY), LATER)
    require_of(certificate(5, WEIGHTS, left=(replace(both, name="be10"),)), NODE, LATER)


@pytest.mark.parametrize(
    ("withdrawn_s", "due_s", "time_s", "destroyed"),
    [
        pytest.param(0, TIME_S, TIME_S, CUSTODY, id="a custody that its owner ended"),
        pytest.param(TIME_S, TIME_S, TIME_S, CUSTODY, id="a custody, as the work was withdrawn"),
        pytest.param(
            TIME_S + 20, TIME_S, TIME_S, CUSTODY, id="an endpoint that is some blocks behind"
        ),
        pytest.param(
            DUE_S, DUE_S - 86_400 * 365, TIME_S, (WEIGHTS,),
            id="weights of an adapter that its trainer retired a year before the withdrawal",
        ),
        pytest.param(DUE_S, DUE_S + 3_600, TIME_S, (HeldItem(LISTING, "3"),), id="a listing"),
    ],
)  # fmt: skip
def test_what_an_honest_node_certifies_is_taken(
    withdrawn_s: int, due_s: int, time_s: int, destroyed: tuple[HeldItem, ...]
) -> None:
    """Protects the node: each is what some way to a destruction gives."""
    made = certificate(withdrawn_s, *destroyed, due_at_s=due_s, time_s=time_s)
    require_of(made, public_address(KEY), LATER)
    require_of(made, public_address(KEY), CertainTime(TIME_S, withdrawn_at_s=withdrawn_s))


def test_what_has_not_happened_is_not_certified() -> None:
    """The chain's newest time bounds it; endpoints of one chain are some blocks apart."""
    made, chain = certificate(5, WEIGHTS), CertainTime(TIME_S - APART_S, withdrawn_at_s=5)
    require_of(made, public_address(KEY), chain)
    with pytest.raises(NodeNotTrusted, match="certifies what has not happened"):
        require_of(made, public_address(KEY), replace(chain, newest_s=chain.newest_s - 1))


def test_a_listing_s_end_is_no_end_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Protects the owner: adapters and custody may go on after it."""
    made = certificate(1_800_000_000, HeldItem(LISTING, "3"))
    say_certificate(made, public_address(KEY))
    told = capsys.readouterr().out
    assert "listing ended" in told and "only the listing with its sample" in told
    assert "use of these ended" not in told and "custody ended" not in told
