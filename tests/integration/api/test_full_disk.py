"""Paid requests over HTTP while the disk of the ledger is nearly full."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.integration.api.harness import Buyer, running_node

from viz.store import faults


async def test_no_new_work_is_taken_on_a_nearly_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last room is for the vouchers of what runs: a new request is refused and not billed.

    The refusal names the disk, and the node sells again once there is room.
    """
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        assert (await buyer.ask()).status == 200
        record = await node.store.channel(buyer.signer)
        left = SimpleNamespace(f_bavail=faults.LEAST_ROOM_BYTES // 4096 - 1, f_frsize=4096)
        with monkeypatch.context() as full:
            full.setattr(os, "statvfs", lambda _: left)
            node.store._db.room._read_at = float("-inf")
            refused = await buyer.ask()
            body = refused.body
            assert refused.status == 503 and "store-full" in str(body), body
            assert "try again" in str(body) and refused.receipt is None
            assert await node.store.channel(buyer.signer) == record
        node.store._db.room._read_at = float("-inf")
        assert (await buyer.ask()).status == 200
