"""A store in memory: all of ``domain.ports.settlement_ledger.Store``, forgotten with the process.

tests/unit/store/test_behaviour.py holds it to what the SQL store does. A call takes effect before
it returns and nothing waits, so it is whole or not at all by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal

from viz.domain.notices import NoticeRecord, NoticeState
from viz.domain.ports.custody import CustodyRecord, HandedKey, KeyKind
from viz.domain.ports.ledger import (
    AccessRecord,
    AdapterRecord,
    AnswerRecord,
    ChannelLineRecord,
    ChannelRecord,
    EndedAdapter,
    ReceiptRecord,
    TrainingRecord,
    UnbilledRecord,
)
from viz.domain.ports.listings import ListingRecord
from viz.domain.ports.settlement_ledger import BlockMark, ClaimRecord, SignedTransaction
from viz.domain.ports.transactions import Outcome
from viz.domain.units import UINT96_MAX, ZERO_HASH, AdapterId, Address, Cid, ContentId, Hash32
from viz.errors import CustodyFull, StoreConflict, StoreError, StoreFull
from viz.store.custody import require_custody_room, require_key_room

HEADS_LIMIT = 4096


class MemoryStore:
    """Every record in a dictionary, open to a test that wants to look."""

    def __init__(self) -> None:
        self.channel_rows: dict[Address, ChannelRecord] = {}
        self.receipt_rows: dict[tuple[Address, int], ReceiptRecord] = {}
        self.unbilled_rows: dict[bytes, UnbilledRecord] = {}
        self.answer_rows: dict[tuple[bytes, str], AnswerRecord] = {}
        self.access_rows: dict[Hash32, tuple[Hash32, AccessRecord]] = {}
        self.adapter_rows: dict[AdapterId, AdapterRecord] = {}
        self.training_rows: dict[str, TrainingRecord] = {}
        self.ended_rows: dict[AdapterId, EndedAdapter] = {}
        self.successor_rows: dict[AdapterId, AdapterId] = {}
        self.claims: list[tuple[ClaimRecord, str]] = []
        self.transactions: dict[Hash32, tuple[SignedTransaction, Outcome | None]] = {}
        self.blocks: dict[int, BlockMark] = {}
        self.listing_rows: dict[ContentId, ListingRecord] = {}
        self.custody_rows: dict[ContentId, CustodyRecord] = {}
        self.handed_rows: list[HandedKey] = []
        self.notice_rows: dict[int, NoticeRecord] = {}
        self.notice_numbers = 0
        self._closed = False

    def require_room(self) -> None:
        """There is always room."""

    def answering(self) -> AbstractContextManager[None]:
        """Nothing waits here, so it does not matter who else does."""
        return nullcontext()

    # channels

    async def channel(self, signer: Address) -> ChannelRecord | None:
        self._open()
        return self.channel_rows.get(signer)

    async def channels(self) -> Sequence[ChannelRecord]:
        self._open()
        return [self.channel_rows[signer] for signer in sorted(self.channel_rows)]

    async def commit(
        self,
        point: str,
        channel: ChannelRecord,
        *,
        touched: Collection[AdapterId] | None = None,
        receipt: ReceiptRecord | None = None,
        answer: AnswerRecord | None = None,
        unbilled: Sequence[UnbilledRecord] = (),
        billed: bytes | None = None,
    ) -> ChannelRecord:
        self._open()
        stored = self.channel_rows.get(channel.signer)
        if (stored.version if stored else 0) != channel.version:
            raise StoreConflict("the channel was changed by another request: read it again")
        _check_amounts(channel)
        if receipt is not None:
            same = (receipt.signer, receipt.seq) in self.receipt_rows
            if same or await self.receipt_seq(receipt.signer, receipt.head) is not None:
                raise StoreError("the receipt is stored already")
        before = dict(stored.lines) if stored else {}
        written = {
            key: line for key, line in channel.lines.items() if touched is None or key in touched
        }
        saved = replace(channel, version=channel.version + 1)
        self.channel_rows[channel.signer] = replace(saved, lines=before | written)
        if receipt is not None:
            self.receipt_rows[receipt.signer, receipt.seq] = receipt
        if answer is not None:
            self.answer_rows[answer.scope, answer.key] = answer
        self.unbilled_rows |= {each.request_id: each for each in unbilled}
        if billed is not None:
            self.unbilled_rows.pop(billed, None)
        return saved

    async def receipt_seq(self, signer: Address, head: Hash32) -> int | None:
        self._open()
        if head == ZERO_HASH:
            return 0
        rows = self.receipt_rows.values()
        return next((row.seq for row in rows if (row.signer, row.head) == (signer, head)), None)

    async def heads(self, signer: Address, after: int) -> Sequence[Hash32]:
        rows = await self.receipts(signer, after=after, limit=len(self.receipt_rows))
        return [row.head for row in rows][-HEADS_LIMIT:]

    async def receipts(
        self, signer: Address, *, after: int = 0, limit: int = 256
    ) -> Sequence[ReceiptRecord]:
        self._open()
        keys = sorted(key for key in self.receipt_rows if key[0] == signer and key[1] > after)
        return [self.receipt_rows[key] for key in keys[:limit]]

    async def unbilled(self) -> Sequence[UnbilledRecord]:
        self._open()
        return list(self.unbilled_rows.values())

    async def answer(self, scope: bytes, key: str) -> AnswerRecord | None:
        self._open()
        return self.answer_rows.get((scope, key))

    async def forget_answers(self, before: int) -> int:
        self._open()
        old = [
            key
            for key, row in self.answer_rows.items()
            if row.created_at < before and row.body is not None
        ]
        for key in old:
            self.answer_rows[key] = replace(self.answer_rows[key], body=None)
        return len(old)

    # access tokens

    async def admit(self, challenge: Hash32, access: AccessRecord) -> bool:
        self._open()
        if any(used == challenge for used, _ in self.access_rows.values()):
            return False
        self.access_rows[access.token_hash] = challenge, access
        return True

    async def access(self, token_hash: Hash32) -> AccessRecord | None:
        self._open()
        found = self.access_rows.get(token_hash)
        return found[1] if found else None

    async def forget_access(self, before: int) -> int:
        self._open()
        old = [key for key, (_, row) in self.access_rows.items() if row.expires_at < before]
        for key in old:
            del self.access_rows[key]
        return len(old)

    # adapters and trainings

    async def put_adapter(self, adapter: AdapterRecord) -> None:
        self._open()
        self.adapter_rows[adapter.adapter_id] = adapter

    async def drop_adapter(self, adapter_id: AdapterId) -> None:
        self._open()
        self.adapter_rows.pop(adapter_id, None)

    async def adapters(self) -> Sequence[AdapterRecord]:
        self._open()
        return [self.adapter_rows[key] for key in sorted(self.adapter_rows)]

    async def put_training(self, training: TrainingRecord) -> None:
        self._open()
        self.training_rows[training.training_id] = training

    async def training(self, training_id: str) -> TrainingRecord | None:
        self._open()
        return self.training_rows.get(training_id)

    async def trainings(self) -> Sequence[TrainingRecord]:
        self._open()
        return sorted(
            self.training_rows.values(), key=lambda row: (row.created_at, row.training_id)
        )

    # claims

    async def freeze(self, signer: Address, *, now_s: int) -> ClaimRecord | None:
        self._open()
        channel = self.channel_rows.get(signer)
        if channel is None or not channel.signature or not (due := channel.unclaimed()):
            return None
        claim = ClaimRecord(
            len(self.claims) + 1,
            signer,
            channel.base_units,
            tuple(due.items()),
            channel.voucher_head,
            channel.signature,
            now_s,
        )
        lines = {
            key: ChannelLineRecord(line.accepted_units, line.accepted_units, line.spent_units)
            for key, line in channel.lines.items()
        }
        self.claims.append((claim, ""))
        self.channel_rows[signer] = replace(
            channel,
            base_units=claim.end_units,
            lines=lines,
            signature=b"",
            version=channel.version + 1,
        )
        return claim

    async def frozen(self) -> Sequence[ClaimRecord]:
        self._open()
        rows = [claim for claim, ending in self.claims if not ending]
        return sorted(rows, key=lambda row: (row.signer, row.base_units))

    async def finish(self, claim_id: int, end: Literal["settled", "dropped"], note: str) -> None:
        self._open()
        self.claims = [
            (claim, end if claim.claim_id == claim_id and not ending else ending)
            for claim, ending in self.claims
        ]

    async def take_up_dropped(self) -> None:
        self._open()
        self.claims = [
            (claim, "" if ending == "dropped" else ending) for claim, ending in self.claims
        ]

    # adapters that ended

    async def put_end(self, ended: EndedAdapter) -> None:
        self._open()
        self.ended_rows[ended.adapter_id] = ended

    async def ended(self) -> Sequence[EndedAdapter]:
        self._open()
        return [self.ended_rows[key] for key in sorted(self.ended_rows)]

    async def put_successor(self, adapter_id: AdapterId, successor_id: AdapterId) -> None:
        self._open()
        self.successor_rows[adapter_id] = successor_id

    async def successors(self) -> Mapping[AdapterId, AdapterId]:
        self._open()
        return dict(self.successor_rows)

    async def leave_no_trace(self) -> None:
        """Nothing that was replaced is kept."""

    # transactions and blocks

    async def record(self, transaction: SignedTransaction) -> None:
        self._open()
        self.transactions[transaction.hash] = transaction, None

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        self._open()
        if transaction_hash in self.transactions:
            self.transactions[transaction_hash] = self.transactions[transaction_hash][0], outcome

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        self._open()
        found = [
            row for row, end in self.transactions.values() if row.sender == sender and end is None
        ]
        return sorted(found, key=lambda row: row.nonce)

    async def described(self, sender: Address, description: str) -> Sequence[SignedTransaction]:
        self._open()
        found = [
            replace(row, failed=end is Outcome.FAILED)
            for row, end in self.transactions.values()
            if (row.sender, row.description) == (sender, description)
        ]
        return sorted(found, key=lambda row: row.nonce)

    async def marks(self) -> Sequence[BlockMark]:
        self._open()
        return [self.blocks[number] for number in sorted(self.blocks, reverse=True)]

    async def advance(self, mark: BlockMark) -> None:
        self._open()
        self.blocks[mark.number] = mark

    async def rollback(self, above: int) -> None:
        self._open()
        self.blocks = {number: mark for number, mark in self.blocks.items() if number <= above}

    # notices

    async def add_notice(self, record: NoticeRecord) -> NoticeRecord:
        self._open()
        if any(record.digest == each.digest for each in self.notice_rows.values()):
            raise StoreError("the notice is known")
        self.notice_numbers += 1
        made = replace(record, notice_id=self.notice_numbers)
        self.notice_rows[made.notice_id] = made
        return made

    async def answer_notice(
        self, notice_id: int, state: NoticeState, *, reason: str, answered_at: int
    ) -> None:
        self._open()
        before = self.notice_rows[notice_id]
        self.notice_rows[notice_id] = replace(
            before, state=state, reason=reason, answered_at=answered_at
        )

    async def drop_notice(self, notice_id: int) -> None:
        self._open()
        self.notice_rows.pop(notice_id, None)

    async def notices(self) -> Sequence[NoticeRecord]:
        self._open()
        return list(self.notice_rows.values())

    # custody

    async def put_custody(
        self, work: CustodyRecord, *, most_each_bytes: int, most_bytes: int
    ) -> CustodyRecord | None:
        self._open()
        earlier = self.custody_rows.pop(work.content_id, None)
        each, every = await self.held_bytes(work.owner)
        try:
            require_custody_room(
                work.size_bytes, each, every, most_each=most_each_bytes, most=most_bytes
            )
        except CustodyFull:
            if earlier is not None:
                self.custody_rows[work.content_id] = earlier
            raise
        self.custody_rows[work.content_id] = work
        return earlier

    async def custody(self, content_id: ContentId) -> CustodyRecord | None:
        self._open()
        return self.custody_rows.get(content_id)

    async def works_under(self, cid: Cid) -> Sequence[ContentId]:
        self._open()
        return sorted(name for name, row in self.custody_rows.items() if row.cid == cid)

    async def drop_custody(self, content_id: ContentId) -> None:
        self._open()
        self.custody_rows.pop(content_id, None)

    async def held_bytes(self, owner: Address) -> tuple[int, int]:
        self._open()
        rows = self.custody_rows.values()
        each = sum(row.size_bytes for row in rows if row.owner == owner)
        return each, sum(row.size_bytes for row in rows)

    async def log_key(self, handed: HandedKey, *, most: int, since: int) -> None:
        self._open()
        lately = [
            row
            for row in self.handed_rows
            if (row.kind, row.item_id, row.requester)
            == (handed.kind, handed.item_id, handed.requester)
            and row.handed_at > since
        ]
        require_key_room(len(lately), most)
        if any(row.challenge == handed.challenge for row in self.handed_rows):
            raise StoreError("the challenge is stored already")
        self.handed_rows.append(replace(handed, seq=len(self.handed_rows) + 1))

    async def handed_keys(
        self, kind: KeyKind, item_id: int, *, after: int, limit: int
    ) -> Sequence[HandedKey]:
        self._open()
        found = [
            row
            for row in self.handed_rows
            if (row.kind, row.item_id) == (kind, item_id) and row.seq > after
        ]
        return found[:limit]

    # listings

    async def put_listing(self, listing: ListingRecord, *, most: int) -> ListingRecord:
        self._open()
        kept = self.listing_rows.get(listing.content_id)
        if kept is not None and kept.issued_at >= listing.issued_at:
            return kept
        if kept is None and len(self.listing_rows) >= most:
            raise StoreFull(f"this node keeps {most} listings and takes no more")
        self.listing_rows[listing.content_id] = listing
        return listing

    async def listing(self, content_id: ContentId) -> ListingRecord | None:
        self._open()
        return self.listing_rows.get(content_id)

    async def listings(self, *, after: ContentId, limit: int) -> Sequence[ListingRecord]:
        self._open()
        wanted = sorted(key for key in self.listing_rows if key > after)
        return [self.listing_rows[key] for key in wanted[:limit]]

    async def listed_in_custody(self, *, limit: int) -> Sequence[ContentId]:
        self._open()
        return sorted(self.listing_rows.keys() & self.custody_rows.keys())[:limit]

    async def drop_listing(self, listing: ListingRecord) -> None:
        self._open()
        kept = self.listing_rows.get(listing.content_id)
        if kept is not None and kept.issued_at == listing.issued_at:
            del self.listing_rows[listing.content_id]

    async def close(self) -> None:
        self._closed = True

    def _open(self) -> None:
        if self._closed:
            raise StoreError("the ledger is closed: the node is stopping")


def _check_amounts(channel: ChannelRecord) -> None:
    amounts = [channel.base_units, channel.total_units]
    for line in channel.lines.values():
        amounts += [line.base_units, line.accepted_units, line.spent_units]
    if not all(0 <= units <= UINT96_MAX for units in amounts):
        raise StoreError("an amount is no amount of base units")
