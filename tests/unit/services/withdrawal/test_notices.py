"""Notices are bounded, signed for one node, and say the same after every repetition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.notices import DAY_S, NoticeKind, NoticeRecord, NoticeRule
from viz.domain.ports.chain import ContentState
from viz.domain.typed_data import Notice
from viz.domain.units import ZERO_HASH, AdapterId, ContentId, Hash32
from viz.errors import (
    InvalidRequest,
    InvalidSignature,
    LicenseError,
    NoticeUnknown,
    TooManyQuestions,
    UnknownAdapter,
    VizError,
    WrongDomain,
)
from viz.protocol.notices import MAX_STATEMENT_CHARS, SignedNotice
from viz.services.withdrawal import notices as module
from viz.services.withdrawal.notices import Notices

NODE_KEY, OWNER_KEY, STRANGER_KEY = b"\x11" * 32, b"\x66" * 32, b"\x77" * 32
ADAPTER, OTHER, WORK, GONE = AdapterId(7), AdapterId(8), ContentId(3), ContentId(4)
DOMAIN = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
RULE = NoticeRule()


class Place:
    """A node's notices over a chain with one adapter of one work."""

    def __init__(self) -> None:
        self.chain, self.store = FakeChain(NODE_KEY), MemoryStore()
        owner = public_address(OWNER_KEY)
        for each, withdrawn_at in ((WORK, 0), (GONE, 5)):
            self.chain.works[each] = ContentState(
                each, owner, owner, ZERO_HASH, ZERO_HASH, withdrawn_at
            )
        for adapter in (ADAPTER, OTHER):
            self.chain.put_adapter(adapter, Hash32(b"\x01" * 32))
            state = self.chain.adapter_states[adapter]
            self.chain.adapter_states[adapter] = replace(state, shares=((WORK, 10_000),))
        self.notices = self.started()

    def started(self) -> Notices:
        return Notices(self.store, self.chain, self.chain.clock, node=self.chain.address, rule=RULE)

    def notice(self, key: bytes = STRANGER_KEY, **changes: Any) -> Notice:
        said = Notice(
            public_address(key),
            self.chain.address,
            ADAPTER,
            ContentId(0),
            int(NoticeKind.PERSONAL_DATA),
            "It has my address.",
            "",
            ZERO_HASH,
            self.chain.clock.now,
        )
        return replace(said, **changes)

    async def send(self, key: bytes = STRANGER_KEY, **changes: Any) -> NoticeRecord:
        said = self.notice(key, **changes)
        signed = SignedNotice(said, sign(key, DOMAIN.digest(said)))
        kept, _ = await self.notices.accept(signed, served={ADAPTER, OTHER})
        return kept


@pytest.fixture
def place() -> Place:
    return Place()


async def test_only_who_has_standing_suspends_at_once(place: Place) -> None:
    """A stranger's notice waits for the deadline; the operator's and an owner's do not."""
    stranger = await place.send()
    assert place.notices.suspension(ADAPTER, (WORK,)) is None
    assert (stranger.standing, stranger.effective_at) == (
        False, place.chain.clock.now + RULE.personal_data_s,
    )  # fmt: skip
    owner = await place.send(OWNER_KEY, adapter_id=OTHER)
    assert owner.standing and place.notices.suspension(OTHER, ()) is not None
    place.chain.clock.now += RULE.personal_data_s
    found = place.notices.suspension(ADAPTER, (WORK,))
    assert found is not None and found.notice_id == stranger.notice_id
    await place.notices.answer(stranger.notice_id, upholds=False, reason="it has no address")
    assert place.notices.suspension(ADAPTER, (WORK,)) is None
    await place.send(NODE_KEY)
    assert place.notices.suspension(ADAPTER, ()) is not None


async def test_a_work_s_notice_is_on_every_adapter_made_of_it(place: Place) -> None:
    """Who sold an adapter of the work is told, and no other one is."""
    await place.send(OWNER_KEY, adapter_id=AdapterId(0), content_id=WORK)
    assert place.notices.suspension(ADAPTER, (WORK,)) is not None
    assert place.notices.suspension(ADAPTER, (ContentId(9),)) is None
    assert place.notices.on_work(WORK) is not None and place.notices.on_work(GONE) is None


