"""One behaviour for every store: the fake in memory, SQLite, and a PostgreSQL where one is named.

Checked by hand on Debian's PostgreSQL 15 with psycopg 3. To repeat it on an empty database of
yours, in which every table of the ledger is dropped, set
``VIZ_TEST_POSTGRES=postgresql+psycopg://user@host/name``. What is SQLite's alone, a kill between
commits included, is in ``test_ledger.py`` and ``tests/integration/store``.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from tests.fakes.ledger import MemoryStore
from tests.fakes.records import ADAPTER, ALICE, BOB, IDENTITY, channel, digest, receipt

from viz.domain.card import ReportCard
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import keccak
from viz.domain.node_channel import freeze_for_claim
from viz.domain.notices import NoticeRecord, NoticeState
from viz.domain.ports.custody import CustodyRecord, HandedKey, KeyKind
from viz.domain.ports.ledger import (
    AccessRecord,
    AdapterRecord,
    AnswerRecord,
    ChannelLineRecord,
    ChannelRecord,
    EndedAdapter,
    OfferedWork,
    TrainingRecord,
    UnbilledRecord,
)
from viz.domain.ports.listings import ListingRecord
from viz.domain.ports.services import AdapterEnd
from viz.domain.ports.settlement_ledger import BlockMark, SignedTransaction, Store
from viz.domain.ports.transactions import Outcome
from viz.domain.typed_data import Notice
from viz.domain.units import UINT96_MAX, ZERO_HASH, AdapterId, Address, Cid, ContentId
from viz.errors import CustodyFull, StoreConflict, StoreError, StoreFull, TooManyQuestions
from viz.services.payments.channel_records import channel_of
from viz.store.ledger import SqlStore
from viz.store.tables import LedgerTable

POSTGRES = os.environ.get("VIZ_TEST_POSTGRES", "")


@pytest.fixture(params=["memory", "sqlite", *(["postgresql"] if POSTGRES else [])])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "sqlite":
        opened = await SqlStore.open(tmp_path / "ledger.db", IDENTITY)
    else:
        engine = create_engine(POSTGRES)
        LedgerTable.metadata.drop_all(engine)
        engine.dispose()
        opened = await SqlStore.open(POSTGRES, IDENTITY)
    yield opened
    await opened.close()


async def test_what_is_committed_is_read_back_to_the_last_unit(store: Store) -> None:
    """Money, hashes and text come back as they were; a reader never sees a blend of versions."""
    saved = await store.commit("voucher", channel())
    assert saved == replace(channel(), version=1)
    assert await store.channel(ALICE) == saved
    await store.commit("voucher", ChannelRecord(BOB))
    assert [row.signer for row in await store.channels()] == sorted([ALICE, BOB])
    assert await store.channel(Address("0x" + "cC" * 20)) is None


async def test_receipts_are_read_in_order_and_in_parts(store: Store) -> None:
    """A buyer that lost receipts fetches them again, the oldest first."""
    row = await store.commit("voucher", channel())
    for seq in (5, 6, 7):
        row = await store.commit("receipt", replace(row, seq=seq), receipt=receipt(seq))
    assert [each.seq for each in await store.receipts(ALICE, after=5)] == [6, 7]
    assert list(await store.receipts(ALICE, limit=1)) == [receipt(5)]
    assert list(await store.heads(ALICE, 5)) == [receipt(6).head, receipt(7).head]
    assert list(await store.receipts(BOB)) == [] == list(await store.heads(BOB, 0))


async def test_each_channel_is_claimed_in_order_of_its_bases(store: Store) -> None:
    """A run of rows is sent as it was frozen, and a writer that read before a freeze is refused."""
    row = ChannelRecord(ALICE, lines={ADAPTER: ChannelLineRecord(0, 5)}, signature=b"\1" * 64)
    read = await store.commit("voucher", row)
    assert await store.freeze(BOB, now_s=1) is None
    first = await store.freeze(ALICE, now_s=1)
    with pytest.raises(StoreConflict):
        await store.commit("voucher", replace(read, seq=1))
    moved = await store.channel(ALICE)
    assert first is not None and moved is not None
    lines = {ADAPTER: ChannelLineRecord(5, 9)}
    await store.commit("voucher", replace(moved, lines=lines, signature=b"\2" * 64))
    second = await store.freeze(ALICE, now_s=2)
    assert second is not None and second.base_units == first.end_units == 5
    assert list(await store.frozen()) == [first, second]
    await store.finish(first.claim_id, "settled", "")
    assert list(await store.frozen()) == [second]


async def test_the_cursor_goes_forth_and_back(store: Store) -> None:
    """After a reorganisation the lost blocks are forgotten, and the new ones take their places."""
    for number in (1, 2, 3):
        await store.advance(BlockMark(number, digest(number)))
    await store.rollback(1)
    await store.advance(BlockMark(2, digest(22)))
    assert list(await store.marks()) == [BlockMark(2, digest(22)), BlockMark(1, digest(1))]


async def test_a_closed_store_refuses(store: Store) -> None:
    """What comes after the end is told so, and is not lost without a word."""
    await store.close()
    with pytest.raises(StoreError):
        await store.put_training(TrainingRecord("t", "queued", {}))


@pytest.mark.parametrize("amount", [-1, UINT96_MAX + 1])
async def test_an_amount_out_of_bounds_is_never_stored(store: Store, amount: int) -> None:
    """A bug upstream cannot write money that the contract does not know."""
    with pytest.raises(StoreError):
        await store.commit("voucher", ChannelRecord(ALICE, base_units=amount))
    assert await store.channel(ALICE) is None


async def test_a_stale_writer_is_refused_and_changes_nothing(store: Store) -> None:
    """Two writers of one channel cannot both win."""
    first = await store.commit("voucher", channel())
    await store.commit("voucher", replace(first, seq=5), receipt=receipt(5))
    with pytest.raises(StoreConflict):
        await store.commit("voucher", replace(first, seq=6), receipt=receipt(6))
    with pytest.raises(StoreConflict):
        await store.commit("voucher", channel())
    stored = await store.channel(ALICE)
    assert stored is not None and stored.seq == 5
    assert [row.seq for row in await store.receipts(ALICE)] == [5]


async def test_a_change_is_saved_whole_or_not_at_all(store: Store) -> None:
    """A receipt that cannot be stored leaves the channel as it was."""
    first = await store.commit("receipt", channel(), receipt=receipt(4))
    with pytest.raises(StoreError):
        await store.commit("receipt", replace(first, total_units=1), receipt=receipt(4))
    assert await store.channel(ALICE) == first
    assert await store.receipt_seq(ALICE, receipt(4).head) == 4
    assert await store.receipt_seq(ALICE, digest(0)) == 0
    assert await store.receipt_seq(BOB, receipt(4).head) is None


async def test_only_touched_lines_are_written(store: Store) -> None:
    """The hot path writes what changed, and what it does not write stays."""
    first = await store.commit("voucher", channel())
    lines = {
        **first.lines,
        ADAPTER: ChannelLineRecord(0, 9, 9),
        AdapterId(0): ChannelLineRecord(1, 5, 5),
    }
    await store.commit("voucher", replace(first, lines=lines), touched={AdapterId(0)})
    stored = await store.channel(ALICE)
    assert stored is not None
    assert stored.lines == {**channel().lines, AdapterId(0): ChannelLineRecord(1, 5, 5)}


async def test_a_failing_write_spares_its_neighbours(store: Store) -> None:
    """In one group commit, each caller gets its own result."""
    signers = [Address(f"0x{number:040x}") for number in range(64)]

    async def one(number: int) -> bool:
        bad = number % 8 == 3
        units = UINT96_MAX + 1 if bad else number
        try:
            await store.commit("voucher", ChannelRecord(signers[number], base_units=units))
        except StoreError:
            assert bad
            return False
        return True

    done = await asyncio.gather(*(one(number) for number in range(64)))
    stored = {row.signer: row.base_units for row in await store.channels()}
    assert stored == {signers[n]: n for n in range(64) if n % 8 != 3}
    assert sum(done) == len(stored) == 56


async def test_an_answer_belongs_to_its_token_and_outlives_its_body(store: Store) -> None:
    """Idempotency keys are scoped to an access token; after a time only the hash stays."""
    answer = AnswerRecord(b"t1", "k", digest(1), digest(2), 200, "application/json", b"{}", 50)
    await store.commit("receipt", channel(), answer=answer)
    assert await store.answer(b"t1", "k") == answer
    assert await store.answer(b"t2", "k") is None
    assert await store.forget_answers(50) == 0
    assert await store.forget_answers(51) == 1
    assert await store.answer(b"t1", "k") == replace(answer, body=None)


async def test_a_challenge_admits_one_token(store: Store) -> None:
    """A replayed challenge gives no second token."""
    access = AccessRecord(digest(7), ALICE, 100)
    assert await store.admit(digest(1), access)
    assert not await store.admit(digest(1), replace(access, token_hash=digest(8), signer=BOB))
    assert await store.access(digest(7)) == access
    assert await store.access(digest(8)) is None
    assert await store.forget_access(101) == 1
    assert await store.access(digest(7)) is None


async def test_catalogue_and_trainings_keep_their_records(store: Store) -> None:
    """What is served and trained is known again after a restart."""
    adapter = AdapterRecord(
        ADAPTER, "n", "d", digest(1), digest(2), Cid("bafy"), digest(3), "/p", 2**64, 1, 9
    )
    await store.put_adapter(adapter)
    await store.put_adapter(replace(adapter, name="m"))
    assert list(await store.adapters()) == [replace(adapter, name="m")]
    works = (OfferedWork(ContentId(2), "Mornings"), OfferedWork(ContentId(2**53 - 1)))
    for known in (works, works[:1]):
        named = replace(adapter, works=known)
        await store.put_adapter(named)
        assert list(await store.adapters()) == [named]
    carded = replace(adapter, card=ReportCard(48, 40, 1, 30, 28))
    await store.put_adapter(carded)
    assert list(await store.adapters()) == [carded]
    await store.drop_adapter(ADAPTER)
    assert list(await store.adapters()) == []
    await store.put_adapter(adapter)
    assert list(await store.adapters()) == [adapter], "a dropped adapter leaves nothing behind"
    training = TrainingRecord("t", "running", {"works": [1]}, created_at=1)
    await store.put_training(training)
    done = replace(training, state="done", result={"loss": 0.5}, updated_at=2)
    await store.put_training(done)
    assert await store.training("t") == done and list(await store.trainings()) == [done]
    assert await store.training("u") is None


async def test_ends_and_successors_are_kept_beyond_their_adapters(store: Store) -> None:
    """After a restart an ended adapter is refused with its reason, also when it was dropped."""
    end = AdapterEnd(ContentId(3), "work-withdrawn", 5, 9)
    ended = EndedAdapter(ADAPTER, end, digest(2), Cid("bafy"))
    await store.put_end(ended)
    await store.put_end(ended)
    await store.drop_adapter(ADAPTER)
    assert list(await store.ended()) == [ended]
    await store.put_successor(ADAPTER, AdapterId(8))
    await store.put_successor(ADAPTER, AdapterId(9))
    assert await store.successors() == {ADAPTER: AdapterId(9)}
    await store.leave_no_trace()


async def test_freezing_moves_the_base_in_the_same_commit(store: Store) -> None:
    """The row holds the voucher; the channel stands on its end point and has no voucher (10)."""
    lines = {
        AdapterId(1): ChannelLineRecord(10, 40, 15),
        AdapterId(2): ChannelLineRecord(0, 5, 0),
        AdapterId(3): ChannelLineRecord(7, 7),
    }
    await store.commit(
        "voucher", ChannelRecord(ALICE, 17, lines, b"\x01" * 64, voucher_head=digest(9))
    )
    row = await store.freeze(ALICE, now_s=50)
    assert row is not None
    assert (row.base_units, row.lines, row.end_units) == (17, ((1, 30), (2, 5)), 52)
    assert (row.signature, row.receipts_head, row.frozen_at) == (b"\x01" * 64, digest(9), 50)
    channel = await store.channel(ALICE)
    assert channel is not None and (channel.base_units, channel.signature) == (52, b"")
    assert channel.lines[AdapterId(1)] == ChannelLineRecord(40, 40, 15) and not channel.unclaimed()
    assert await store.freeze(ALICE, now_s=51) is None, "there is nothing new to claim"
    assert list(await store.frozen()) == [row]
    await store.finish(row.claim_id, "settled", "")
    await store.finish(row.claim_id, "dropped", "too late to change")
    await store.take_up_dropped()
    assert list(await store.frozen()) == []


@pytest.mark.parametrize("seed", range(12))
async def test_a_ledger_freezes_as_the_rules_say(store: Store, seed: int) -> None:
    """The properties C4 to C6 are shown of ``freeze_for_claim``, and the ledger freezes in a
    transaction of its own: both give the same row and leave the same channel."""
    chance = random.Random(seed)
    lines = {}
    for number in range(chance.randrange(1, 6)):
        base = chance.randrange(3) * 7
        more = chance.randrange(1, 50) if number == 0 else chance.randrange(3) * 11
        lines[AdapterId(number)] = ChannelLineRecord(base, base + more, chance.randrange(base + 1))
    base_units = sum(each.base_units for each in lines.values())
    record = ChannelRecord(ALICE, base_units, lines, b"\3" * 64, voucher_head=digest(9))
    frozen, rule_rows = channel_of(record, BOB, (), ()), list[SignedVoucher]()
    await store.commit("voucher", record)
    for now_s in (1, 2):  # the second time there is nothing new
        frozen, row = freeze_for_claim(frozen)
        rule_rows += [row] if row else []
        await store.freeze(ALICE, now_s=now_s)
    after = await store.channel(ALICE)
    assert after is not None and len(rule_rows) == 1
    assert channel_of(after, BOB, await store.frozen(), ()) == frozen


async def test_a_dropped_row_can_be_taken_up_again(store: Store) -> None:
    """Protects money that the chain, or its endpoint, was wrong about."""
    lines = {AdapterId(1): ChannelLineRecord(0, 40)}
    await store.commit("voucher", ChannelRecord(ALICE, 0, lines, b"\x01" * 64))
    row = await store.freeze(ALICE, now_s=50)
    assert row is not None
    await store.finish(row.claim_id, "dropped", "BAD_SIGNATURE")
    assert list(await store.frozen()) == []
    await store.take_up_dropped()
    assert list(await store.frozen()) == [row]


async def test_transactions_wait_for_their_end(store: Store) -> None:
    """What was signed and has no known end is found again, by nonce."""
    sent = [SignedTransaction(digest(n), ALICE, 9 - n, b"raw", "claim") for n in (1, 2, 3)]
    for transaction in sent:
        await store.record(transaction)
    await store.resolve(digest(2), Outcome.MINED)
    assert list(await store.pending(ALICE)) == [sent[2], sent[0]]
    await store.resolve(digest(1), Outcome.FAILED)
    every = [sent[2], sent[1], replace(sent[0], failed=True)]
    assert list(await store.described(ALICE, "claim")) == every


async def test_what_is_not_billed_yet_is_kept_until_it_is(store: Store) -> None:
    """The latest booking of each request stands until the commit that bills it, whole or not."""
    one = UnbilledRecord(
        b"1", ALICE, ADAPTER, 10, 3, 1, digest(1), digest(2), digest(3), digest(4), digest(5)
    )
    two = replace(one, request_id=b"2", signer=BOB)
    saved = await store.commit("voucher", channel(), unbilled=[one, two])
    more = replace(one, amount_units=12, completion_tokens=2, response_hash=digest(6))
    saved = await store.commit("voucher", saved, unbilled=[more])
    assert await store.unbilled() == [more, two], "the order is that of their first bookings"
    with pytest.raises(StoreConflict):
        await store.commit("receipt", replace(saved, version=1), billed=b"1")
    assert await store.unbilled() == [more, two]
    await store.commit("receipt", saved, receipt=receipt(1), billed=b"1")
    assert await store.unbilled() == [two]


def listing(content_id: int, issued_at: int) -> ListingRecord:
    return ListingRecord(ContentId(content_id), issued_at, b"{%d}" % issued_at, b"\1", 9)


async def test_of_two_listings_the_later_one_is_kept(store: Store) -> None:
    """An older one, or another of the same second, changes nothing; the number is bounded."""
    first, second = listing(3, 10), listing(3, 11)
    assert await store.put_listing(first, most=2) == first
    assert await store.put_listing(listing(5, 10), most=2) == listing(5, 10)
    with pytest.raises(StoreFull):
        await store.put_listing(listing(4, 10), most=2)
    assert await store.put_listing(second, most=2) == second
    for late in (first, replace(second, document=b"other")):
        assert await store.put_listing(late, most=2) == second
    assert list(await store.listings(after=ContentId(3), limit=5)) == [listing(5, 10)]
    await store.drop_listing(first)
    assert await store.listing(ContentId(3)) == second
    await store.drop_listing(second)
    assert await store.listing(ContentId(3)) is None


def custody(content_id: int, owner: Address, size: int, cid: str = "bafk") -> CustodyRecord:
    return CustodyRecord(ContentId(content_id), owner, Cid(cid), size, 7)


async def test_custody_counts_the_bytes_of_each_owner(store: Store) -> None:
    """A work in place of itself counts once; what is beyond a quota changes nothing."""
    bounds = {"most_each_bytes": 100, "most_bytes": 150}
    assert await store.put_custody(custody(1, ALICE, 80), **bounds) is None
    again = custody(1, ALICE, 90, "bafy")
    assert await store.put_custody(again, **bounds) == custody(1, ALICE, 80)
    for beyond in (custody(2, ALICE, 11), custody(2, BOB, 61)):
        with pytest.raises(CustodyFull):
            await store.put_custody(beyond, **bounds)
    with pytest.raises(CustodyFull):
        await store.put_custody(custody(1, ALICE, 101), **bounds)
    assert await store.custody(ContentId(1)) == again
    assert await store.custody(ContentId(2)) is None
    assert await store.held_bytes(ALICE) == (90, 90) and await store.held_bytes(BOB) == (0, 90)
    await store.put_custody(custody(3, BOB, 20, "bafy"), **bounds)
    assert await store.works_under(Cid("bafy")) == [1, 3] and not await store.works_under(Cid("b"))
    for content_id in (2, 3):
        await store.put_listing(listing(content_id, 10), most=9)
    assert list(await store.listed_in_custody(limit=9)) == [3]
    await store.drop_custody(ContentId(1))
    assert await store.custody(ContentId(1)) is None and await store.works_under(Cid("bafy")) == [3]
    assert await store.held_bytes(ALICE) == (0, 20), "what is gone frees its place"


async def test_keys_are_logged_in_order_and_bounded(store: Store) -> None:
    """The log tells who got which key when; one challenge is logged once."""

    def handed(number: int, requester: Address = ALICE, item: int = 3) -> HandedKey:
        return HandedKey(
            KeyKind.WORK, item, requester, "age1", Cid("bafk"), digest(number), 40, 100 + number
        )

    for number, requester in enumerate((ALICE, BOB, ALICE)):
        await store.log_key(handed(number, requester), most=2, since=0)
    with pytest.raises(TooManyQuestions):
        await store.log_key(handed(3), most=2, since=0)
    await store.log_key(handed(4), most=2, since=101)
    await store.log_key(handed(5, item=4), most=2, since=0)
    with pytest.raises(StoreError):
        await store.log_key(handed(5), most=9, since=0)
    found = await store.handed_keys(KeyKind.WORK, 3, after=0, limit=9)
    assert [each.requester for each in found] == [ALICE, BOB, ALICE, ALICE]
    assert [replace(each, seq=0) for each in found[:1]] == [handed(0)]
    rest = await store.handed_keys(KeyKind.WORK, 3, after=found[1].seq, limit=1)
    assert list(rest) == [found[2]]
    assert not await store.handed_keys(KeyKind.ADAPTER, 3, after=0, limit=9)


async def test_notices_and_their_answers_are_kept(store: Store) -> None:
    """A notice has one number for ever, an answer replaces the one before it."""
    said = Notice(ALICE, BOB, AdapterId(7), ContentId(0), 2, "no", "", ZERO_HASH, 5)
    first = await store.add_notice(NoticeRecord(said, keccak(b"1"), b"s", 6, 7, True))
    second = await store.add_notice(NoticeRecord(said, keccak(b"2"), b"s", 6, 7, False))
    assert list(await store.notices()) == [first, second]
    with pytest.raises(StoreError):
        await store.add_notice(NoticeRecord(said, keccak(b"1"), b"s", 6, 7, True))
    answers: tuple[tuple[NoticeState, int], ...] = (("upheld", 8), ("rejected", 9))
    for state, at in answers:
        await store.answer_notice(first.notice_id, state, reason=state, answered_at=at)
    answered = replace(first, state="rejected", reason="rejected", answered_at=9)
    assert list(await store.notices()) == [answered, second]
    await store.drop_notice(second.notice_id)
    third = await store.add_notice(NoticeRecord(said, keccak(b"3"), b"s", 6, 7, False))
    assert third.notice_id > second.notice_id, "a dropped number names no other notice"
    assert list(await store.notices()) == [answered, third]
