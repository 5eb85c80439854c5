"""The two registries as far as money depends on them, in plain Python.

Owns works, grants and adapters, and how an adapter retires (docs/contracts.md). Knows no money.
Each method either raises ``Refused`` with the contract's error and changes nothing, or applies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from viz.domain.license import ADAPTER_USES, Terms, Use
from viz.domain.shares import ShareTable
from viz.domain.units import BPS, UINT64_MAX, Address

NEVER = UINT64_MAX


class Refused(Exception):
    """What a contract says by reverting."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


def refuse(when: bool, error: str) -> None:
    if when:
        raise Refused(error)


@dataclass
class Work:
    owner: Address
    terms: Terms
    withdrawn_at: int = 0


@dataclass(frozen=True)
class Grant:
    terms: Terms
    acquired_at: int
    expires_at: int


@dataclass
class Adapter:
    trainer: Address
    royalty_bps: int
    trainer_bps: int
    shares: ShareTable
    retires_at: int = NEVER
    serves_until: dict[Address, int] = field(default_factory=dict)

    def may_serve_until(self, node: Address) -> int:
        return NEVER if node == self.trainer else self.serves_until.get(node, 0)


@dataclass
class Registry:
    """Works and adapters by their ids, which are sequential from 1."""

    min_notice_s: int
    works: dict[int, Work] = field(default_factory=dict)
    grants: dict[tuple[int, Address], Grant] = field(default_factory=dict)
    adapters: dict[int, Adapter] = field(default_factory=dict)

    # works

    def register_work(self, creator: Address, terms: Terms) -> None:
        self.works[len(self.works) + 1] = Work(creator, terms)

    def transfer_work(self, by: Address, work_id: int, to: Address) -> None:
        work = self._work(work_id)
        refuse(work.owner != by, "ERC721InsufficientApproval")
        work.owner = to

    def set_terms(self, by: Address, work_id: int, terms: Terms) -> None:
        work = self._work(work_id)
        refuse(work.owner != by, "NotOwner")
        refuse(bool(work.withdrawn_at), "AlreadyWithdrawn")
        work.terms = terms

    def withdraw_work(self, by: Address, work_id: int, now_s: int) -> None:
        work = self._work(work_id)
        refuse(work.owner != by, "NotOwner")
        refuse(bool(work.withdrawn_at), "AlreadyWithdrawn")
        work.withdrawn_at = now_s

    def acquire_grant(
        self, trainer: Address, work_id: int, expected: Terms, now_s: int
    ) -> tuple[Address, int]:
        """Return the owner and the fee it gets."""
        work, held = self._work(work_id), self.grants.get((work_id, trainer))
        refuse(bool(work.withdrawn_at), "AlreadyWithdrawn")
        refuse(work.terms != expected, "TermsChanged")
        same = held is not None and held.terms == work.terms and held.expires_at == NEVER
        refuse(same, "GrantIsPerpetual")
        duration = work.terms.grant_duration_s
        expires_at = now_s + duration if duration else NEVER
        self.grants[work_id, trainer] = Grant(work.terms, now_s, expires_at)
        return work.owner, work.terms.training_fee_units

    def _work(self, work_id: int) -> Work:
        if work_id not in self.works:
            raise Refused("ERC721NonexistentToken")
        return self.works[work_id]

    # adapters

    def register_adapter(self, adapter: Adapter, now_s: int) -> None:
        refuse(adapter.royalty_bps + adapter.trainer_bps > BPS, "RatesTooHigh")
        for work_id, bps in adapter.shares:
            grant = self.grants.get((work_id, adapter.trainer))
            if grant is None or now_s >= self._registers_until(work_id, grant):
                raise Refused("Unlicensed")
            refuse(not grant.terms.permits(ADAPTER_USES), "UseNotPermitted")
            too_low = adapter.royalty_bps * bps < grant.terms.min_royalty_bps * BPS
            refuse(too_low, "RoyaltyBelowMinimum")
        self.adapters[len(self.adapters) + 1] = adapter

    def _registers_until(self, work_id: int, grant: Grant) -> int:
        withdrawn_at = self.works[work_id].withdrawn_at
        if withdrawn_at and grant.terms.revocation_class:
            return min(grant.expires_at, withdrawn_at + grant.terms.notice_s)
        return grant.expires_at

    def retire(self, by: Address, adapter_id: int, now_s: int) -> None:
        self._retire(self._own(by, adapter_id), now_s, now_s)

    def enforce(self, adapter_id: int, shares: ShareTable, index: int, now_s: int) -> str:
        """Return what it did: whether the retirement moved, and for which cause."""
        adapter = self._known(adapter_id)
        refuse(adapter.shares != shares, "WrongShares")
        refuse(index >= len(shares), "ShareIndexOutOfBounds")
        causes = self._causes(shares[index].content_id, adapter.trainer, now_s)
        refuse(not causes, "NothingToEnforce")
        before, due = adapter.retires_at, min(causes.values())
        self._retire(adapter, due, now_s)
        cause = min(causes, key=lambda name: causes[name])
        return f"{cause}, {'retires' if adapter.retires_at < before else 'retires no earlier'}"

    def set_serving(
        self, by: Address, adapter_id: int, node: Address, allowed: bool, now_s: int
    ) -> None:
        adapter = self._own(by, adapter_id)
        refuse(node == by, "TrainerAlwaysServes")
        permitted = adapter.serves_until.get(node, 0) == NEVER
        if allowed:
            adapter.serves_until[node] = NEVER
        elif permitted:
            adapter.serves_until[node] = now_s + self.min_notice_s

    def _causes(self, work_id: int, trainer: Address, now_s: int) -> dict[str, int]:
        """Return why this work ends an adapter, and when, were there no MIN_NOTICE."""
        grant, withdrawn_at = self.grants[work_id, trainer], self.works[work_id].withdrawn_at
        causes = {}
        if withdrawn_at and grant.terms.revocation_class == 2:
            causes["withdrawn"] = withdrawn_at + grant.terms.notice_s
        if not grant.terms.permits(Use.EMBODY | Use.SERVE):
            causes["exchanged"] = grant.acquired_at
        elif now_s >= grant.expires_at:
            causes["lapsed"] = grant.expires_at
        return causes

    def _retire(self, adapter: Adapter, due_s: int, now_s: int) -> None:
        adapter.retires_at = min(adapter.retires_at, max(due_s, now_s + self.min_notice_s))

    def _known(self, adapter_id: int) -> Adapter:
        if adapter_id not in self.adapters:
            raise Refused("NotRegistered")
        return self.adapters[adapter_id]

    def _own(self, by: Address, adapter_id: int) -> Adapter:
        adapter = self._known(adapter_id)
        refuse(adapter.trainer != by, "NotTrainer")
        return adapter