async def test_an_owner_whose_notice_was_rejected_waits_as_others_do(place: Place) -> None:
    """Rejecting is no game of who is faster: the next one has the deadline."""
    first = await place.send(OWNER_KEY)
    await place.notices.answer(first.notice_id, upholds=False, reason="not in the work")
    place.chain.clock.now += DAY_S
    second = await place.send(OWNER_KEY)
    assert second.standing and place.notices.suspension(ADAPTER, (WORK,)) is None
    assert second.effective_at == place.chain.clock.now + RULE.personal_data_s


@pytest.mark.parametrize(
    "named", [{"adapter_id": OTHER}, {"adapter_id": AdapterId(0), "content_id": WORK}]
)
async def test_another_subject_with_the_same_work_is_no_way_around_a_rejection(
    place: Place, named: dict[str, Any]
) -> None:
    """An owner suspended the adapter again by naming its work, a minute after the rejection."""
    first = await place.send(OWNER_KEY)
    await place.notices.answer(first.notice_id, upholds=False, reason="not in the work")
    second = await place.send(OWNER_KEY, **named)
    assert second.standing and second.effective_at > place.chain.clock.now
    assert place.notices.suspension(ADAPTER, (WORK,)) is None
    other = await place.send(OWNER_KEY, adapter_id=AdapterId(0), content_id=GONE)
    assert other.effective_at == place.chain.clock.now, "another work is another question"


async def test_a_rejected_notice_of_another_kind_delays_nothing(place: Place) -> None:
    """Who once complained of something else, and was refused, has an address in the work too."""
    first = await place.send(OWNER_KEY, kind=int(NoticeKind.OTHER))
    await place.notices.answer(first.notice_id, upholds=False, reason="no")
    second = await place.send(OWNER_KEY)
    assert second.effective_at == place.chain.clock.now
    assert place.notices.suspension(ADAPTER, (WORK,)) is not None


async def test_the_same_notice_again_changes_nothing(place: Place) -> None:
    """A replay moves no deadline and undoes no answer, also after a restart."""
    said = place.notice()
    signed = SignedNotice(said, sign(STRANGER_KEY, DOMAIN.digest(said)))
    first, is_new = await place.notices.accept(signed, served={ADAPTER})
    await place.notices.answer(first.notice_id, upholds=False, reason="no")
    place.notices = place.started()
    await place.notices.restore()
    again, is_new_again = await place.notices.accept(signed, served={ADAPTER})
    assert (is_new, is_new_again) == (True, False)
    assert (again.notice_id, again.state) == (first.notice_id, "rejected")
    assert len(place.notices.all()) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"node": address_of(9)}, WrongDomain),
        ({"adapter_id": AdapterId(9)}, UnknownAdapter),
        ({"adapter_id": AdapterId(0)}, InvalidRequest),
        ({"content_id": WORK}, InvalidRequest),
        ({"adapter_id": AdapterId(0), "content_id": ContentId(9)}, LicenseError),
        ({"kind": 0}, InvalidRequest),
        ({"kind": 4}, InvalidRequest),
        ({"statement": " \n"}, InvalidRequest),
        ({"statement": "a" * (MAX_STATEMENT_CHARS + 1)}, InvalidRequest),
        ({"statement": "\x1b[2Jno"}, InvalidRequest),
        ({"contact": "a\u202eb"}, InvalidRequest),
        ({"issued_at_s": 2**63}, InvalidRequest),
        ({"issued_at_s": 1}, InvalidRequest),
        ({"notifier": address_of(1)}, InvalidSignature),
    ],
)
async def test_what_is_not_a_notice_is_refused(
    place: Place, changes: dict[str, Any], error: type[VizError]
) -> None:
    """Another node's, a date to come or long past, an unknown subject, texts that command."""
    with pytest.raises(error):
        await place.send(**changes)
    assert not place.store.notice_rows


async def test_a_signature_for_another_chain_is_none(place: Place) -> None:
    """What was signed for a test network is no notice here."""
    said = place.notice()
    elsewhere = content_registry_domain(DEPLOYMENT.chain_id + 1, DEPLOYMENT.content_registry)
    signed = SignedNotice(said, sign(STRANGER_KEY, elsewhere.digest(said)))
    with pytest.raises(InvalidSignature, match="for chain 31337"):
        await place.notices.accept(signed, served={ADAPTER})


async def test_a_withdrawn_work_may_be_a_notice_s_subject(place: Place) -> None:
    """Its adapters of class 0 and 1 are sold on: their owner, too, must be heard."""
    kept = await place.send(OWNER_KEY, adapter_id=AdapterId(0), content_id=GONE)
    assert kept.standing and place.notices.suspension(ADAPTER, (GONE,)) is not None
    stranger = await place.send(adapter_id=AdapterId(0), content_id=GONE)
    assert stranger.effective_at == place.chain.clock.now + RULE.personal_data_s


