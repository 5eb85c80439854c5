"""Carry out an owner's actions on a work: change terms, approve a trainer, withdraw, transfer.

Owns both ways onto the chain: signed and relayed through a node, which costs the owner nothing, or
as the owner's own transaction. ``viz.creator.signing`` finds the values that are signed, and the
caller shows them and asks. A relayed action is done only if the chain says so; without access to a
chain there is only the node's claim, and the caller must say that.

Invariant: after an action, no earlier signature can undo it. A signature is recorded before it is
given away (``viz.creator.signatures_out``); if one with the same nonce that would undo the action
was given away, an own transaction carries a signature too, which uses that nonce up. A withdrawal
is for ever, so that it never waits for a signature, and needs none in an own transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from viz.client.exchange import exchange
from viz.creator.signatures_out import SignatureOut, SignaturesOut
from viz.creator.signing import SigningValues, chain_values, signing_values
from viz.creator.until_seen import seen_after, until_seen
from viz.creator.works import NodeWorks
from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.ports.chain import ChainReader, ContentState, Deployment
from viz.domain.ports.clock import Clock
from viz.domain.ports.transactions import Call, ChainWriter, Transaction
from viz.domain.typed_data import Approve, OwnerAction, SetTerms, Withdraw
from viz.domain.units import ZERO_ADDRESS, Address, ContentId, Hash32, hex_of
from viz.errors import InvalidRequest, LicenseError, NodeNotTrusted, VizError
from viz.protocol.owner_actions import ActionAnswer, signed_action
from viz.protocol.registration import WorkDescription
from viz.services.licensing.creator_relay import action_name, owner_call
from viz.services.work_records import (
    load_record,
    read_work,
    record_path,
    save_record,
    write_record,
)

ActionMaker = Callable[[int, int], OwnerAction]
"""Makes the action from its nonce and its deadline."""


@dataclass(frozen=True, slots=True)
class OwnerDesk:
    """What an owner's actions need; ``chain`` is None if the owner has no chain endpoint."""

    deployment: Deployment
    folder: Path
    clock: Clock
    chain: ChainReader | None = None
    development: bool = False

    def signatures(self, signer: Address) -> SignaturesOut:
        """Return the record of signatures that the signer gave away."""
        where = self.deployment
        return SignaturesOut(self.folder, where.chain_id, where.content_registry, signer)


@dataclass(frozen=True, slots=True)
class ProposedAction:
    """An unsigned action, and the time at which its values were chosen.

    ``still_out`` are the signatures that were given away before and could still be used.
    """

    action: OwnerAction
    signer: Address
    now_s: int
    direct: bool
    still_out: tuple[SignatureOut, ...] = ()


@dataclass(frozen=True, slots=True)
class ActionDone:
    """A completed action; ``on_chain``: seen on the chain, otherwise only the node says so.

    ``transaction`` is None if it is on the chain, and the node did not name it.
    """

    content_id: ContentId
    transaction: Hash32 | None
    on_chain: bool


async def propose(
    desk: OwnerDesk, signer: Address, make: ActionMaker, node_url: str
) -> ProposedAction:
    """Return the action that the owner would sign for a node to relay, without signing it.

    Raises what ``signing_values`` raises, and InvalidRequest if a signature with a higher nonce,
    which could undo the action, was given away.
    """
    found = await signing_values(
        signer, desk.deployment, node_url, desk.clock, desk.chain, development=desk.development
    )
    return await _proposed(desk, signer, make, found, direct=False)


async def propose_directly(desk: OwnerDesk, signer: Address, make: ActionMaker) -> ProposedAction:
    """Return the action for the owner's own transaction; ``desk`` must have a chain."""
    assert desk.chain is not None
    found = await chain_values(signer, desk.clock, desk.chain, development=desk.development)
    return await _proposed(desk, signer, make, found, direct=True)


async def _proposed(
    desk: OwnerDesk, signer: Address, make: ActionMaker, found: SigningValues, *, direct: bool
) -> ProposedAction:
    out = desk.signatures(signer)
    action = make(found.nonce, found.deadline_s)
    if isinstance(action, SetTerms):
        action.terms.check()
    if not isinstance(action, Withdraw):
        await asyncio.to_thread(out.require_in_order, _to_give_away(action), found.now_s)
    still_out = await asyncio.to_thread(out.from_nonce, found.nonce, found.now_s)
    return ProposedAction(action, signer, found.now_s, direct, still_out)


