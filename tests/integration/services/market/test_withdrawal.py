"""From a withdrawal to the end of use, on a real chain whose time is moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from tests.integration.chain.testnet import CLOSE_DELAY_S, Testnet, terms
from tests.integration.services.claiming import SystemClock

from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId, ContentId
from viz.errors import ChainUnreachable, LicenseError
from viz.services.market.licensing import Licensing
from viz.services.market.withdrawal import LICENSE_ENDED, WITHDRAWN, WithdrawalWatch

DAY_S = 86_400
NODE = 5


@dataclass
class Offers:
    """The adapters that the node sells, and those that ended."""

    ids: list[AdapterId]
    ended: dict[AdapterId, AdapterEnd] = field(default_factory=dict)

    def adapter_ids(self) -> Sequence[AdapterId]:
        return list(self.ids)

    async def end(self, adapter_id: AdapterId, end: AdapterEnd) -> None:
        self.ids.remove(adapter_id)
        self.ended[adapter_id] = end


@dataclass
class Runs:
    """Trainings under way, and why those that were stopped were."""

    works: dict[str, list[ContentId]]
    stopped: dict[str, str] = field(default_factory=dict)

    async def under_way(self) -> Mapping[str, Sequence[ContentId]]:
        return {name: used for name, used in self.works.items() if name not in self.stopped}

    async def stop(self, training_id: str, reason: str) -> None:
        self.stopped[training_id] = reason


async def pass_time(net: Testnet, seconds: int) -> None:
    await net.rpc.request("evm_increaseTime", [seconds])
    await net.rpc.request("evm_mine")


async def test_a_withdrawal_ends_what_each_class_says_and_no_more(net: Testnet) -> None:
    """Class 2: retired after its notice and unloaded; class 1: no new adapter after its notice,
    the old one stays; class 0: everything stays. No class gives a new grant."""
    creator, node = net.sender(2), net.sender(NODE)
    works = [
        await net.register_work(creator, terms(revocation_class=number, notice_s=2 * DAY_S))
        for number in (0, 1, 2)
    ]
    _kept, _stopped, retired = works
    adapters = [AdapterId(await net.register_adapter(node, [each])) for each in works]
    offers = Offers(list(adapters))
    runs = Runs({f"class {number}": [each] for number, each in enumerate(works)})
    watch = WithdrawalWatch(net.chain, node, offers, runs)
    await watch.step()
    assert not runs.stopped and not offers.ended

    for each in works:
        await net.done(creator, "ContentRegistry", "withdraw", each)
    content = await net.chain.content(retired)
    assert content is not None
    with pytest.raises(LicenseError, match="no new licenses"):
        await Licensing(net.chain, net.sender(6), SystemClock()).offer(retired)
    await watch.step()
    states = [await net.chain.adapter(each) for each in adapters]
    ends = [state.retires_at for state in states if state is not None]
    assert ends[:2] == [2**64 - 1] * 2
    assert ends[2] == content.withdrawn_at + 2 * DAY_S
    assert set(runs.stopped) == {"class 2"} and "was withdrawn" in runs.stopped["class 2"]
    sent = await net.rpc.transaction_count(node.address)
    await watch.step()
    assert await net.rpc.transaction_count(node.address) == sent, "it is enforced once"
    assert not offers.ended, "the notice is kept"

    await pass_time(net, 2 * DAY_S)
    await watch.step()
    assert offers.ended == {
        adapters[2]: AdapterEnd(retired, WITHDRAWN, content.withdrawn_at, ends[2])
    }
    assert set(runs.stopped) == {"class 1", "class 2"}
    assert offers.ids == adapters[:2]


async def test_a_lapsed_license_ends_the_adapter(net: Testnet) -> None:
    """No renewal, no adapter: enforced at the next look for lapses, with the nodes' own notice."""
    creator, node = net.sender(2), net.sender(NODE)
    work = await net.register_work(creator, terms(grant_duration_s=DAY_S))
    adapter = AdapterId(await net.register_adapter(node, [work]))
    offers, runs = Offers([adapter]), Runs({"run": [work]})
    watch = WithdrawalWatch(net.chain, node, offers, runs)
    await watch.step()
    await pass_time(net, DAY_S)
    await watch.step()
    assert runs.stopped == {"run": f"the license to work {work} ended"} and not offers.ended
    await pass_time(net, 2 * CLOSE_DELAY_S + 3_600)
    await watch.step()
    assert offers.ended[adapter].reason == LICENSE_ENDED


async def test_another_node_that_was_first_harms_nothing(net: Testnet) -> None:
    """Anyone may enforce: whoever comes second sees it done and pays nothing."""
    creator, node = net.sender(2), net.sender(NODE)
    work = await net.register_work(creator, terms(revocation_class=2))
    adapter = AdapterId(await net.register_adapter(node, [work]))
    await net.done(creator, "ContentRegistry", "withdraw", work)
    await net.done(net.sender(7), "AdapterRegistry", "enforce", adapter, [work << 16 | 10_000], 0)
    sent = await net.rpc.transaction_count(node.address)
    await WithdrawalWatch(net.chain, node, Offers([adapter]), Runs({})).step()
    assert await net.rpc.transaction_count(node.address) == sent


async def test_a_silent_chain_ends_nothing(net: Testnet) -> None:
    """An endpoint that fails is asked again; nothing is unloaded for it."""
    node = net.sender(NODE)
    work = await net.register_work(net.sender(2), terms(revocation_class=2))
    adapter = AdapterId(await net.register_adapter(node, [work]))
    offers = Offers([adapter])
    watch = WithdrawalWatch(net.chain, node, offers, Runs({"run": [work]}))
    await net.anvil.stop()
    with pytest.raises(ChainUnreachable):
        await watch.step()
    assert offers.ids == [adapter]