async def test_an_account_gives_few_notices_a_day(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a kind on a subject, ``A_DAY`` of a kind in all; another kind is no hindrance."""
    monkeypatch.setattr(module, "A_DAY", 2)
    other, personal = int(NoticeKind.OTHER), int(NoticeKind.PERSONAL_DATA)
    for key in (STRANGER_KEY, OWNER_KEY):
        begun = place.chain.clock.now
        await place.send(key, kind=other)
        place.chain.clock.now += 60
        with pytest.raises(TooManyQuestions, match="same subject") as caught:
            await place.send(key, kind=other)
        assert caught.value.extensions["retryAfter"] == DAY_S - 60
        await place.send(key, kind=personal)
        await place.send(key, kind=other, adapter_id=OTHER)
        third = {"kind": other, "adapter_id": AdapterId(0), "content_id": WORK}
        with pytest.raises(TooManyQuestions, match="a day from an account") as caught:
            await place.send(key, **third)
        assert caught.value.extensions["retryAfter"] == DAY_S - 60
        place.chain.clock.now = begun + DAY_S
        await place.send(key, **third)


async def test_an_owner_s_personal_data_has_a_bound_for_each_subject_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the owner's works is protected on the day; others' works are not the owner's."""
    monkeypatch.setattr(module, "A_DAY", 1)
    mine: list[dict[str, Any]] = [
        {"adapter_id": AdapterId(0), "content_id": each} for each in (WORK, GONE)
    ]
    for each in (*mine, {}, {"adapter_id": OTHER}):
        kept = await place.send(OWNER_KEY, **each)
        assert kept.effective_at == place.chain.clock.now
    place.chain.clock.now += 60
    with pytest.raises(TooManyQuestions, match="same subject"):
        await place.send(OWNER_KEY, **mine[1])
    theirs = [ContentId(11), ContentId(12)]
    for work in theirs:
        place.chain.works[work] = replace(
            place.chain.works[WORK], content_id=work, owner=address_of(9)
        )
    assert not (await place.send(OWNER_KEY, adapter_id=AdapterId(0), content_id=theirs[0])).standing
    with pytest.raises(TooManyQuestions, match="a day from an account"):
        await place.send(OWNER_KEY, adapter_id=AdapterId(0), content_id=theirs[1])


async def test_strangers_open_notices_are_bounded_and_owners_get_through(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh keys cost nothing: neither one adapter nor the whole node is buried under them."""
    keys = [bytes([1, number]) * 16 for number in range(20)]
    for key in keys[: module.STRANGERS_OPEN_EACH]:
        first = await place.send(key)
    with pytest.raises(TooManyQuestions):
        await place.send(keys[8])
    await place.notices.answer(first.notice_id, upholds=False, reason="no")
    await place.send(keys[9])
    monkeypatch.setattr(module, "STRANGERS_OPEN", module.STRANGERS_OPEN_EACH)
    with pytest.raises(TooManyQuestions):
        await place.send(keys[10], adapter_id=OTHER)
    assert (await place.send(OWNER_KEY)).standing


async def test_what_is_kept_is_bounded_in_all(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest rejected one makes room; one that waits for its answer is never dropped."""
    monkeypatch.setattr(module, "KEPT", 2)
    first, second = await place.send(), await place.send(OWNER_KEY)
    with pytest.raises(TooManyQuestions):
        await place.send(b"\x78" * 32)
    await place.notices.answer(second.notice_id, upholds=False, reason="no")
    third = await place.send(b"\x78" * 32)
    assert [each.notice_id for each in place.notices.all()] == [first.notice_id, third.notice_id]
    assert third.notice_id > second.notice_id, "a number is given once"


async def test_an_answer_has_a_reason_and_can_be_changed(place: Place) -> None:
    """Everybody reads the reason beside the notice."""
    kept = await place.send()
    for reason in ("", " ", "a\nb", "a" * 501):
        with pytest.raises(InvalidRequest):
            await place.notices.answer(kept.notice_id, upholds=True, reason=reason)
    with pytest.raises(NoticeUnknown):
        await place.notices.answer(99, upholds=True, reason="yes")
    await place.notices.answer(kept.notice_id, upholds=True, reason="it does")
    assert place.notices.suspension(ADAPTER, ()) is not None
    await place.notices.answer(kept.notice_id, upholds=False, reason="trained anew")
    assert place.notices.suspension(ADAPTER, ()) is None
