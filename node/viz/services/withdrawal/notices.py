"""Receive the notices of third parties, keep the operator's answers, and say what they suspend.

``viz.domain.notices`` has the rule. Invariants:

- A notice is kept only if its notifier signed it for this node, chain and registry, within a day.
- In a day an account gives one notice of a kind on a subject, and ``A_DAY`` of a kind in all; as
  an owner of the works in question it gives as many besides. The bound in all is not for owners'
  notices about personal data in their works. What strangers leave unanswered is bounded, for each
  subject and in all; owners of the works in question are outside that bound. The operator is
  outside all of them.
- The same notice again changes nothing: not its deadline, and not an answer.
- What the ledger has decides, also after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from viz.domain.eip712 import content_registry_domain
from viz.domain.notices import (
    DAY_S,
    NAME_OF_KIND,
    NoticeKind,
    NoticeRecord,
    NoticeRule,
    NoticeState,
    NoticeSummary,
    Suspension,
    summary_of,
    suspension_by,
)
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.notices import NoticeLedger
from viz.domain.typed_data import Notice
from viz.domain.units import BASE_MODEL, AdapterId, Address, ContentId, Hash32
from viz.errors import (
    InvalidRequest,
    InvalidSignature,
    LicenseError,
    NoticeUnknown,
    TooManyQuestions,
    UnknownAdapter,
    WrongDomain,
)
from viz.protocol.notices import (
    LAYOUT,
    MAX_CONTACT_CHARS,
    MAX_REASON_CHARS,
    MAX_STATEMENT_CHARS,
    NOTICES_PAGE,
    SignedNotice,
)
from viz.services.account_signatures import is_signed

# How far a notice's time may be ahead of this node's clock.
MAX_AHEAD_S: Final = 300
# How many notices of one kind a node takes in a day from an account.
A_DAY: Final = 4
STRANGERS_OPEN: Final = 512
STRANGERS_OPEN_EACH: Final = 8
KEPT: Final = 4_096
_log = structlog.get_logger()


class Notices:
    """The notices of one node. Call ``restore`` once before use."""

    def __init__(
        self,
        ledger: NoticeLedger,
        chain: ChainReader,
        clock: Clock,
        *,
        node: Address,
        rule: NoticeRule,
    ) -> None:
        self._ledger, self._chain, self._clock = ledger, chain, clock
        self._node, self.rule = node, rule
        self._records: dict[int, NoticeRecord] = {}
        self._changing = asyncio.Lock()

    async def restore(self) -> None:
        """Read the ledger's notices."""
        self._records = {each.notice_id: each for each in await self._ledger.notices()}

    # receiving

    async def accept(
        self, signed: SignedNotice, *, served: Container[AdapterId]
    ) -> tuple[NoticeRecord, bool]:
        """Keep a notice; return it, and whether it is new. ``served``: the adapters on offer here.

        A work that was withdrawn may be its subject: adapters of class 0 and 1 go on. Raises
        InvalidRequest, WrongDomain for another node, UnknownAdapter, LicenseError for a work that
        is not registered, InvalidSignature, TooManyQuestions, StoreError, ChainUnreachable.
        """
        said, now_s = signed.notice, self._clock.now_s()
        _require_well_formed(said, now_s)
        if said.node != self._node:
            raise WrongDomain(
                f"the notice is to node {said.node}, and this is {self._node}: sign one for it"
            )
        if said.adapter_id and said.adapter_id not in served:
            raise UnknownAdapter(
                f"adapter {said.adapter_id} is not served here: send the notice to a node that "
                "serves it (`viz buyer models` shows them)"
            )
        deployment = self._chain.deployment
        digest = content_registry_domain(deployment.chain_id, deployment.content_registry).digest(
            said
        )
        if (known := self._known(digest)) is not None:
            return known, False
        if not await is_signed(self._chain, digest, signed.signature, said.notifier):
            raise InvalidSignature(
                f"the notice is not signed by {said.notifier}: sign it with that account's key, "
                f"for chain {deployment.chain_id} and registry {deployment.content_registry}"
            )
        owners = await self._owners(said)
        standing = said.notifier == self._node or said.notifier in owners
        if self._known(digest) is None:
            self._require_room(said, now_s, standing=standing)
        rejected = standing and await self._was_rejected(said)
        async with self._changing:
            if (known := self._known(digest)) is not None:
                return known, False
            return await self._keep(
                signed, digest, standing=standing, rejected=rejected, now_s=now_s
            ), True

    def _known(self, digest: Hash32) -> NoticeRecord | None:
        return next((each for each in self._records.values() if each.digest == digest), None)

    async def _keep(
        self,
        signed: SignedNotice,
        digest: Hash32,
        *,
        standing: bool,
        rejected: bool,
        now_s: int,
    ) -> NoticeRecord:
        said, kind = signed.notice, NoticeKind(signed.notice.kind)
        self._require_room(said, now_s, standing=standing)
        effective_at = self.rule.effective_at(
            kind, now_s, standing=standing, rejected_before=rejected
        )
        await self._make_room()
        record = await self._ledger.add_notice(
            NoticeRecord(said, digest, signed.signature, now_s, effective_at, standing)
        )
        self._records[record.notice_id] = record
        _log.warning(
            "notice received",
            notice=record.notice_id,
            kind=NAME_OF_KIND[kind],
            adapter=int(said.adapter_id),
            work=int(said.content_id),
            standing=standing,
            effective_at=effective_at,
            remedy=f"viz notice show {record.notice_id}",
        )
        return record

    async def _was_rejected(self, said: Notice) -> bool:
        """Return whether the operator rejected such a notice of this notifier about the same.

        An owner must not suspend by naming the adapter what was rejected for its work. A rejected
        notice of another kind says nothing of this one.
        """
        works = await self._works(said.adapter_id, said.content_id)
        for each in tuple(self._records.values()):
            of = (each.state, each.notifier, each.kind)
            if of == ("rejected", said.notifier, NoticeKind(said.kind)):
                before = each.notice.adapter_id, each.notice.content_id
                if before == (said.adapter_id, said.content_id):
                    return True
                if works & await self._works(*before):
                    return True
        return False

    async def _works(self, adapter_id: AdapterId, content_id: ContentId) -> frozenset[ContentId]:
        """Return the works in question: the work, or those of the adapter."""
        if content_id:
            return frozenset({content_id})
        adapter = await self._chain.adapter(adapter_id)
        return frozenset(work for work, _ in adapter.shares) if adapter else frozenset()

    async def _owners(self, said: Notice) -> frozenset[Address]:
        """Return the owners of the works in question; raise for what is not on the chain."""
        if said.content_id:
            content = await self._chain.content(said.content_id)
            if content is None:
                raise LicenseError(f"there is no work {said.content_id}: check the id")
            return frozenset({content.owner})
        adapter = await self._chain.adapter(said.adapter_id)
        if adapter is None:
            raise UnknownAdapter(f"adapter {said.adapter_id} is not registered: check the id")
        return frozenset(await self._chain.owners([content_id for content_id, _ in adapter.shares]))

    def _require_room(self, said: Notice, now_s: int, *, standing: bool) -> None:
        if said.notifier == self._node:
            return
        kind = NoticeKind(said.kind)
        today = [
            each
            for each in self._records.values()
            if (each.notifier, each.kind) == (said.notifier, kind)
            and each.received_at + DAY_S > now_s
        ]
        about = (said.adapter_id, said.content_id)
        for each in today:
            if each.subject == about:
                raise TooManyQuestions(
                    f"this node took a notice of this kind ({NAME_OF_KIND[kind]}) on the same "
                    f"subject from {said.notifier} less than a day ago, number {each.notice_id}: "
                    "send the next one later",
                    retryAfter=each.received_at + DAY_S - now_s,
                )
        if standing and kind is NoticeKind.PERSONAL_DATA:
            return
        # Apart: what an account says as an owner leaves it what it may say of others' works.
        times = sorted(each.received_at for each in today if each.standing is standing)
        if len(times) >= A_DAY:
            raise TooManyQuestions(
                f"this node takes {A_DAY} notices of a kind a day from an account: send the next "
                "one later",
                retryAfter=times[-A_DAY] + DAY_S - now_s,
            )
        if standing:
            return
        waiting = [
            each for each in self._records.values() if each.state == "open" and not each.standing
        ]
        if (
            len(waiting) >= STRANGERS_OPEN
            or sum(each.subject == about for each in waiting) >= STRANGERS_OPEN_EACH
        ):
            raise TooManyQuestions(
                "too many notices wait for the operator's answer: try again in a day, or write to "
                "the operator",
                retryAfter=DAY_S,
            )

    async def _make_room(self) -> None:
        """Drop the oldest rejected notice if as many are kept as may be; raise TooManyQuestions."""
        if len(self._records) < KEPT:
            return
        rejected = [each for each in self._records.values() if each.state == "rejected"]
        if not rejected:
            raise TooManyQuestions(
                f"this node keeps {KEPT} notices and takes no more: write to its operator",
                retryAfter=DAY_S,
            )
        oldest = min(rejected, key=lambda each: each.answered_at)
        await self._ledger.drop_notice(oldest.notice_id)
        del self._records[oldest.notice_id]

    # answering

    async def answer(self, notice_id: int, *, upholds: bool, reason: str) -> NoticeRecord:
        """Keep the operator's answer, also in place of an earlier one; everybody sees ``reason``.

        Raises NoticeUnknown, InvalidRequest.
        """
        if not reason.strip() or len(reason) > MAX_REASON_CHARS or not reason.isprintable():
            raise InvalidRequest(
                f"the reason must be a line of 1 to {MAX_REASON_CHARS} characters: everybody "
                "reads it beside the notice",
                param="reason",
            )
        async with self._changing:
            record = self.get(notice_id)
            now_s = self._clock.now_s()
            state: NoticeState = "upheld" if upholds else "rejected"
            await self._ledger.answer_notice(notice_id, state, reason=reason, answered_at=now_s)
            answered = replace(record, state=state, reason=reason, answered_at=now_s)
            self._records[notice_id] = answered
        _log.info("notice answered", notice=notice_id, answer=state)
        return answered

    # reading

    def get(self, notice_id: int) -> NoticeRecord:
        """Return a notice; raise NoticeUnknown."""
        found = self._records.get(notice_id)
        if found is None:
            raise NoticeUnknown(f"there is no notice {notice_id} here: `viz notice list` has all")
        return found

    def all(self) -> Sequence[NoticeRecord]:
        """Return all notices by their numbers."""
        return [self._records[key] for key in sorted(self._records)]

    def page(
        self, *, after: int = 0, adapter_id: int = 0, content_id: int = 0
    ) -> tuple[Sequence[NoticeRecord], int | None]:
        """Return a page of the notices after number ``after``, and the next page's ``after``.

        With an adapter or a work: those whose subject it is.
        """
        found = [
            each
            for each in self.all()
            if each.notice_id > after
            and (not adapter_id or each.notice.adapter_id == adapter_id)
            and (not content_id or each.notice.content_id == content_id)
        ]
        page = found[:NOTICES_PAGE]
        return page, page[-1].notice_id if len(found) > NOTICES_PAGE else None

    def on_work(self, content_id: ContentId) -> NoticeSummary | None:
        """Return the unanswered notices on a work; None if there are none."""
        return summary_of(self._about(BASE_MODEL, (content_id,)))

    def on_adapter(self, adapter_id: AdapterId, works: Iterable[ContentId]) -> NoticeSummary | None:
        """Return the unanswered notices on an adapter and its works; None if there are none."""
        return summary_of(self._about(adapter_id, works))

    def suspension(self, adapter_id: AdapterId, works: Iterable[ContentId]) -> Suspension | None:
        """Return why an adapter with these works may not be sold now; None if it may."""
        return suspension_by(self._about(adapter_id, works), self._clock.now_s())

    def _about(self, adapter_id: AdapterId, works: Iterable[ContentId]) -> Sequence[NoticeRecord]:
        if not self._records:
            return ()
        subjects = {(0, int(each)) for each in works}
        if adapter_id != BASE_MODEL:
            subjects.add((int(adapter_id), 0))
        return [each for each in self._records.values() if each.subject in subjects]


