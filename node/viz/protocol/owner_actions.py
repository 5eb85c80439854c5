"""Define the messages of works' owners: signed actions, and answers about an account.

Owns the JSON of a relayed change of terms, approval and withdrawal, and the answers about one
account. ``viz.protocol.registration`` has the registration. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.typed_data import Approve, OwnerAction, SetTerms, Withdraw
from viz.domain.units import ContentId
from viz.protocol.messages import SignatureHex
from viz.protocol.wire import JSON_INTEGER_MAX
from viz.protocol.wire_model import (
    AddressText,
    AtMost,
    Hash32Hex,
    JsonInteger,
    Signed,
    UnitsText,
    WireModel,
    decimal,
    whole,
)

# POST a SignedTerms, SignedApproval or SignedWithdrawal -> ActionAnswer.
TERMS_PATH: Final = "/viz/v1/contents/terms"
APPROVALS_PATH: Final = "/viz/v1/contents/approvals"
WITHDRAWALS_PATH: Final = "/viz/v1/contents/withdrawals"
# GET -> AccountView, and GET with ?after=ID -> OwnedWorks.
ACCOUNT_PATH: Final = "/viz/v1/accounts/{account}"
OWNED_PATH: Final = "/viz/v1/accounts/{account}/contents"
# The number of works that are searched for one answer about an account.
OWNED_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class SignedTerms(WireModel):
    """An owner's signed SetTerms, which a node submits."""

    WHERE: ClassVar[str] = "the change of terms"
    set_terms: Annotated[SetTerms, Signed]
    signature: SignatureHex

    @property
    def action(self) -> OwnerAction:
        return self.set_terms


@dataclass(frozen=True, slots=True)
class SignedApproval(WireModel):
    """An owner's signed Approve, which a node submits."""

    WHERE: ClassVar[str] = "the approval"
    approve: Annotated[Approve, Signed]
    signature: SignatureHex

    @property
    def action(self) -> OwnerAction:
        return self.approve


@dataclass(frozen=True, slots=True)
class SignedWithdrawal(WireModel):
    """An owner's signed Withdraw, which a node submits."""

    WHERE: ClassVar[str] = "the withdrawal"
    withdraw: Annotated[Withdraw, Signed]
    signature: SignatureHex

    @property
    def action(self) -> OwnerAction:
        return self.withdraw


SignedAction = SignedTerms | SignedApproval | SignedWithdrawal


def signed_action(action: OwnerAction, signature: bytes) -> tuple[str, SignedAction]:
    """Return the path and the message to send a signed action to a node."""
    if isinstance(action, SetTerms):
        return TERMS_PATH, SignedTerms(action, signature)
    if isinstance(action, Approve):
        return APPROVALS_PATH, SignedApproval(action, signature)
    return WITHDRAWALS_PATH, SignedWithdrawal(action, signature)


@dataclass(frozen=True, slots=True)
class ActionAnswer(WireModel):
    """The transaction of a signed action; read the chain for the current state."""

    WHERE: ClassVar[str] = "the node's answer"
    content_id: Annotated[ContentId, whole(JSON_INTEGER_MAX)]
    transaction: Hash32Hex


@dataclass(frozen=True, slots=True)
class AccountView(WireModel):
    """An account's tokens, its balance in Settlement with the recipient, and its coin for gas."""

    WHERE: ClassVar[str] = "the node's answer"
    account: AddressText
    token_units: UnitsText
    collectable_units: UnitsText
    collected_to: AddressText
    coin_wei: Annotated[int, decimal(2**128 - 1)]


@dataclass(frozen=True, slots=True)
class OwnedWorks(WireModel):
    """The works that an account owns with ids above ``after``, up to ``looked_to``."""

    WHERE: ClassVar[str] = "the node's answer"
    owner: AddressText
    contents: Annotated[tuple[JsonInteger, ...], AtMost(OWNED_PAGE)]
    looked_to: JsonInteger
    count: JsonInteger
