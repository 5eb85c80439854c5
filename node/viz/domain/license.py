"""Define license terms: the conditions under which a trainer may use a work.

Owns the immutable set of terms, its hash, the bits of permitted uses, and a work's commitment. The
registry stores the grants. The text of the license is represented by ``license_hash``.

Invariant: a ``Terms`` that passed ``check`` is one that ContentRegistry accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar, Final

from viz.domain.eip712 import Struct, address_bytes, keccak
from viz.domain.units import BPS, UINT32_MAX, UINT96_MAX, Address, Hash32, Units
from viz.errors import InvalidRequest

MAX_NOTICE_S: Final = 90 * 24 * 3600


class Use(IntFlag):
    """The uses that a license may permit; a set of bits."""

    TRAIN = 1
    EMBODY = 2
    SERVE = 4
    EXCERPT = 8
    EVALUATE = 16


ALL_USES: Final = Use.TRAIN | Use.EMBODY | Use.SERVE | Use.EXCERPT | Use.EVALUATE
ADAPTER_USES: Final = Use.TRAIN | Use.EMBODY | Use.SERVE


class RevocationClass(IntEnum):
    """The effect of a withdrawal on existing grants."""

    KEEP = 0
    STOP_NEW_ADAPTERS = 1
    RETIRE_ADAPTERS = 2


@dataclass(frozen=True, slots=True)
class Terms(Struct):
    """The conditions of a license; ``grant_duration_s`` 0 means without end."""

    TYPE: ClassVar[str] = (
        "Terms(uint96 trainingFee,uint16 minRoyaltyBps,uint32 grantDuration,uint32 notice,"
        "uint8 revocationClass,uint8 uses,bool approvalRequired)"
    )
    training_fee_units: Units
    min_royalty_bps: int
    grant_duration_s: int
    notice_s: int
    revocation_class: int
    uses: int
    approval_required: bool

    def check(self) -> None:
        """Raise InvalidRequest that names the first value that ContentRegistry would refuse."""
        rules = (
            (0 <= self.training_fee_units <= UINT96_MAX, "the training fee must fit 96 bits"),
            (0 <= self.min_royalty_bps <= BPS, "the minimum royalty is at most 10,000 bps"),
            (0 <= self.grant_duration_s <= UINT32_MAX, "the grant's duration must fit 32 bits"),
            (0 <= self.notice_s <= MAX_NOTICE_S, "the notice period is at most 90 days"),
            (self.revocation_class in tuple(RevocationClass), "revocation class is 0, 1 or 2"),
            (0 < self.uses <= ALL_USES, "permit at least one use, and only uses that exist"),
        )
        for holds, rule in rules:
            if not holds:
                raise InvalidRequest(f"these license terms cannot be registered: {rule}")

    def permits(self, uses: Use) -> bool:
        """Return whether all of ``uses`` are permitted."""
        return self.uses & uses == uses

    def terms_hash(self, license_hash: Hash32) -> Hash32:
        """Return keccak256(abi.encode(terms, licenseHash)), which identifies the terms on chain."""
        words = (
            self.training_fee_units,
            self.min_royalty_bps,
            self.grant_duration_s,
            self.notice_s,
            int(self.revocation_class),
            int(self.uses),
            int(self.approval_required),
        )
        return keccak(b"".join(word.to_bytes(32, "big") for word in words) + license_hash)

    def abi(self) -> tuple[int, int, int, int, int, int, bool]:
        """Return the tuple that a contract call takes."""
        return (
            self.training_fee_units,
            self.min_royalty_bps,
            self.grant_duration_s,
            self.notice_s,
            int(self.revocation_class),
            int(self.uses),
            self.approval_required,
        )


def work_commitment(creator: Address, salt: Hash32, merkle_root: Hash32) -> Hash32:
    """Return keccak256(abi.encode(creator, salt, merkleRoot)), bound to creator, hidden by salt."""
    return keccak(bytes(12) + address_bytes(creator) + salt + merkle_root)