async def relay(desk: OwnerDesk, proposed: ProposedAction, key: bytes, node_url: str) -> ActionDone:
    """Sign the action, have a node submit it, and check the chain if there is one.

    What the chain shows is done, also if the node's answer fails. Else raises the class that the
    node's problem names; NodeNotTrusted if the node says that it is done; NodeUnreachable or
    NodeRefused if no answer of the node came.
    """
    action = proposed.action
    signature = await _sign(desk, proposed, key)
    path, message = signed_action(action, signature)
    chain = desk.chain
    try:
        answer = await exchange(
            ActionAnswer.from_json, "POST", node_url, path, message.to_json(), other_way="--direct"
        )
    except VizError as error:
        if chain is None:
            raise
        await seen_after(error, lambda: _is_done(chain, action, proposed.signer))
        return ActionDone(action.content_id, None, on_chain=True)
    if chain is None:
        return ActionDone(action.content_id, answer.transaction, on_chain=False)
    if await until_seen(lambda: _is_done(chain, action, proposed.signer)):
        return ActionDone(action.content_id, answer.transaction, on_chain=True)
    raise NodeNotTrusted(
        f"the node said that the {action_name(action)} of work {action.content_id} is done, and "
        "the chain does not have it: name another node, or use --direct"
    )


async def send(
    desk: OwnerDesk, proposed: ProposedAction, key: bytes, writer: ChainWriter
) -> ActionDone:
    """Carry the action out by the owner's own transaction. Costs gas.

    If a signature with this nonce, which could undo the action, was given away, the transaction
    carries another signature with the same nonce, which voids the first one. Raises
    TransactionFailed, OutcomeUnknown.
    """
    action, out = proposed.action, desk.signatures(proposed.signer)
    call = owner_call(action)
    if not isinstance(action, Withdraw):
        noted = _to_give_away(action)
        if await asyncio.to_thread(out.undone_by_same_nonce, noted, proposed.now_s):
            call = owner_call(action, await _sign(desk, proposed, key))
    sent = (await writer.submit(call)).require_mined(f"the {action_name(action)}")
    return ActionDone(action.content_id, sent.hash, on_chain=True)


async def _sign(desk: OwnerDesk, proposed: ProposedAction, key: bytes) -> bytes:
    if public_address(key) != proposed.signer:
        raise InvalidRequest(f"the key is not that of {proposed.signer}")
    action = proposed.action
    noted = _to_give_away(action)
    await asyncio.to_thread(desk.signatures(proposed.signer).note, noted, proposed.now_s)
    domain = content_registry_domain(desk.deployment.chain_id, desk.deployment.content_registry)
    return sign(key, domain.digest(action))


def _to_give_away(action: OwnerAction) -> SignatureOut:
    if isinstance(action, SetTerms):
        offered = hex_of(action.terms.terms_hash(action.license_hash))
        what = f"change of terms of work {action.content_id}, to {offered}"
    elif isinstance(action, Approve):
        kind = "approval" if action.allowed else "end of the approval"
        what = f"{kind} of {action.trainer} for work {action.content_id}"
    else:
        what = f"withdrawal of work {action.content_id}"
    return SignatureOut(action.nonce, action.deadline_s, what, action.content_id)


async def _is_done(chain: ChainReader, action: OwnerAction, owner: Address) -> bool:
    """Return whether the chain shows the effect of the action, and that no earlier one can follow.

    The effect may have been there before: an approval that a node keeps would undo the end of an
    approval that never was. So the action's nonce must be used, except for a withdrawal, which
    nothing undoes.
    """
    if not await holds(chain, action, owner):
        return False
    return isinstance(action, Withdraw) or await chain.registration_nonce(owner) > action.nonce


async def holds(chain: ChainReader, action: OwnerAction, owner: Address) -> bool:
    """Return whether the chain shows the effect of the action."""
    if isinstance(action, Approve):
        found = await chain.approved(action.content_id, owner, action.trainer)
        return found == action.allowed
    content = await chain.content(action.content_id)
    if content is None:
        return False
    if isinstance(action, SetTerms):
        return content.terms_hash == action.terms.terms_hash(action.license_hash)
    return content.withdrawn_at != 0


