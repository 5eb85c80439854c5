"""A front before an honest node that delivers on credit: its bills may exceed what is signed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.api.harness import DEPOSIT, PAYER_KEY, running_node
from tests.integration.buyer.test_front import Front, buying_through, fronting, in_step
from tests.integration.buyer.test_repeating_front import Acts, _first, _second
from tests.integration.buyer.test_untrue_node import ask

from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.errors import NodeUnreachable
from viz.protocol.payment import CHAT_PATH, NAME_HEADER


@asynccontextmanager
async def on_credit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Front, BuyerClient]]:
    """Run a node that asks for no voucher before 50,000 units, a front before it, and a buyer."""
    (folder / "node").mkdir()
    async with running_node(folder / "node", credit_window_units=50_000) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        async with (
            fronting(node, monkeypatch) as front,
            buying_through(front, node, folder / "buyer") as buyer,
        ):
            await buyer.open_channel(PAYER_KEY, DEPOSIT)
            yield front, buyer


@pytest.mark.parametrize("repeats", [_second, _first])
async def test_a_repetition_on_credit_accuses_nobody_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: Acts
) -> None:
    """Its bill exceeds what is signed, as all bills of such a node do: no lie, but bounded."""
    async with on_credit(tmp_path, monkeypatch) as (front, buyer):
        assert await ask(buyer, max_tokens=8)
        front.path, front.acts, front.takes_out = CHAT_PATH, repeats, (NAME_HEADER.lower(),)
        for number in range(2):
            assert await ask(buyer, max_tokens=8, seed=number)
        front.acts = None
        assert await in_step(buyer)
        standing = buyer.voucher_signer.standing
        assert len(standing.broken) == 2 and standing.lost_units > 0


async def test_a_request_written_anew_on_credit_accuses_nobody_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very first bill of a channel, for which nothing is signed yet."""
    async with on_credit(tmp_path, monkeypatch) as (front, buyer):
        front.rewrites = lambda body: body.replace(b": ", b":") + b"\n" if body else body
        with pytest.raises(NodeUnreachable, match="does not match this request"):
            await ask(buyer, max_tokens=8, seed=2)
        front.rewrites = bytes
        assert await in_step(buyer)
        assert len(buyer.voucher_signer.standing.broken) == 1
