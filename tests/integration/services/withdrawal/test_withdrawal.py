"""From a withdrawal to the end of use, on a real chain whose time is moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.integration.chain.testnet import CLOSE_DELAY_S, Testnet, terms

from viz.chain.contracts import Chain
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.creator.certificate_checks import CertainTime, require_of
from viz.domain.destruction import HeldItem
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.chain import ContentState, Deployment, WeightsAddress
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId, ContentId
from viz.errors import ChainUnreachable, LicenseError, StorageUnavailable
from viz.services.licensing.grants import Grants
from viz.services.withdrawal.destruction import WorkDestruction
from viz.services.withdrawal.last_use import FINAL_S
from viz.services.withdrawal.withdrawal_watch import (
    LICENSE_ENDED,
    WITHDRAWN,
    WithdrawalWatch,
)

DAY_S = 86_400
NODE = 5


@dataclass
class Offers:
    """The adapters that the node sells, and those that ended."""

    ids: list[AdapterId]
    over: dict[AdapterId, AdapterEnd] = field(default_factory=dict)

    def adapter_ids(self) -> Sequence[AdapterId]:
        return list(self.ids)

    async def end(self, adapter: WeightsAddress, end: AdapterEnd) -> None:
        self.ids = [each for each in self.ids if each != adapter.adapter_id]
        self.over[adapter.adapter_id] = end

    def ended(self) -> Mapping[AdapterId, AdapterEnd]:
        return dict(self.over)


@dataclass
class Runs:
    """Trainings under way, and why those that were stopped were."""

    works: dict[str, list[ContentId]]
    stopped: dict[str, str] = field(default_factory=dict)

    async def under_way(self) -> Mapping[str, Sequence[ContentId]]:
        return {name: used for name, used in self.works.items() if name not in self.stopped}

    async def works_used(self) -> frozenset[ContentId]:
        return frozenset(each for used in self.works.values() for each in used)

    async def stop(self, training_id: str, reason: str) -> None:
        self.stopped[training_id] = reason


@dataclass
class Shelf:
    """A holder with one item of each work, which remembers what was asked of it."""

    uses: list[EndedUse] = field(default_factory=list)
    gone: set[ContentId] = field(default_factory=set)
    broken: set[ContentId] = field(default_factory=set)
    stuck: set[ContentId] = field(default_factory=set)

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        self.uses.append(ended)
        if ended.content_id in self.broken:
            raise StorageUnavailable("the copy's folder cannot be read")
        # A trainer's copy: the end of a custody is no concern of it.
        ends = (ended.own or ended.adapters) and ended.content_id not in self.gone
        return WorkHoldings((HeldItem("copy", "a book"),) if ends else ())

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        if ended.content_id in self.stuck:
            raise OSError(5, "Input/output error")
        self.gone.add(ended.content_id)


class Deaf(Chain):
    """A chain whose endpoint gives odd answers about some works, and answers all else."""

    def __init__(self, rpc: Rpc, deployment: Deployment, *, deaf_to: set[ContentId]) -> None:
        super().__init__(rpc, deployment)
        self.deaf_to = deaf_to

    async def content(self, content_id: ContentId) -> ContentState | None:
        if content_id in self.deaf_to:
            raise ChainUnreachable("an odd answer")
        return await super().content(content_id)


def destruction(net: Testnet, shelf: Shelf, folder: Path) -> WorkDestruction:
    key = bytes(development_account(NODE).key)
    where = settlement_domain(net.deployment.chain_id, net.deployment.settlement)
    node = net.sender(NODE).address
    return WorkDestruction([shelf], folder, folder.parent, key=key, domain=where, node=node)


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
    assert not runs.stopped and not offers.over

    for each in works:
        await net.done(creator, "ContentRegistry", "withdraw", each)
    content = await net.chain.content(retired)
    assert content is not None
    with pytest.raises(LicenseError, match="no new licenses"):
        await Grants(net.chain, net.sender(6)).offer(retired)
    await watch.step()
    states = [await net.chain.adapter(each) for each in adapters]
    ends = [state.retires_at for state in states if state is not None]
    assert ends[:2] == [2**64 - 1] * 2
    assert ends[2] == content.withdrawn_at + 2 * DAY_S
    assert set(runs.stopped) == {"class 2"} and "was withdrawn" in runs.stopped["class 2"]
    sent = await net.rpc.transaction_count(node.address)
    await watch.step()
    assert await net.rpc.transaction_count(node.address) == sent, "it is enforced once"
    assert not offers.over, "the notice is kept"

    await pass_time(net, 2 * DAY_S)
    await watch.step()
    assert offers.over == {
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
    assert runs.stopped == {"run": f"the license to work {work} ended"} and not offers.over
    await pass_time(net, 2 * CLOSE_DELAY_S + 3_600)
    await watch.step()
    assert offers.over[adapter].reason == LICENSE_ENDED


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


async def test_copies_go_at_the_end_that_the_class_says_and_no_others(
    net: Testnet, tmp_path: Path
) -> None:
    """Without an adapter: what a trainer made of a class 2 work goes after the notice (an hour at
    least, since a block may vanish). Of classes 0 and 1, and after a mere lapse, nothing goes."""
    creator, node = net.sender(2), net.sender(NODE)
    offered = [terms(revocation_class=number, notice_s=DAY_S) for number in (0, 1, 2)]
    offered += [terms(revocation_class=2), terms(grant_duration_s=DAY_S, revocation_class=2)]
    works = [await net.register_work(creator, each) for each in offered]
    adapters = [AdapterId(await net.register_adapter(node, [each])) for each in works]
    for each in works[:4]:
        await net.done(creator, "ContentRegistry", "withdraw", each)
    # The operator has dropped its adapters: only the trainings' copies are left.
    offers, runs = Offers([]), Runs({str(each): [each] for each in works})
    shelf = Shelf()
    certified = destruction(net, shelf, tmp_path / "certificates")
    watch = WithdrawalWatch(net.chain, node, offers, runs, destruction=certified)
    await watch.step()
    assert not shelf.gone, "no notice is over, and no block is old"
    await pass_time(net, FINAL_S)
    await watch.step()
    assert shelf.gone == {works[3]}
    await pass_time(net, DAY_S)
    await watch.step()
    assert shelf.gone == {works[3], works[2]}
    (certificate,) = await certified.certificates(works[2])
    content = await net.chain.content(works[2])
    assert content is not None
    assert certificate.certificate.due_at_s == content.withdrawn_at + DAY_S
    assert adapters and not await certified.certificates(works[1])
    asked = len(shelf.uses)
    await watch.step()
    await watch.step()
    assert len(shelf.uses) <= asked + 2, "what is empty is not looked through every minute"


async def test_an_adapter_on_offer_keeps_its_trainers_copies(net: Testnet, tmp_path: Path) -> None:
    """While the node still serves it, until its retirement, nothing of it is destroyed."""
    creator, node = net.sender(2), net.sender(NODE)
    work = await net.register_work(creator, terms(revocation_class=2))
    adapter = AdapterId(await net.register_adapter(node, [work]))
    await net.done(creator, "ContentRegistry", "withdraw", work)
    offers, shelf = Offers([adapter]), Shelf()
    certified = destruction(net, shelf, tmp_path / "certificates")
    watch = WithdrawalWatch(net.chain, node, offers, Runs({"run": [work]}), destruction=certified)
    await watch.step()
    await pass_time(net, 2 * CLOSE_DELAY_S - 60)
    await watch.step()
    assert offers.ids == [adapter] and not shelf.gone, "MIN_NOTICE is the node's to claim"
    await pass_time(net, 120)
    await watch.step()
    assert offers.over and shelf.gone == {work}
    assert shelf.uses[-1] == EndedUse(work, frozenset({adapter}), own=True, custody=True)


async def test_what_had_ended_before_the_withdrawal_waits_until_it_is_final(
    net: Testnet, tmp_path: Path
) -> None:
    """Protects the trainer: the block of a withdrawal may vanish, and what was destroyed is gone.
    The certificate says that the use had ended earlier, and is a true one."""
    creator, node = net.sender(2), net.sender(NODE)
    work = await net.register_work(creator, terms(revocation_class=2))
    adapter = AdapterId(await net.register_adapter(node, [work]))
    await net.done(node, "AdapterRegistry", "retire", adapter)
    await pass_time(net, 3 * CLOSE_DELAY_S)
    await net.done(creator, "ContentRegistry", "withdraw", work)
    offers, shelf = Offers([adapter]), Shelf()
    certified = destruction(net, shelf, tmp_path / "certificates")
    watch = WithdrawalWatch(net.chain, node, offers, Runs({"run": [work]}), destruction=certified)
    await watch.step()
    assert offers.over and not shelf.gone
    await pass_time(net, FINAL_S)
    await watch.step()
    assert shelf.gone == {work}
    (made,) = await certified.certificates(work)
    require_of(made, node.address, CertainTime(made.certificate.time_s))


async def test_one_works_error_stops_no_others(net: Testnet, tmp_path: Path) -> None:
    """Protects every other owner: one work that could not be looked at kept all later works on the
    disk. It is logged once, and destroyed at the first look at which it can be."""
    creator, node = net.sender(2), net.sender(NODE)
    works = [await net.register_work(creator, terms(revocation_class=2)) for _ in range(4)]
    for each in works:
        await net.register_adapter(node, [each])
        await net.done(creator, "ContentRegistry", "withdraw", each)
    runs = Runs({str(each): [each] for each in works})
    broken, unread, stuck, last = works
    shelf = Shelf(broken={broken}, stuck={stuck})
    chain = Deaf(net.rpc, net.deployment, deaf_to={unread})
    certified = destruction(net, shelf, tmp_path / "certificates")
    watch = WithdrawalWatch(chain, node, Offers([]), runs, destruction=certified)
    await pass_time(net, FINAL_S)
    with capture_logs() as told:
        await watch.step()
        assert shelf.gone == {last}
        await watch.step()
    errors = [each for each in told if each["log_level"] == "error" and "work" in each]
    assert [(each["work"], each["reason"]) for each in errors] == [
        (broken, "the copy's folder cannot be read"),
        (unread, "an odd answer"),
        (stuck, "[Errno 5] Input/output error"),
    ], "once, not at each look"
    shelf.broken, shelf.stuck, chain.deaf_to = set(), set(), set()
    await watch.step()
    assert shelf.gone == set(works)
    assert all([len(await certified.certificates(each)) == 1 for each in works])


@dataclass
class StuckOffers(Offers):
    """Offers of which one cannot be ended, as with a full disk."""

    stuck: AdapterId | None = None

    async def end(self, adapter: WeightsAddress, end: AdapterEnd) -> None:
        if adapter.adapter_id == self.stuck:
            raise StorageUnavailable("it cannot be unloaded")
        await super().end(adapter, end)


async def test_an_adapter_that_cannot_be_ended_keeps_no_other(net: Testnet, tmp_path: Path) -> None:
    """Neither the next adapter nor any work's copies wait for it."""
    creator, node = net.sender(2), net.sender(NODE)
    works = [await net.register_work(creator, terms(revocation_class=2)) for _ in range(3)]
    adapters = [AdapterId(await net.register_adapter(node, [each])) for each in works]
    for each in works:
        await net.done(creator, "ContentRegistry", "withdraw", each)
    offers = StuckOffers(adapters[:2], stuck=adapters[0])
    shelf = Shelf()
    certified = destruction(net, shelf, tmp_path / "certificates")
    runs = Runs({"run": [works[2]]})
    watch = WithdrawalWatch(net.chain, node, offers, runs, destruction=certified)
    await watch.step()
    await pass_time(net, 2 * CLOSE_DELAY_S + 60)
    await watch.step()
    assert set(offers.over) == {adapters[1]} and shelf.gone == {works[1], works[2]}
    offers.stuck = None
    await watch.step()
    assert set(offers.over) == set(adapters[:2]) and shelf.gone == set(works)
