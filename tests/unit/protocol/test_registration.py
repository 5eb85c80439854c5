"""Terms files and registration messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from viz.domain.license import ADAPTER_USES, Terms, Use
from viz.domain.typed_data import Register
from viz.domain.units import Address, Hash32
from viz.errors import InvalidRequest, InvalidWork
from viz.protocol.registration import RegistrationContext, SignedRegistration, parse_description

WORKS = Path(__file__).parents[3] / "examples" / "works"
CREATOR = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
TERMS = Terms(2**96 - 1, 10_000, 2**32 - 1, 90 * 24 * 3600, 2, 31, True)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in WORKS.glob("*/terms.toml")))
def test_the_example_works_can_be_licensed_and_served(name: str) -> None:
    """Every committed terms file is whole, and permits what an adapter needs."""
    text = (WORKS / name / "terms.toml").read_text(encoding="utf-8")
    found = parse_description(text, token_decimals=6)
    assert found.terms.permits(ADAPTER_USES)
    assert (WORKS / name / found.file).is_file()
    assert found.terms.training_fee_units % 10_000 == 0


GOOD = """
title = "t"
kind = "text"
file = "work.txt"
[terms]
training_fee = "1.5"
min_royalty_bps = 100
duration_s = 0
notice_s = 0
revocation_class = 0
uses = ["train", "evaluate"]
needs_approval = false
[license]
text = "be kind"
limit = 3
"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("title", "titel", "unknown key 'titel'"),
        ("notice_s = 0", "notice_s = 7776001", "90 days"),
        ("notice_s = 0", "notice_s = true", "'notice_s'"),
        ("notice_s = 0\n", "", "lacks 'notice_s'"),
        ('"1.5"', '"1.2345678"', "at most 6 decimals"),
        ('"1.5"', "1.5", "'training_fee'"),
        ('"train"', '"sell"', "'sell' is not a use"),
        ('["train", "evaluate"]', "[]", "at least one use"),
        ("revocation_class = 0", "revocation_class = 3", "0, 1 or 2"),
        ('text = "be kind"', "", "a text"),
        ("[terms]", "terms", "not TOML"),
    ],
)
def test_a_wrong_terms_file_names_the_key(old: str, new: str, reason: str) -> None:
    """Whoever wrote it learns what to correct."""
    with pytest.raises(InvalidWork, match=reason):
        parse_description(GOOD.replace(old, new, 1), token_decimals=6)


def test_the_license_hash_covers_every_condition_and_no_spelling() -> None:
    """Spacing and order of the license table change nothing; any value does."""
    found = parse_description(GOOD, token_decimals=6)
    assert found.terms.training_fee_units == 1_500_000
    assert found.terms.uses == Use.TRAIN | Use.EVALUATE
    turned = GOOD.replace('text = "be kind"\nlimit = 3', 'limit    =   3\ntext = "be kind"')
    assert parse_description(turned, token_decimals=6).license_hash == found.license_hash
    other = GOOD.replace("limit = 3", "limit = 4")
    assert parse_description(other, token_decimals=6).license_hash != found.license_hash


def test_messages_come_back_as_sent() -> None:
    """The largest values survive JSON; a cut one is refused."""
    register = Register(CREATOR, Hash32(b"\1" * 32), Hash32(b"\2" * 32), TERMS, 2**40, 2**63)
    signed = SignedRegistration(register, b"\3" * 65)
    assert SignedRegistration.from_json(signed.to_json()) == signed
    context = RegistrationContext(1, CREATOR, CREATOR, 2**70, 1_800_000_000, 6)
    assert RegistrationContext.from_json(context.to_json()) == context
    cut = signed.to_json()
    del cut["register"]["nonce"]
    with pytest.raises(InvalidRequest, match="lacks 'nonce'"):
        SignedRegistration.from_json(cut)
