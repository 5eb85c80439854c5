"""What a certificate of destruction says in words, and what it does not say."""

from __future__ import annotations

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.cli.creator.certificates import say_certificate
from viz.domain.destruction import HeldItem
from viz.domain.eip712 import public_address, settlement_domain
from viz.domain.units import ContentId
from viz.protocol.destruction import certify

KEY = b"\x11" * 32
WHERE = settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)
CUSTODY = (HeldItem("key of the sealed work", "bafy"), HeldItem("place in custody", "3"))
WEIGHTS = HeldItem("weights", "fae0")


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
    made = certify(
        KEY,
        WHERE,
        public_address(KEY),
        ContentId(3),
        withdrawn_at_s=withdrawn_s,
        due_at_s=1_800_600_000,
        time_s=1_800_700_000,
        destroyed=destroyed,
        left=(),
    )
    assert made.of_custody_only is custody
    say_certificate(made)
    told = capsys.readouterr().out
    assert ("custody ended" in told and "only what the node held for others" in told) is custody
    assert ("use of these ended" in told) is not custody
    assert ("withdrawn" in told) is bool(withdrawn_s)
