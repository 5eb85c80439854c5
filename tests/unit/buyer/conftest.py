"""The node and the voucher signer of a buyer's unit tests; each module makes its own ledger."""

from __future__ import annotations

import pytest
from tests.unit.buyer.signing import Node, signer_of

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.vouchers.voucher_signer import VoucherSigner


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def voucher_signer(ledger: BuyerLedger, node: Node) -> VoucherSigner:
    return signer_of(ledger, node)
