"""Register a work for its creator: propose what is signed, hand it in, look at the chain.

Owns both ways onto the chain: signed and relayed through a node, which costs the creator nothing,
or as the creator's own transaction. The caller provides the key and asks the person.

Each signed value comes from one trusted source. Chain, registry and decimals come from the trusted
deployment, the deadline from the creator's own clock (or own chain), the terms from the creator's
file. Only the nonce may come from a node, and only if no chain is given: a signature with a wrong
nonce is refused and does no harm. Two signatures for one work would both be valid if their nonces
followed each other. So the record keeps the last one, and until its deadline only the same nonce is
signed again.

Invariant: the record with its salt and the signature's nonce is on disk before a signature is sent,
and a work that is known to be on the chain is never registered again.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

from viz.client.exchange import exchange
from viz.creator.signing import VALID_S, signing_values
from viz.creator.until_seen import seen_after, until_seen
from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.ports.chain import ChainReader, ContentState, Deployment
from viz.domain.ports.clock import Clock
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.typed_data import Register
from viz.domain.units import ContentId
from viz.errors import InvalidRequest, NodeNotTrusted, VizError
from viz.protocol.registration import CONTENTS_PATH, RegistrationAnswer, SignedRegistration
from viz.services.licensing.creator_relay import registered, registration_call
from viz.services.work_records import Registration, SignedOnce, save_record

_LOOKED_BACK: Final = 256
# A work that was handed in just now can only be among so many newest ones.
_AWAITED_BACK: Final = 16


async def propose(
    made: Registration,
    deployment: Deployment,
    node_url: str,
    clock: Clock,
    chain: ChainReader | None = None,
    *,
    development: bool = False,
) -> Register:
    """Return what the creator would sign for a node to relay; sign nothing yet.

    The time of a ``development`` chain may be moved, so the chain's time is used there and not this
    machine's clock. Raises NodeNotTrusted if the node names another chain, registry, token scale or
    creator, or a time far from this machine's clock; ConfigError if the time of the creator's own
    chain is far ahead of this clock; InvalidRequest if an earlier signature is still valid.
    """
    found = await signing_values(
        made.creator, deployment, node_url, clock, chain, development=development
    )
    earlier, now_s = made.signed, found.now_s
    if earlier is not None and earlier.deadline_s >= now_s and earlier.nonce != found.nonce:
        raise InvalidRequest(
            f"an earlier signature for this work, of nonce {earlier.nonce}, is good for another "
            f"{earlier.deadline_s - now_s} s, and now nonce {found.nonce} is asked for: with both, "
            "the work could be registered twice. Wait, or give --rpc URL to see whether it is on "
            "the chain already"
        )
    return Register(
        made.creator,
        made.commitment,
        made.license_hash,
        made.terms,
        found.nonce,
        found.deadline_s,
    )


def sign_registration(work: Register, deployment: Deployment, key: bytes) -> SignedRegistration:
    """Return the registration signed for the deployment's chain and registry.

    Raises InvalidRequest if ``key`` is not the creator's.
    """
    if public_address(key) != work.creator:
        raise InvalidRequest(f"the key is not that of the work's creator, {work.creator}")
    domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
    return SignedRegistration(work, sign(key, domain.digest(work)))


async def hand_in(
    path: Path,
    made: Registration,
    signed: SignedRegistration,
    node_url: str,
    chain: ChainReader | None = None,
) -> Registration:
    """Have a node submit a signed registration, and keep what became of it. Costs no gas.

    Without ``chain`` only the node says that the work is registered. With it, what the chain shows
    counts, also if the node's answer fails, and what ``look_up`` raises is raised. Else raises the
    class that the node's problem names, with its text and the contract's reason (``contractError``
    and its ``args``); NodeUnreachable or NodeRefused if no answer of the node came.
    """
    once = SignedOnce(signed.register.nonce, signed.register.deadline_s)
    made = replace(made, signed=once)
    await asyncio.to_thread(save_record, path, made)
    try:
        answer = await exchange(
            RegistrationAnswer.from_json,
            "POST",
            node_url,
            CONTENTS_PATH,
            signed.to_json(),
            other_way="--direct",
        )
    except VizError as error:
        if chain is None:
            raise
        return await seen_after(error, lambda: find_on_chain(path, made, chain, _AWAITED_BACK))
    done = replace(made, content_id=answer.content_id, transaction=answer.transaction)
    await asyncio.to_thread(save_record, path, done)
    return await look_up(path, done, chain) if chain else done


async def look_up(path: Path, made: Registration, chain: ChainReader) -> Registration:
    """Check the record against the chain, keep the result and return it.

    Raises NodeNotTrusted if the chain does not have, under the id that a node gave, this work with
    these terms. If it is another work or none, the record forgets the id, unless the newest works
    have it under another one. Raises InvalidRequest if the record has no id.
    """
    if made.content_id is None:
        raise InvalidRequest(f"{path} has no content id to look up: register it first")
    content_id = made.content_id
    found = await until_seen(lambda: chain.content(content_id))
    same = found is not None and _is_that_work(found, made)
    if found is None or not same:
        told = made.content_id
        forgotten = replace(made, content_id=None, transaction=None)
        await asyncio.to_thread(save_record, path, forgotten)
        if elsewhere := await find_on_chain(path, forgotten, chain):
            return elsewhere
        raise NodeNotTrusted(
            f"the node said that this is work {told}, and the chain has "
            f"{'another one' if found else 'none'} under that number: it is not registered there. "
            "Name another node, or use --direct"
        )
    seen = replace(made, on_chain=True)
    await asyncio.to_thread(save_record, path, seen)
    _require_terms(found, seen)
    return seen


async def find_on_chain(
    path: Path, made: Registration, chain: ChainReader, back: int = _LOOKED_BACK
) -> Registration | None:
    """Find a work that is on the chain although no answer said so; keep and return its record.

    Searches the ``back`` newest works only: it is for a signature that was handed in recently.
    Returns None if the work is not among them.
    """
    count = await chain.content_count()
    for number in range(count, max(0, count - back), -1):
        found = await chain.content(ContentId(number))
        if found is not None and _is_that_work(found, made):
            seen = replace(made, content_id=ContentId(number), on_chain=True)
            await asyncio.to_thread(save_record, path, seen)
            _require_terms(found, seen)
            return seen
    return None


def _is_that_work(found: ContentState, made: Registration) -> bool:
    return (found.creator, found.commitment) == (made.creator, made.commitment)


def _require_terms(found: ContentState, made: Registration) -> None:
    if found.terms_hash != made.terms.terms_hash(made.license_hash):
        raise NodeNotTrusted(
            f"the work is on the chain as work {made.content_id}, with other terms than these: an "
            f"earlier signature was used. Look at them with `viz content show {made.content_id}`"
        )


async def register_directly(
    path: Path,
    made: Registration,
    writer: ChainWriter,
    *,
    chain: ChainReader,
    deployment: Deployment,
    key: bytes,
) -> Registration:
    """Register by the creator's own transaction, and keep the record. Costs gas.

    A signature that a node was given and did not use stays valid until its deadline, and the
    contract's ``register`` does not void it. The node could register the work a second time, on the
    older terms. If there is such a signature, this call signs these terms with the same nonce, so
    that at most one of the two can be used. Raises TransactionFailed if the node was faster, and
    InvalidRequest if ``key`` is not the creator's, or the signature's nonce is still to come.
    """
    if writer.address != made.creator:
        raise InvalidRequest(f"the key is not that of the work's creator, {made.creator}")
    call = Call(
        "ContentRegistry", "register", (made.commitment, made.license_hash, made.terms.abi())
    )
    now_s = await chain.chain_time()
    if made.signed is not None and made.signed.deadline_s >= now_s:
        nonce = await chain.registration_nonce(made.creator)
        if nonce < made.signed.nonce:
            raise InvalidRequest(
                f"a signature of nonce {made.signed.nonce} for this work is out, and yours is at "
                f"{nonce}: wait until it has expired, in {made.signed.deadline_s - now_s} s"
            )
        if nonce == made.signed.nonce:
            work = Register(
                made.creator,
                made.commitment,
                made.license_hash,
                made.terms,
                nonce,
                now_s + VALID_S,
            )
            signed = sign_registration(work, deployment, key)
            call = registration_call(work, signed.signature)
            made = replace(made, signed=SignedOnce(work.nonce, work.deadline_s))
            await asyncio.to_thread(save_record, path, made)
    sent = registered(await writer.submit(call))
    done = replace(
        made, content_id=sent.content_id, transaction=sent.transaction.hash, on_chain=True
    )
    await asyncio.to_thread(save_record, path, done)
    return done
