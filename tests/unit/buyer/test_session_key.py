"""How a channel's session key is encrypted, which often shares the wallet's password."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.chain import DEPLOYMENT

from viz.buyer.ledger.ledger import BuyerLedger
from viz.domain.units import Address

NODE = Address("0x00000000000000000000000000000000000000AA")
PASSWORD = "the wallet's too"


def test_a_new_session_key_costs_what_owasp_asks_and_an_older_file_still_opens(
    tmp_path: Path,
) -> None:
    """Guesses at this file are guesses at the wallet; a channel from before must not be lost."""
    BuyerLedger.open(tmp_path / "new", DEPLOYMENT, NODE, PASSWORD).close()
    (new,) = (tmp_path / "new").rglob("session.key.json")
    parameters = json.loads(new.read_text("utf-8"))["crypto"]["kdfparams"]
    assert [parameters[name] for name in "nrp"] == [2**17, 8, 1]
    old = BuyerLedger.open(tmp_path / "old", DEPLOYMENT, NODE, PASSWORD, scrypt_n=2**16)
    key = old.session_key
    old.close()
    again = BuyerLedger.open(tmp_path / "old", DEPLOYMENT, NODE, PASSWORD)
    assert again.session_key == key
    again.close()
