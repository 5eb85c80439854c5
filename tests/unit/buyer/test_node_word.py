"""What a node says of the chain is corrected by the next reading of it, after any restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.signing import Node
from tests.unit.buyer.test_ledger import NODE, observe, opened, pay, receive
from tests.unit.buyer.test_voucher_signer import view

from viz.buyer.ledger.folders import LEDGER_FILE
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.terms.checks import Limits
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain import buyer_channel
from viz.domain.ports.chain import ChannelState
from viz.domain.units import ZERO_ADDRESS
from viz.errors import BooksMismatch


def signer_of(ledger: BuyerLedger, *, reads_chain: bool) -> VoucherSigner:
    client = cast(NodeClient, Node())
    return VoucherSigner(client, ledger, DEPLOYMENT, Limits(), reads_chain=reads_chain)


def reading(ledger: BuyerLedger, deposit: int, settled: int, close_at: int = 0) -> ChannelState:
    return ChannelState(ledger.channel.signer, NODE, NODE, deposit, settled, close_at)


def paying(home: Path) -> BuyerLedger:
    """A channel of 1,000 on which 10, 15 and 40 were signed, while the chain settled nothing."""
    ledger = opened(home)
    ledger.commit_standing(ledger.standing.signed_deposit(NODE, 1_000))
    ledger.commit_said(reading(ledger, 1_000, 0))
    for adapter_id, units in ((3, 10), (9, 5), (3, 35)):
        pay(ledger, adapter_id, units)
    receive(ledger, 1, 3, 7)
    return ledger


def stay(ledger: BuyerLedger, _: Path) -> BuyerLedger:
    return ledger


def restart(ledger: BuyerLedger, home: Path) -> BuyerLedger:
    ledger.close()
    return opened(home)


def restart_compacted(ledger: BuyerLedger, home: Path) -> BuyerLedger:
    ledger._compact()
    return restart(ledger, home)


BETWEEN = pytest.mark.parametrize("between", [stay, restart, restart_compacted])
Between = Callable[[BuyerLedger, Path], BuyerLedger]


@BETWEEN
@pytest.mark.parametrize(
    "lie",
    [
        {"settled_units": 15},
        {"settled_units": 40},
        {"settled_units": 40, "deposit_units": 960},
        {"deposit_units": 0},
        {"deposit_units": 0, "payer": ZERO_ADDRESS},
        {"close_at_s": 1_900_000_000},
    ],
    ids=str,
)
def test_a_reading_of_the_chain_replaces_what_the_node_said(
    tmp_path: Path, between: Between, lie: dict[str, Any]
) -> None:
    """Total, deposit, payer and close are the chain's, and vouchers go on from its total."""
    ledger = paying(tmp_path)
    signer = signer_of(ledger, reads_chain=False)
    signer.note(replace(view(signer), **lie))
    ledger = between(ledger, tmp_path)
    signer_of(ledger, reads_chain=True).observe(reading(ledger, 990, 10))
    ledger = between(ledger, tmp_path)
    channel = ledger.channel
    assert (channel.deposit_units, channel.settled_units, channel.payer) == (990, 10, NODE)
    assert channel.close_at_s == 0
    assert set(channel.points) == {10, 15, 40}
    assert pay(ledger, 3, 60).total_units == 65


@BETWEEN
def test_only_a_reading_of_the_chain_is_a_floor(tmp_path: Path, between: Between) -> None:
    """What the chain settled stays settled, whatever the node and a late endpoint say after."""
    ledger = paying(tmp_path)
    signer_of(ledger, reads_chain=True).observe(reading(ledger, 985, 15))
    ledger = between(ledger, tmp_path)
    for reads_chain in (False, True):
        signer = signer_of(ledger, reads_chain=reads_chain)
        signer.note(view(signer, settled_units=10))
    signer.observe(reading(ledger, 990, 10))
    assert (ledger.channel.settled_units, ledger.channel.proven_units) == (15, 15)
    assert set(ledger.channel.points) == {15, 40}
    with pytest.raises(BooksMismatch):
        ledger.commit_observation(reading(ledger, 990, 10))


@BETWEEN
def test_a_deposit_that_was_denied_is_believed_once_the_chain_showed_it(
    tmp_path: Path, between: Between
) -> None:
    """A second deposit was signed for because the node hid the first: both count again."""
    ledger = paying(tmp_path)
    signer = signer_of(ledger, reads_chain=False)
    signer.note(view(signer, deposit_units=0))
    ledger.commit_standing(ledger.standing.signed_deposit(NODE, ledger.channel.limit_units + 500))
    signer_of(ledger, reads_chain=True).observe(reading(ledger, 1_500, 0))
    ledger = between(ledger, tmp_path)
    signer = signer_of(ledger, reads_chain=False)
    signer.note(view(signer, deposit_units=1_500))
    assert ledger.channel.limit_units == 1_500
    signer.note(view(signer, deposit_units=10**12))
    assert ledger.channel.limit_units == 1_500


def test_a_total_that_was_never_signed_is_not_taken_from_the_node(tmp_path: Path) -> None:
    """Nothing of it is kept; the error says how to learn who is right."""
    ledger = paying(tmp_path)
    before, signer = ledger.channel, signer_of(ledger, reads_chain=False)
    with pytest.raises(BooksMismatch, match="--rpc"):
        signer.note(view(signer, settled_units=12))
    assert restart(ledger, tmp_path).channel == before


def test_end_points_below_the_nodes_word_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buyer that never reads a chain keeps the newest ones, and where the chain stood last."""
    monkeypatch.setattr(buyer_channel, "SAID_POINTS", 3)
    ledger = opened(tmp_path)
    ledger.commit_said(reading(ledger, 1_000, 0))
    for units in range(1, 11):
        pay(ledger, 3, units)
    ledger.commit_said(reading(ledger, 992, 8))
    assert set(ledger.channel.points) == {0, 5, 6, 7, 8, 9, 10}
    ledger.commit_observation(reading(ledger, 1_000, 0))


def test_an_older_ledger_is_read_and_proves_nothing(tmp_path: Path) -> None:
    """It did not tell the node's word from a reading: the next reading corrects it."""
    ledger = paying(tmp_path)
    ledger.commit_said(reading(ledger, 960, 40))
    ledger.close()
    path = next(tmp_path.rglob(LEDGER_FILE))
    path.write_bytes(path.read_bytes().replace(b'"said"', b'"chain"'))
    ledger = opened(tmp_path)
    assert (ledger.channel.settled_units, ledger.channel.proven_units) == (40, 0)
    observe(ledger, 985, 15)
    ledger._compact()
    ledger.close()
    snapshot = json.loads(path.read_bytes())
    del snapshot["proven"]
    path.write_text(json.dumps(snapshot) + "\n", encoding="utf-8")
    ledger = opened(tmp_path)
    assert (ledger.channel.settled_units, ledger.channel.proven_units) == (15, 0)
    observe(ledger, 960, 40)
    assert ledger.channel.proven_units == 40