async def require_news(proposed: ProposedAction, chain: ChainReader | None, node_url: str) -> None:
    """Raise InvalidRequest for an approval that is there already: it needs no signature.

    Without a chain the node is asked. Where an earlier signature is still out, which could end the
    approval, another one is wanted all the same. An end of an approval is always signed, since the
    reading may be older than the approval.
    """
    action = proposed.action
    if not isinstance(action, Approve) or not action.allowed or proposed.still_out:
        return
    if chain is not None:
        there, whose = await holds(chain, action, proposed.signer), "on the chain"
    else:
        there = await NodeWorks(node_url).approved(action.content_id, action.trainer)
        whose = f"as {node_url} says (--rpc URL looks on the chain)"
    if there:
        raise InvalidRequest(
            f"{action.trainer} is approved for work {action.content_id} already, {whose}: nothing "
            "was signed"
        )


def require_owner(content_id: ContentId, content: ContentState | None, signer: Address) -> None:
    """Raise LicenseError if there is no such work, or if another account owns it."""
    if content is None:
        raise LicenseError(f"there is no work {content_id} on this chain: check the id")
    if content.owner != signer:
        raise LicenseError(
            f"work {content_id} is owned by {content.owner}, and the key is that of {signer}: "
            "only the owner may do this; give its --key"
        )


def require_standing(content: ContentState, what: str) -> None:
    """Raise LicenseError if the work was withdrawn: then ``what`` is no longer possible."""
    if content.withdrawn_at:
        raise LicenseError(
            f"work {content.content_id} was withdrawn already, and that is for ever: there is no "
            f"{what} after it"
        )


def require_buyer(to: Address, owner: Address, deployment: Deployment) -> None:
    """Raise InvalidRequest for an account that must not get a work."""
    ours = {
        deployment.token: "the token",
        deployment.content_registry: "the ContentRegistry",
        deployment.adapter_registry: "the AdapterRegistry",
        deployment.settlement: "Settlement",
        deployment.node_directory: "the NodeDirectory",
    }
    if to == ZERO_ADDRESS:
        raise InvalidRequest(
            "the zero address is nobody's: a work cannot be burned. `viz content withdraw` ends "
            "its licensing instead"
        )
    if to == owner:
        raise InvalidRequest(f"{to} owns the work already: nothing to transfer")
    if to in ours:
        raise InvalidRequest(
            f"{to} is {ours[to]} itself, which could never give the work away again: name a "
            "person's or a contract wallet's address"
        )


async def transfer(
    content_id: ContentId, to: Address, writer: ChainWriter, chain: ChainReader
) -> Transaction:
    """Give a work to another owner, by the owner's own transaction.

    A contract that cannot hold such a token refuses it (ERC-721's safe transfer). Raises
    TransactionFailed, OutcomeUnknown, NodeNotTrusted if the chain shows another owner afterwards.
    """
    call = Call("ContentRegistry", "safeTransferFrom", (writer.address, to, content_id))
    sent = (await writer.submit(call)).require_mined("the transfer")
    content = await chain.content(content_id)
    if content is None or content.owner != to:
        raise NodeNotTrusted(
            f"the transfer of work {content_id} is in a block, and the chain's endpoint shows "
            "another owner: look again with `viz content show`"
        )
    return sent


def require_record_of(work: Path, content_id: ContentId) -> None:
    """Raise InvalidRequest if the record beside ``work`` says that it is another work.

    Also if the file is not the one that was registered: the new record would be of neither. Blocks.
    """
    record = load_record(work)
    if record is not None and record.content_id not in (None, content_id):
        raise InvalidRequest(
            f"{work} is work {record.content_id}, and the terms would be of work {content_id}: "
            f"give the folder of work {content_id}, or say {record.content_id}",
            param="work",
        )
    if record is None or record.content_id is None or not work.is_file():
        return
    if read_work(work, record.kind).merkle_root != record.merkle_root:
        raise InvalidRequest(
            f"{work} is not the file that was registered as work {content_id}: it was changed or "
            "replaced since. Put the registered file back; a new text is a work of its own, in a "
            "folder of its own (`viz content register`)",
            param="work",
        )


def renew_record(work: Path, content_id: ContentId, new: WorkDescription) -> Path | None:
    """Write new terms and license into the record beside a work; return its path, or None.

    The earlier record is kept as a copy, named by its terms: trainers with an earlier grant need
    its license text. Returns None if there is no record.
    """
    record = load_record(work)
    if record is None or record.content_id != content_id:
        return None
    path = record_path(work)
    earlier = record.terms.terms_hash(record.license_hash)
    copy = path.with_name(f"{work.name}.{earlier.hex()[:16]}.registration.json")
    if not copy.exists():
        write_record(copy, record)
    renewed = replace(record, terms=new.terms, license=new.license, license_hash=new.license_hash)
    save_record(work, renewed)
    return path
