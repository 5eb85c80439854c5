"""Seal a registered work, hand it over to custodians, and publish its listing.

Owns the files beside the work: ``<work>.age`` is the sealed work, ``<work>.age.key`` its key (an
age identity, mode 0600), ``<work>.listing.json`` the latest
listing that a node accepted. The caller provides the
owner's key and asks the person. Chain and registry come from the trusted deployment, the
custodian's age key from the custodian that the person named.

Invariants: sealed work and key are on disk before anything is sent, and a second attempt uses them
again, so that all custodians hold the same blob; only the file that was registered is sealed, and
no sealed file or key is overwritten; nothing is signed for a custodian on another
chain, or with another origin than the one that was contacted.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viz.client.exchange import exchange
from viz.client.node_address import origin_of
from viz.creator.certificate_checks import require_possible
from viz.domain.eip712 import (
    content_registry_domain,
    public_address,
    settlement_domain,
    sign,
)
from viz.domain.ports.chain import Deployment
from viz.domain.questions import QUESTIONS_FILE
from viz.domain.strict_json import load_json
from viz.domain.trust import require_as_trusted
from viz.domain.typed_data import Custody, EndCustody
from viz.domain.units import Address, Cid, ContentId
from viz.domain.work import check_commitment, parse_work
from viz.errors import (
    CommitmentMismatch,
    InvalidRequest,
    InvalidWork,
    NodeNotTrusted,
    StorageUnavailable,
    VizError,
)
from viz.given_file import read_given
from viz.private import write_private
from viz.protocol.custody import (
    CUSTODY_HEADER,
    CUSTODY_PATH,
    END_CUSTODY_PATH,
    KEY_CHALLENGE_PATH,
    CustodyAnswer,
    HandOver,
    KeyChallenge,
    SignedEndCustody,
    account_to_json,
)
from viz.protocol.destruction import DestructionCertificate
from viz.protocol.listing import (
    LISTINGS_PATH,
    CustodianAddress,
    ListingAnswer,
    SealedBlob,
    SignedListing,
    WorkListing,
)
from viz.protocol.messages import NodeInfo
from viz.protocol.payment import NODE_PATH
from viz.services.custody.sealed_works import MAX_PLAIN_BYTES, plain_bytes
from viz.services.work_records import Registration
from viz.storage.base import root_of_source
from viz.storage.sealing import IDENTITY_PREFIX, new_identity, seal, unseal_bytes, wrap


@dataclass(frozen=True, slots=True)
class SealedWork:
    """A sealed work on the creator's disk, and its key."""

    path: Path
    key: str
    cid: Cid
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CustodianNode:
    """A custodian that the person named: its origin, address and age recipient."""

    url: str
    node: Address
    age_key: str


@dataclass(frozen=True, slots=True)
class ListingWords:
    """The owner's texts for the listing of a work."""

    credit: str
    language: str
    sample: str = ""


def sealed_path(work: Path) -> Path:
    """Return the path of a work's sealed bytes, beside it."""
    return work.with_name(work.name + ".age")


