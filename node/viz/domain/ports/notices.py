"""Define the durable record of the notices that a node received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from viz.domain.notices import NoticeRecord, NoticeState


class NoticeLedger(Protocol):
    """The notices of third parties, and the operator's answers."""

    async def add_notice(self, record: NoticeRecord) -> NoticeRecord:
        """Store a notice, and return it with its number; raise StoreError if it is known."""
        ...

    async def answer_notice(
        self, notice_id: int, state: NoticeState, *, reason: str, answered_at: int
    ) -> None:
        """Store the operator's answer, in place of an earlier one."""
        ...

    async def drop_notice(self, notice_id: int) -> None: ...

    async def notices(self) -> Sequence[NoticeRecord]:
        """Return all notices by their numbers."""
        ...
