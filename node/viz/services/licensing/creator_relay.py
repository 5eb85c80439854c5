"""Relay what creators sign, at this node's expense: registrations, terms, approvals, withdrawals.

Invariants: a relayed registration or action of an owner is checked (signature, deadline, nonce,
then a simulation on the chain) before the node pays for it, and is paid from one budget that only
sent transactions use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from viz.domain.eip712 import content_registry_domain, is_plain, is_signed_by, with_v
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.transactions import Call, ChainWriter, Transaction
from viz.domain.typed_data import Approve, OwnerAction, Register, SetTerms
from viz.domain.units import Address, ContentId
from viz.errors import (
    InvalidRequest,
    InvalidSignature,
    LicenseError,
    RelayRefused,
)
from viz.protocol.registration import RegistrationContext
from viz.services.payments.relay_budget import RelayBudget, RelayPolicy, is_wallet, require_time

MAX_DEADLINE_S: Final = 24 * 3600
# A registration needs no deposit, so their number an hour is small.
REGISTRATIONS: Final = RelayPolicy(per_hour=120, per_payer_per_hour=None, per_minute=30)


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered work; its id is final only after its confirmations."""

    content_id: ContentId
    transaction: Transaction


class CreatorRelay:
    """Sends to ContentRegistry what creators and owners signed, within one budget."""

    def __init__(
        self,
        reader: ChainReader,
        writer: ChainWriter,
        clock: Clock,
        *,
        relays: RelayPolicy | None = REGISTRATIONS,
        fee_wei: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Create it; ``relays`` bounds the relaying, None disables it.

        ``fee_wei`` is as in ``RelayBudget``.
        """
        self._reader = reader
        self._writer = writer
        self._budget = RelayBudget(clock, relays, fee_wei) if relays else None

    async def registration_context(self, creator: Address) -> RegistrationContext:
        """Return the values that ``creator`` needs to sign a registration."""
        deployment = self._reader.deployment
        return RegistrationContext(
            deployment.chain_id,
            deployment.content_registry,
            creator,
            await self._reader.registration_nonce(creator),
            await self._reader.chain_time(),
            deployment.token_decimals,
        )

    async def relay_registration(self, work: Register, signature: bytes) -> Registered:
        """Submit a creator's signed registration at the node's expense.

        Raises RelayRefused, RelayBusy, InvalidRequest, InvalidSignature, FeeTooHigh,
        TransactionFailed (with the contract's reason, nothing sent), OutcomeUnknown,
        ChainUnreachable.
        """
        work.terms.check()
        sent = await self._relay(
            work, work.creator, signature, lambda plain: registration_call(work, plain)
        )
        return registered(sent)

    async def relay_action(self, action: OwnerAction, signature: bytes) -> Transaction:
        """Submit what a work's owner signed (terms, an approval, the withdrawal), and return it.

        Raises LicenseError if there is no such work or it was withdrawn already, and whatever
        ``relay_registration`` raises.
        """
        if isinstance(action, SetTerms):
            action.terms.check()
        content = await self._reader.content(action.content_id)
        if content is None:
            raise LicenseError(f"there is no work {action.content_id}: check the id")
        if content.withdrawn_at and not isinstance(action, Approve):
            raise LicenseError(
                f"work {action.content_id} was withdrawn already, at {content.withdrawn_at} of the "
                "chain's time: a withdrawal is for ever, and there are no new terms after it"
            )
        sent = await self._relay(
            action, content.owner, signature, lambda plain: owner_call(action, plain)
        )
        return sent.require_mined(f"the {action_name(action)}")

    async def _relay(
        self,
        signed: Register | OwnerAction,
        signer: Address,
        signature: bytes,
        call: Callable[[bytes], Call],
    ) -> Transaction:
        """Check a creator's signature, its nonce and deadline, and send its call."""
        what = action_name(signed)
        if self._budget is None:
            raise RelayRefused(
                f"this node does not pay for a creator's {what}: send it with a key that has the "
                "chain's coin, or use another node (the operator's setting is relay.registrations)"
            )
        deployment = self._reader.deployment
        domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
        # The signature of a contract wallet is checked by the simulation.
        if is_plain(signature) and not is_signed_by(domain.digest(signed), signature, signer):
            raise InvalidSignature(
                f"the {what} is not signed by {signer} for chain "
                f"{deployment.chain_id} and ContentRegistry {deployment.content_registry}"
            )
        now_s = await self._reader.chain_time()
        if signed.deadline_s < now_s:
            raise InvalidRequest(
                f"the {what} expired: its deadline is {signed.deadline_s}, and the chain's time is "
                f"{now_s}: sign again"
            )
        if signed.deadline_s > now_s + MAX_DEADLINE_S:
            raise InvalidRequest(
                f"the deadline must be at most {MAX_DEADLINE_S // 3600} hours after the chain's "
                f"time, which is {now_s}: sign again"
            )
        require_time(signed.deadline_s, now_s, f"the {what}")
        nonce = await self._reader.registration_nonce(signer)
        if nonce != signed.nonce:
            raise InvalidRequest(
                f"the nonce is {signed.nonce}, but {signer}'s next one is {nonce}: sign again"
            )
        if len(signature) == 64:
            signature = with_v(signature)
        wallet = await is_wallet(self._reader, signer, signature)
        return await self._budget.send(self._writer, signer, call(signature), wallet=wallet)


def registration_call(work: Register, signature: bytes) -> Call:
    """Return the call that registers a work with its creator's signature of 65 bytes."""
    arguments = (
        work.creator,
        work.commitment,
        work.license_hash,
        work.terms.abi(),
        work.nonce,
        work.deadline_s,
        signature,
    )
    return Call("ContentRegistry", "registerFor", arguments)


def owner_call(action: OwnerAction, signature: bytes | None = None) -> Call:
    """Return the contract call of an owner's action.

    With ``signature`` (65 bytes) anybody can send it; without, only the owner. A call without a
    signature uses no nonce, so that signatures already given stay valid.
    """
    if isinstance(action, SetTerms):
        name = "setTerms"
        values: tuple[object, ...] = (action.license_hash, action.terms.abi())
    elif isinstance(action, Approve):
        name, values = "approveTrainer", (action.trainer, action.allowed)
    else:
        name, values = "withdraw", ()
    values = (action.content_id, *values)
    if signature is None:
        return Call("ContentRegistry", name, values)
    signed = (action.nonce, action.deadline_s, signature)
    return Call("ContentRegistry", f"{name}For", (*values, *signed))


def action_name(signed: Register | OwnerAction) -> str:
    """Return the name of a signed structure, as messages to people call it."""
    if isinstance(signed, Register):
        return "registration"
    if isinstance(signed, SetTerms):
        return "change of terms"
    return "approval" if isinstance(signed, Approve) else "withdrawal"


def registered(transaction: Transaction) -> Registered:
    """Return the work that a transaction registered; raise as ``Transaction.require_mined``."""
    event = transaction.require_mined("the registration").event("ContentRegistered")
    return Registered(ContentId(event.args["contentId"]), transaction)
