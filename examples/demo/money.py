"""The last stages of the demo: claim, distribute, close, and a table in which every unit is found.

Reads the chain itself: nothing of it is the node's word.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rich.table import Table

from examples.demo.stages import Story
from examples.demo.world import DemoError
from viz.chain.contracts import Chain
from viz.chain.deployment import load_deployment
from viz.chain.rpc import Rpc
from viz.domain.ports.chain import AdapterState
from viz.domain.shares import Share, Split, distribute, split_revenue
from viz.domain.units import AdapterId, Units, format_units, parse_address


@dataclass(frozen=True, slots=True)
class Books:
    """Who has what, read from the chain; all in token base units."""

    contract: Units
    channel_left: Units
    settled: Units
    buyer: Units
    operator: Units
    collectable: Units
    trainer_earned: Units
    creators: dict[str, Units]
    undistributed: Units
    rounding: Units

    @property
    def accounted(self) -> Units:
        """What the contract should hold: unspent deposits, royalties, balances, rounding."""
        return self.channel_left + self.undistributed + self.collectable + self.rounding


def read_books(story: Story) -> Books:
    """Read every balance that the demo moved."""
    return asyncio.run(_read(story))


async def _read(story: Story) -> Books:
    deployment = load_deployment(story.world.folder / "deployment.json")
    rpc = Rpc(story.world.rpc_url)
    try:
        chain = Chain(rpc, deployment)
        operator, buyer = parse_address(story.operator), parse_address(story.buyer)
        channel = await chain.channel(parse_address(story.signer), operator)
        if channel is None:
            raise DemoError("the chain knows no channel of the buyer's")
        ids = [AdapterId(adapter.adapter_id) for adapter in story.adapters]
        return Books(
            contract=await chain.token_balance(deployment.settlement),
            channel_left=channel.deposit_units,
            settled=channel.settled_units,
            buyer=await chain.token_balance(buyer),
            operator=await chain.token_balance(operator),
            collectable=await chain.collectable(operator),
            creators={
                name: await chain.token_balance(parse_address(address))
                for name, address in story.creators.items()
            },
            undistributed=sum([await chain.settlement.undistributed(each) for each in ids]),
            rounding=sum([await _rounding(chain, each) for each in ids]),
            trainer_earned=sum([(await _split(chain, each)).to_trainer_units for each in ids]),
        )
    finally:
        await rpc.close()


async def _split(chain: Chain, adapter_id: AdapterId) -> Split:
    """Return how an adapter's revenue so far divides, recomputed from the chain's totals."""
    adapter = await _adapter(chain, adapter_id)
    gross = await chain.settlement.revenue(adapter_id)
    return split_revenue(0, gross, royalty_bps=adapter.royalty_bps, trainer_bps=adapter.trainer_bps)


async def _adapter(chain: Chain, adapter_id: AdapterId) -> AdapterState:
    if (adapter := await chain.adapter(adapter_id)) is None:
        raise DemoError(f"the chain knows no adapter {adapter_id}")
    return adapter


async def _rounding(chain: Chain, adapter_id: AdapterId) -> Units:
    """Return what the floors of an adapter's splits keep back until its revenue grows."""
    adapter, parts = await _adapter(chain, adapter_id), await _split(chain, adapter_id)
    gross = await chain.settlement.revenue(adapter_id)
    divided = parts.to_contents_units - await chain.settlement.undistributed(adapter_id)
    received = sum(units for _, units in distribute(0, divided, map(Share._make, adapter.shares)))
    split = parts.to_contents_units + parts.to_trainer_units + parts.to_node_units
    return gross - split + divided - received


def settlement(story: Story) -> None:
    """The node claims in one batch, the royalties are distributed, every unit is accounted for."""
    world = story.world
    before = read_books(story)
    done = world.json("settle", "--node", world.node_url)
    after = read_books(story)
    claim = done["claim"]
    gas = sum(sent["gas_used"] for sent in claim["transactions"])
    story.say(f"claimed {claim['settled']} voucher in one batch, {gas:,} gas")
    deposit_fell = before.channel_left - after.channel_left
    royalties = {name: after.creators[name] - before.creators[name] for name in after.creators}
    trainer_and_node = after.collectable - before.collectable
    trainer = after.trainer_earned - before.trainer_earned
    _table(
        story,
        "What the buyer paid, and who has it",
        [
            ("the buyer's deposit fell by", deposit_fell),
            *((f"royalties of {name}", amount) for name, amount in royalties.items()),
            ("the trainer's part, to collect", trainer),
            ("the node's part, to collect", trainer_and_node - trainer),
            ("not distributed yet", after.undistributed - before.undistributed),
            ("rounding, paid as revenue grows", after.rounding - before.rounding),
        ],
    )
    kept = (after.undistributed + after.rounding) - (before.undistributed + before.rounding)
    parts = sum(royalties.values()) + trainer_and_node + kept
    if deposit_fell != parts or deposit_fell != after.settled - before.settled:
        raise DemoError(f"{deposit_fell} units were paid and {parts} arrived")
    if any(amount <= 0 for amount in royalties.values()):
        raise DemoError("a creator was paid nothing")
    _accounted(story, after)


def closing(story: Story) -> None:
    """The buyer closes with the node's consent and has the rest back; the node collects."""
    world = story.world
    world.end("proxy")  # one process at a time signs for a channel
    before = read_books(story)
    key = world.folder / "buyer.key.json"
    world.viz("channel", "close", "--key", key, "--node", world.node_url)
    world.json("settle", "--collect", "--node", world.node_url)
    after = read_books(story)
    back = after.buyer - before.buyer
    _table(
        story,
        "After the close",
        [
            ("the buyer has back", back),
            ("the buyer spent in all", after.settled),
            ("the node collected", after.operator - before.operator),
            ("left in Settlement: rounding", after.contract),
        ],
    )
    if after.channel_left or back + after.settled != before.channel_left + before.settled:
        raise DemoError("the rest of the deposit did not come back whole")
    _accounted(story, after)


def _accounted(story: Story, books: Books) -> None:
    if books.contract != books.accounted:
        raise DemoError(f"Settlement holds {books.contract}, the books say {books.accounted}")
    story.say(
        f"Settlement holds {books.contract} units = deposits {books.channel_left} + royalties "
        f"{books.undistributed} + balances {books.collectable} + rounding {books.rounding}: "
        "equal to the last unit"
    )


def _table(story: Story, title: str, rows: list[tuple[str, Units]]) -> None:
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("what")
    drawn.add_column("vUSD", justify="right")
    for name, units in rows:
        drawn.add_row(name, format_units(units, 6))
    story.world.console.print(drawn)
