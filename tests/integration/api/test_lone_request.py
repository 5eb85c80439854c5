"""Whose thread commits what a request pays: the event loop's only where nobody else waits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, Buyer, running_node

from viz.protocol import payment
from viz.protocol.credential import voucher_to_text
from viz.store import lone


async def test_only_a_lone_request_is_committed_by_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One buyer's voucher and receipt are; beside another request, another buyer's are not."""
    monkeypatch.setattr(lone, "FAST_COMMITS", 0)
    seen: list[tuple[str, bool]] = []

    def hook(point: str) -> None:
        seen.append((point, threading.current_thread() is threading.main_thread()))

    async with running_node(tmp_path, hook=hook) as node:
        buyers = [await Buyer(node, key=bytes([number]) * 32).ready() for number in (0x33, 0x44)]

        async def pay_and_ask(buyer: Buyer, up_to: int) -> list[tuple[str, bool]]:
            seen.clear()
            rides = {payment.VOUCHER_HEADER: voucher_to_text(buyer.voucher(ADAPTER, up_to, 0))}
            answer = await buyer.ask(headers=rides, pays=False)
            assert answer.status == 200, answer.body
            return [each for each in seen if each[0].endswith(":after")]

        assert await pay_and_ask(buyers[0], 1_000) == [
            ("voucher:after", True),
            ("receipt:after", True),
        ]
        with node.store.answering():  # another client's request, which takes long
            others = await pay_and_ask(buyers[1], 1_000)
        assert others == [("voucher:after", False), ("receipt:after", False)]
        again = await pay_and_ask(buyers[0], 2_000)
        assert again == [("voucher:after", True), ("receipt:after", True)]