def _require_well_formed(said: Notice, now_s: int) -> None:
    if bool(said.adapter_id) == bool(said.content_id):
        raise InvalidRequest(
            "a notice is about an adapter or about a work: name one of adapterId and contentId, "
            "and write 0 for the other"
        )
    if said.kind not in set(NoticeKind):
        kinds = ", ".join(f"{int(kind)} ({name})" for kind, name in NAME_OF_KIND.items())
        raise InvalidRequest(f"the notice's kind is {said.kind}: write {kinds}", param="kind")
    for name, shown, most in (
        ("statement", said.statement, MAX_STATEMENT_CHARS),
        ("contact", said.contact, MAX_CONTACT_CHARS),
    ):
        letters = shown.translate(dict.fromkeys(map(ord, LAYOUT)))
        if len(shown) > most or not letters.isprintable():
            raise InvalidRequest(
                f"the {name} is longer than {most} characters, or has characters that cannot be "
                "printed",
                param=name,
            )
    if not said.statement.strip():
        raise InvalidRequest("the statement is empty: say what is wrong", param="statement")
    if said.issued_at_s > now_s + MAX_AHEAD_S:
        raise InvalidRequest(
            f"issuedAt is {said.issued_at_s}, more than {MAX_AHEAD_S} s ahead of this node's clock "
            f"({now_s}): check your clock",
            param="issuedAt",
        )
    if said.issued_at_s < now_s - DAY_S:
        raise InvalidRequest(
            f"issuedAt is {said.issued_at_s}, more than a day ago by this node's clock ({now_s}): "
            "sign the notice again",
            param="issuedAt",
        )