def seal_work(work: Path, record: Registration) -> SealedWork:
    """Seal a registered work, or return the earlier sealed file of the same bytes. Blocks.

    An earlier sealed file of other bytes and its key get another name: custodians may hold them.
    Raises as ``registered_bytes``, and StorageUnavailable.
    """
    raw = registered_bytes(work, record)
    asked = work.with_name(QUESTIONS_FILE)
    questions = read_given(asked, MAX_PLAIN_BYTES) if asked.is_file() else b""
    plain = plain_bytes(record, raw, questions)
    path = sealed_path(work)
    key, kept = _kept(path)
    if kept != plain:
        key = new_identity()
        partial = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            seal(plain, partial, key)
            _set_aside(path)
            _write_private(_key_path(path), f"# key of {path.name}\n{key}\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return SealedWork(path, key, root_of_source(path), path.stat().st_size)


def registered_bytes(work: Path, record: Registration) -> bytes:
    """Return the bytes of a work's file; raise CommitmentMismatch if another was registered.

    Blocks. Raises InvalidRequest or InvalidWork if the file cannot be read.
    """
    raw = read_given(work, MAX_PLAIN_BYTES)
    if not _is_registered(raw, record):
        sealed = sealed_path(work)
        _, kept = _kept(sealed)
        back = (
            f" (it is in {sealed}: `age -d -i {_key_path(sealed)} {sealed} | tail -n +2`)"
            if kept and _is_registered(kept.partition(b"\n")[2], record)
            else ""
        )
        raise CommitmentMismatch(
            f"{work} is not the file that was registered as work {record.content_id}: nothing was "
            f"sealed or sent. Put the registered file back{back}, or register the new text as a "
            "work of its own, in another folder"
        )
    return raw


def _is_registered(raw: bytes, record: Registration) -> bool:
    try:
        work = parse_work(record.kind, raw)
        check_commitment(work, record.creator, record.salt, record.commitment)
    except (CommitmentMismatch, InvalidWork):
        return False
    return True


async def custodian_at(url: str, deployment: Deployment, other_way: str = "") -> CustodianNode:
    """Ask a node for its identity; raise NodeNotTrusted for another chain or no age key.

    ``other_way`` is told if no node answers, as by ``exchange``, whose errors it raises.
    """
    origin = origin_of(url)
    info = await exchange(NodeInfo.from_json, "GET", origin, NODE_PATH, other_way=other_way)
    require_as_trusted(deployment, chain_id=info.chain_id, content_registry=info.content_registry)
    if not info.age_key:
        raise NodeNotTrusted(
            f"the node at {origin} has no age key, so it cannot be a custodian: name another one"
        )
    asked = await _challenge(origin, info.node)
    _require_same(asked, info.node, origin)
    return CustodianNode(origin, info.node, info.age_key)


async def hand_over(
    sealed: SealedWork,
    content_id: ContentId,
    custodian: CustodianNode,
    deployment: Deployment,
    key: bytes,
) -> None:
    """Upload a sealed work to a custodian, with its key wrapped only for that node.

    Raises NodeNotTrusted, InvalidRequest, StorageUnavailable if the sealed file cannot be read,
    NodeUnreachable or NodeRefused if no answer of the node came, and the class that the node's
    problem names.
    """
    owner = public_address(key)
    asked = await _challenge(custodian.url, owner)
    _require_same(asked, custodian.node, custodian.url)
    said = Custody(
        content_id,
        custodian.node,
        custodian.url,
        sealed.cid,
        sealed.size_bytes,
        asked.challenge,
        asked.expiry_s,
    )
    domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
    wrapped = wrap(sealed.key, custodian.age_key)
    header = HandOver(said, sign(key, domain.digest(said)), wrapped).to_header()
    try:
        with await asyncio.to_thread(sealed.path.open, "rb") as body:
            kept = await exchange(
                CustodyAnswer.from_json,
                "POST",
                custodian.url,
                CUSTODY_PATH,
                body,
                headers={CUSTODY_HEADER: header},
            )
    except OSError as error:
        raise StorageUnavailable(f"{sealed.path} cannot be read: {error.strerror}") from error
    if (kept.content_id, kept.cid) != (content_id, sealed.cid):
        raise NodeNotTrusted(f"the node at {custodian.url} says that it keeps {kept.cid} instead")


async def end_custody(
    content_id: ContentId, custodian: CustodianNode, deployment: Deployment, key: bytes
) -> DestructionCertificate:
    """Have a custodian destroy what it holds of a work; return its certificate, verified.

    Raises NodeNotTrusted for a certificate that another node signed or that cannot be true,
    InvalidSignature, NodeUnreachable or NodeRefused if no answer of the node came, and the class
    that the node's problem names.
    """
    owner = public_address(key)
    asked = await _challenge(custodian.url, owner)
    _require_same(asked, custodian.node, custodian.url)
    said = EndCustody(content_id, custodian.node, custodian.url, asked.challenge, asked.expiry_s)
    domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
    signed = SignedEndCustody(said, sign(key, domain.digest(said)))
    made = await exchange(
        DestructionCertificate.from_json, "POST", custodian.url, END_CUSTODY_PATH, signed.to_json()
    )
    made.verify(settlement_domain(deployment.chain_id, deployment.settlement))
    node, work = made.certificate.node, made.certificate.content_id
    if (node, work) != (custodian.node, content_id):
        raise NodeNotTrusted(
            f"the certificate from {custodian.url} is of work {work} at {node}: it says nothing of "
            f"work {content_id} at {custodian.node}"
        )
    require_possible(made)
    return made


def listing_of(
    record: Registration,
    sealed: SealedWork,
    words: ListingWords,
    custodians: Sequence[CustodianNode],
    deployment: Deployment,
    *,
    size_bytes: int,
    now_s: int,
    iscc: str | None = None,
) -> dict[str, Any]:
    """Return the listing of a registered work, as JSON values; ``iscc`` is its content code.

    Raises InvalidRequest if the work is not registered yet.
    """
    if record.content_id is None:
        raise InvalidRequest("the work is not registered yet: register it before it is listed")
    return WorkListing(
        deployment.chain_id,
        deployment.content_registry,
        record.content_id,
        title=record.title,
        credit=words.credit,
        language=words.language,
        kind="dialogue" if record.kind == "dialogue" else "text",
        size_bytes=size_bytes,
        license=record.license,
        sealed=SealedBlob(sealed.cid, sealed.size_bytes),
        custodians=tuple(CustodianAddress(each.node, each.url) for each in custodians),
        issued_at=now_s,
        sample=words.sample,
        iscc=iscc,
    ).to_json()


def sign_listing(document: dict[str, Any], deployment: Deployment, key: bytes) -> SignedListing:
    """Return the listing signed by the work's owner; raise InvalidListing if it is too long."""
    domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
    unsigned = SignedListing.of(document, b"")
    return SignedListing.of(document, sign(key, domain.digest(unsigned.struct)))


async def publish_listing(work: Path, signed: SignedListing, urls: Sequence[str]) -> None:
    """Send a signed listing to nodes, and store it beside the work once one accepts it.

    Raises the first refusal.
    """
    text = json.dumps(signed.to_json(), indent=2) + "\n"
    for url in urls:
        await exchange(ListingAnswer.from_json, "POST", url, LISTINGS_PATH, signed.to_json())
        await asyncio.to_thread(_write_private, _listing_path(work), text)


def listed_custodians(
    work: Path, deployment: Deployment, content_id: ContentId
) -> tuple[CustodianAddress, ...]:
    """Return the custodians in the listing beside the work. Blocks.

    Returns none if it cannot be read, or is of another chain, registry or work.
    """
    try:
        raw = _listing_path(work).read_bytes()
        found = SignedListing.from_json(load_json(raw)).listing
    except (OSError, ValueError, VizError):
        return ()
    wanted = (deployment.chain_id, deployment.content_registry, content_id)
    is_ours = (found.chain_id, found.content_registry, found.content_id) == wanted
    return found.custodians if is_ours else ()


def _listing_path(work: Path) -> Path:
    return work.with_name(work.name + ".listing.json")


async def _challenge(url: str, account: Address) -> KeyChallenge:
    path, body = KEY_CHALLENGE_PATH, account_to_json(account)
    return await exchange(KeyChallenge.from_json, "POST", url, path, body)


def _require_same(asked: KeyChallenge, node: Address, url: str) -> None:
    """Raise NodeNotTrusted if a challenge names another node or another origin."""
    if (asked.custodian, asked.origin) != (node, url):
        raise NodeNotTrusted(
            f"the node at {url} says that it is {asked.custodian} at {asked.origin}, but {node} at "
            f"{url} is expected: name it by its own URL (its api.public_url); nothing was signed"
        )


def _key_path(sealed: Path) -> Path:
    return sealed.with_name(sealed.name + ".key")


def _kept(path: Path) -> tuple[str, bytes]:
    """Return the key beside a sealed file, and what the file opens to; empty if it does not."""
    try:
        lines = _key_path(path).read_text(encoding="ascii").splitlines()
        key = next(line for line in lines if line.startswith(IDENTITY_PREFIX))
        return key, unseal_bytes(path, key, max_bytes=MAX_PLAIN_BYTES)
    except (OSError, ValueError, StopIteration, VizError):
        return "", b""  # whatever is wrong with it, the work is sealed again


def _set_aside(path: Path) -> None:
    """Give a sealed file and its key, where there are such, the first number that is free."""
    number = 1
    while any(map(os.path.lexists, _numbered(path, number))):
        number += 1
    try:
        for old, new in zip((path, _key_path(path)), _numbered(path, number), strict=True):
            if os.path.lexists(old):
                old.rename(new)
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be kept: {error.strerror}") from error


def _numbered(path: Path, number: int) -> tuple[Path, Path]:
    aside = path.with_name(f"{path.name}.{number}")
    return aside, _key_path(aside)


def _write_private(path: Path, text: str) -> None:
    try:
        write_private(path, text.encode())
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error
