"""What is written into the directory, and what is not worth a transaction."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.chain import FakeChain

from viz.domain.ports.transactions import Call
from viz.errors import ChainUnreachable, InvalidRequest
from viz.services.market.announcing import RETRY_S, Announcing

URL = "https://node.example"


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain(b"\x11" * 32)


def announcing(chain: FakeChain, **changes: Any) -> Announcing:
    return Announcing(chain, chain, **{"public_url": URL, "age_key": "age1x", **changes})


async def test_an_entry_is_sent_once(chain: FakeChain) -> None:
    """A restart costs no gas; a change of URL or key does."""
    await announcing(chain).run()
    entry = chain.directory[chain.address]
    assert (entry.url, entry.age_key) == (URL, "age1x")
    await announcing(chain).run()
    assert (await announcing(chain).announce(URL + "/")).transaction is None
    assert chain.sent == [Call("NodeDirectory", "announce", (URL, "age1x"))]
    await announcing(chain, age_key="age1y").run()
    assert chain.directory[chain.address].age_key == "age1y"


async def test_withdrawing_takes_the_entry_off_and_says_if_there_is_none(chain: FakeChain) -> None:
    node = announcing(chain)
    await node.announce()
    done = await node.withdraw()
    assert done.entry is None and done.transaction and chain.directory == {}
    with pytest.raises(InvalidRequest, match="nothing to withdraw"):
        await node.withdraw()


UNUSABLE = [
    "http://127.0.0.1:8402",
    "http://localhost:8402",
    "http://10.1.2.3",
    "http://[::1]:8402",
    "http://[::ffff:127.0.0.1]",
    "https://node.example/path",
    "https://user@node.example",
    "node.example",
    "https://" + "a" * 260 + ".example",
]


@pytest.mark.parametrize("url", UNUSABLE)
async def test_a_url_that_nobody_could_ask_costs_no_gas(chain: FakeChain, url: str) -> None:
    with pytest.raises(InvalidRequest):
        await announcing(chain).announce(url)
    await announcing(chain, public_url=url).run()
    assert chain.sent == []


async def test_without_a_url_nothing_is_announced(chain: FakeChain) -> None:
    await announcing(chain, public_url="").run()
    with pytest.raises(InvalidRequest, match="public_url"):
        await announcing(chain, public_url="").announce()
    assert chain.sent == []


async def test_for_tests_on_one_machine_a_private_address_is_announced(chain: FakeChain) -> None:
    node = announcing(chain, public_url="", private_addresses=True)
    done = await node.announce("http://127.0.0.1:8402")
    assert done.entry and done.entry.url == "http://127.0.0.1:8402"


async def test_a_chain_that_is_away_at_the_start_is_waited_for(
    chain: FakeChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node announces itself once its chain answers, without its operator."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        chain.down = False

    monkeypatch.setattr("viz.services.market.announcing.asyncio.sleep", sleep)
    chain.down = True
    await announcing(chain).run()
    assert waits == [RETRY_S] and chain.address in chain.directory
    chain.down = True
    with pytest.raises(ChainUnreachable):
        await announcing(chain).announce("https://other.example")
