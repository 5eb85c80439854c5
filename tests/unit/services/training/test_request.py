"""A work that cannot be trained on: its trainer learns what is missing, and who has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from viz.domain.units import Address
from viz.errors import InvalidRequest
from viz.protocol.registration import parse_description
from viz.services.market.work_records import draft
from viz.services.training.request import inputs_of

CREATOR = Address("0x" + "11" * 20)
TERMS = """title = "Tides"
kind = "text"
file = "story.txt"
[terms]
training_fee = "2.00"
min_royalty_bps = 800
duration_s = 0
notice_s = 0
revocation_class = 0
uses = ["train"]
needs_approval = false
[license]
text = "all rights reserved"
"""


def test_a_work_without_its_record_says_whom_to_ask(tmp_path: Path) -> None:
    """Protects the trainer: not the names of fields, but the next step, in each of three cases."""
    work = tmp_path / "story.txt"
    with pytest.raises(InvalidRequest, match=r"there is no work .*story\.txt"):
        inputs_of({"works": [{"path": str(work)}]})
    work.write_text("The tide comes in twice a day.", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="ask its creator for the record"):
        inputs_of({"works": [{"path": str(work)}]})
    draft(work, parse_description(TERMS, token_decimals=6), CREATOR)
    with pytest.raises(InvalidRequest, match="drafted and not registered"):
        inputs_of({"works": [{"path": str(work)}]})
