"""The buyer's folder was copied, or restored from a backup: the honest node is not accused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.integration.api.harness import DEPOSIT, PAYER_KEY, Node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_front import Front, buying_through, front, in_step
from tests.integration.buyer.test_untrue_node import ask, chat

from viz.buyer.terms.checks import Limits
from viz.errors import BooksMismatch, NodeUnreachable
from viz.protocol.payment import CHAT_PATH

__all__ = ["front"]
LONG = [{"role": "user", "content": "When is high tide? " * 20}]


async def test_a_restored_backup_names_the_copy_and_a_way_out(node: Node, tmp_path: Path) -> None:
    """The node bills what the other copy asked: it was a liar for good, and nothing helped."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert await ask(client, max_tokens=8)
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    async with buying(node, tmp_path / "b") as client:
        for number in range(3):
            assert await ask(client, max_tokens=100, seed=number)
    async with buying(node, tmp_path / "copy") as restored:
        signed = restored.channel.total_units
        for _ in range(2):
            with pytest.raises(BooksMismatch, match=r"another copy.*`viz channel leave`"):
                await ask(restored, max_tokens=8)
        assert not restored.voucher_signer.fault and restored.channel.total_units == signed
    async with buying(node, tmp_path / "b") as client:
        assert await ask(client, max_tokens=8, seed=9)


async def test_two_copies_that_ask_in_turn_accuse_nobody_for_good(
    node: Node, tmp_path: Path
) -> None:
    """The copy that signed less is told why; the other goes on, and has paid what both asked."""
    async with buying(node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert await ask(client, max_tokens=8)
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    told = 0
    async with buying(node, tmp_path / "b") as one, buying(node, tmp_path / "copy") as two:
        for number in range(3):
            for client in (one, two):
                try:
                    await ask(client, max_tokens=100, seed=number)
                except BooksMismatch as error:
                    assert "another copy" in error.detail
                    told += 1
        assert told and not one.voucher_signer.fault and not two.voucher_signer.fault
        ahead = max((one, two), key=lambda client: client.channel.total_units)
        assert await ask(ahead, max_tokens=8, seed=9)


async def test_a_bill_is_no_lie_because_the_cap_is_lower_now(
    front: Front, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request written anew on its way is billed, and a process with a smaller `--max-cost` reads
    the bill first. What was signed bounds it, not the cap of the moment."""

    async def unread(*_: object) -> None:
        return None

    async with buying_through(front, node, tmp_path / "b") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        assert await ask(client, max_tokens=8)
        front.path = CHAT_PATH
        front.rewrites = lambda body: body.replace(b": ", b":") + b"\n" if body else body
        for name in ("sync", "sync_for_bill"):
            monkeypatch.setattr(client._sync, name, unread)
        with pytest.raises(NodeUnreachable, match="does not match this request"):
            async with client.ask(chat(max_tokens=300, seed=3, messages=LONG)) as answer:
                async for _ in answer:
                    pass
        front.rewrites = bytes
    async with buying_through(front, node, tmp_path / "b", Limits(request_units=400)) as client:
        assert await in_step(client)
        assert len(client.voucher_signer.standing.broken) == 1
