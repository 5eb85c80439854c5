"""A request with a name is served once, also if its sender did not repeat it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.api.harness import ADAPTER, Buyer, running_node

from viz.api.openai.named_requests import NAME_KEPT_S, NAMED
from viz.domain.receipt import salt_of_name
from viz.domain.units import hex_of
from viz.protocol import payment
from viz.protocol.payment import MAX_NAME_CHARS, NAME_HEADER


async def test_a_name_is_taken_by_what_was_served_and_by_nothing_else(tmp_path: Path) -> None:
    """A refusal leaves the name free; a name is its signer's own, and ends after an hour."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        body, named = buyer.chat(max_tokens=8), {NAME_HEADER: "one"}
        assert (await buyer.ask(body, headers=named, pays=False)).status == 402
        await buyer.pay(payment.VOUCHERS_PATH, buyer.voucher(ADAPTER, 40_000, 0))
        assert (await buyer.ask(body, headers=named, pays=False)).status == 200
        again = await buyer.ask(body, headers=named, pays=False)
        assert (again.status, again.body["code"]) == (409, "store-conflict")
        assert (await buyer.ask(body, headers={NAME_HEADER: "two"}, pays=False)).status == 200
        assert (await buyer.ask(body, pays=False)).status == 200
        kept = await node.store.receipts(buyer.signer)
        salts = [json.loads(each.body)["requestSalt"] for each in kept]
        assert salts[:2] == [hex_of(salt_of_name(name)) for name in ("one", "two")]
        assert len({*salts}) == 3
        for bad in ("", "x" * (MAX_NAME_CHARS + 1)):
            refused = await buyer.ask(body, headers={NAME_HEADER: bad}, pays=False)
            assert (refused.status, refused.body["code"]) == (400, "invalid-request")
        node.clock.now += NAME_KEPT_S + 1
        with node.app[NAMED].once(buyer.signer, "one") as after_an_hour:
            assert not after_an_hour.served
