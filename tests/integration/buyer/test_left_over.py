"""What is signed ahead at a node and not used up does not grow with its adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, PAYER_KEY, Node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.rogue import PAUSE, Part, Rogue
from tests.integration.buyer.test_untrue_node import DONE, ask, said

from viz.buyer.channels import sync as channel_sync
from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address
from viz.domain.pricing import Price
from viz.domain.units import AdapterId
from viz.errors import TooMuchLeftOver, VizError

DEAR = Price(50_000_000, 100_000_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_sync, "LATE_BILL_WAITS_S", (0.0, 0.001))


def _offering(client: BuyerClient, count: int) -> list[AdapterId]:
    """Let the node offer so many more adapters, at the dearest price; return their ids."""
    known = next(each for each in client.info.adapters if each.adapter_id == ADAPTER)
    more = tuple(
        replace(
            known,
            adapter_id=AdapterId(each),
            model=f"viz-adapter-{each}",
            name=f"m{each}",
            prompt_price_units=DEAR.prompt_price_units,
            completion_price_units=DEAR.completion_price_units,
        )
        for each in range(100, 100 + count)
    )
    client.node.info = replace(client.info, adapters=client.info.adapters + more)
    return [each.adapter_id for each in more]


@pytest.mark.parametrize("choices", [1, 8])
async def test_what_good_answers_leave_over_does_not_grow_with_the_adapters(
    node: Node, tmp_path: Path, choices: int
) -> None:
    """The whole ceiling demanded, three letters sent and billed, at one adapter after another.

    That was 2,196,000 units after 40 questions, and 413,300 for each adapter with eight choices.
    """
    rogue = Rogue()
    node.chain.balances[public_address(PAYER_KEY)] = 10**12
    async with buying(node, tmp_path / "buyer") as buyer:
        await buyer.open_channel(PAYER_KEY, 900_000_000)
        rogue.attach(buyer)
        errors: list[VizError] = []
        for adapter_id in _offering(buyer, 8):

            def script(body: bytes, adapter_id: AdapterId = adapter_id) -> list[Part]:
                ceiling = buyer.voucher_signer.ceiling_units
                return [
                    *[said("a"), *[PAUSE] * 3],
                    lambda: rogue.need(ceiling(adapter_id), adapter_id),
                    *[PAUSE] * 6,
                    *[said("a")] * 2,
                    lambda: rogue.bill(body, "aaa", 20 * 50 + 3 * 100, adapter_id),
                    DONE,
                ]

            rogue.script = script
            try:
                await ask(buyer, model=f"viz-adapter-{adapter_id}", max_tokens=5_000, n=choices)
            except VizError as error:
                errors.append(error)
        standing = buyer.voucher_signer.standing
        room = standing.allowed_units + rogue.billed_units
        step = choices * DEAR.amount_units(0, 512)
        assert standing.allowed_units <= step + 1_000 + 300 and not standing.fault
        assert rogue.held_units - rogue.billed_units <= room + step + 1_300
        assert not errors or all(isinstance(each, TooMuchLeftOver) for each in errors)
