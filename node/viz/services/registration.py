"""The creator's side of registering a work: draft it, sign it, hand it in, keep the record.

Owns the record beside the work (``<work>.registration.json``, mode 0600: it holds the salt, which
a trainer needs to check the work and which makes the commitment meaningless once destroyed) and
both ways onto the chain: signed and relayed through a node, which costs the creator nothing, or
as the creator's own transaction. Does not know where a key or password comes from.

Invariant: the record with its salt is on disk before anything is sent, and a second run with the
same file uses the same salt; a record that has a content id is never registered again.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.license import Terms
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.registration import (
    CONTENTS_PATH,
    REGISTRATION_CONTEXT_PATH,
    RegistrationAnswer,
    RegistrationContext,
    SignedRegistration,
    WorkDescription,
    parse_description,
)
from viz.domain.signed import Register
from viz.domain.units import Address, ContentId, Hash32, hex_of, parse_address, parse_hash
from viz.domain.wire import Reader, struct_from_json, struct_to_json
from viz.domain.work import Work, parse_work
from viz.errors import (
    ChainUnreachable,
    InvalidRequest,
    InvalidWork,
    NodeRefused,
    VizError,
    class_of,
)
from viz.services.licensing import registered

_VALID_S: Final = 3_600
_TIMEOUT_S: Final = 120
_DETAIL_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Registration:
    """A work's record: all that its creator, and a trainer it is shown to, must know."""

    title: str
    kind: str
    file: str
    creator: Address
    salt: Hash32
    merkle_root: Hash32
    commitment: Hash32
    terms: Terms
    license: Mapping[str, Any]
    license_hash: Hash32
    content_id: ContentId | None = None
    transaction: Hash32 | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "title": self.title,
            "kind": self.kind,
            "file": self.file,
            "creator": self.creator,
            "salt": hex_of(self.salt),
            "merkleRoot": hex_of(self.merkle_root),
            "commitment": hex_of(self.commitment),
            "terms": struct_to_json(self.terms),
            "termsHash": hex_of(self.terms.terms_hash(self.license_hash)),
            "license": dict(self.license),
            "licenseHash": hex_of(self.license_hash),
            "contentId": self.content_id,
            "transaction": hex_of(self.transaction) if self.transaction else None,
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the record; raise InvalidRequest where it is not one."""
        reader = Reader(value, "the registration's record")
        content_id = reader.optional("contentId", reader.integer)
        found = value if isinstance(value, Mapping) else {}
        return cls(
            title=reader.text("title"),
            kind=reader.text("kind"),
            file=reader.text("file"),
            creator=parse_address(reader.text("creator")),
            salt=parse_hash(reader.text("salt")),
            merkle_root=parse_hash(reader.text("merkleRoot")),
            commitment=parse_hash(reader.text("commitment")),
            terms=struct_from_json(Terms, reader.child("terms")),
            license=dict(found.get("license") or {}),
            license_hash=parse_hash(reader.text("licenseHash")),
            content_id=ContentId(content_id) if content_id is not None else None,
            transaction=reader.optional("transaction", reader.hash32),
        )


def record_path(work: Path) -> Path:
    """Return where a work's record is kept: beside it."""
    return work.with_name(work.name + ".registration.json")


def read_description(path: Path, *, token_decimals: int) -> WorkDescription:
    """Return what a terms file says; raise InvalidWork."""
    try:
        return parse_description(path.read_text(encoding="utf-8"), token_decimals=token_decimals)
    except OSError as error:
        raise InvalidWork(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidWork(f"{path} is not UTF-8: {error}") from error


def read_work(path: Path, kind: str) -> Work:
    """Return the parsed work of a file; raise InvalidWork."""
    try:
        return parse_work(kind, path.read_bytes())
    except OSError as error:
        raise InvalidWork(f"{path} cannot be read: {error.strerror}") from error


def draft(path: Path, description: WorkDescription, creator: Address) -> Registration:
    """Return the record of a work that is to be registered, and keep it on disk.

    An earlier record of the same file and creator lends its salt. Raises InvalidWork, and
    InvalidRequest when the work is registered already.
    """
    work = read_work(path, description.kind)
    earlier = load_record(path)
    salt = Hash32(secrets.token_bytes(32))
    if earlier is not None and earlier.creator == creator:
        if earlier.content_id is not None:
            raise InvalidRequest(
                f"{path} is registered already, as work {earlier.content_id}: to offer other terms "
                f"set them, or remove {record_path(path)} to register it anew"
            )
        salt = earlier.salt
    made = Registration(
        title=description.title,
        kind=description.kind,
        file=path.name,
        creator=creator,
        salt=salt,
        merkle_root=work.merkle_root,
        commitment=work.commitment(creator, salt),
        terms=description.terms,
        license=description.license,
        license_hash=description.license_hash,
    )
    save_record(path, made)
    return made


def sign_registration(
    made: Registration, context: RegistrationContext, key: bytes
) -> SignedRegistration:
    """Return the registration signed for the chain that ``context`` describes."""
    if context.creator != made.creator or public_address(key) != made.creator:
        raise InvalidRequest(f"the key is not that of the work's creator, {made.creator}")
    work = Register(
        made.creator,
        made.commitment,
        made.license_hash,
        made.terms,
        context.nonce,
        context.chain_time_s + _VALID_S,
    )
    domain = content_registry_domain(context.chain_id, context.content_registry)
    return SignedRegistration(work, sign(key, domain.digest(work)))


async def register_through_node(
    path: Path, made: Registration, key: bytes, node_url: str
) -> Registration:
    """Sign the registration, let a node submit it, and keep the record. Costs no gas.

    Raises the class that the node's problem names, with its words and the contract's reason (an
    ``error`` and its ``args``); ChainUnreachable when the node does not answer.
    """
    context = await registration_context(made.creator, node_url)
    signed = sign_registration(made, context, key)
    answer = RegistrationAnswer.from_json(
        await _exchange("POST", node_url, CONTENTS_PATH, signed.to_json())
    )
    done = replace(made, content_id=answer.content_id, transaction=answer.transaction)
    await asyncio.to_thread(save_record, path, done)
    return done


async def register_directly(path: Path, made: Registration, writer: ChainWriter) -> Registration:
    """Register by the creator's own transaction, and keep the record. Costs gas."""
    if writer.address != made.creator:
        raise InvalidRequest(f"the key is not that of the work's creator, {made.creator}")
    arguments = (made.commitment, made.license_hash, made.terms.abi())
    sent = registered(await writer.submit(Call("ContentRegistry", "register", arguments)))
    done = replace(made, content_id=sent.content_id, transaction=sent.transaction.hash)
    await asyncio.to_thread(save_record, path, done)
    return done


async def registration_context(creator: Address, node_url: str) -> RegistrationContext:
    """Return what a creator must sign against, as a node sees the chain."""
    path = REGISTRATION_CONTEXT_PATH.format(creator=creator)
    return RegistrationContext.from_json(await _exchange("GET", node_url, path, None))


def load_record(work: Path) -> Registration | None:
    """Return a work's record; None where there is none, InvalidRequest where it is damaged."""
    path = record_path(work)
    try:
        return Registration.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as a record: {error}") from error


def titles_of(training: Mapping[str, Any]) -> dict[ContentId, str]:
    """Return the titles of a training request's works, from the records beside their files.

    A work without a readable record has none: a title is for people, and nothing rests on it.
    """
    found: dict[ContentId, str] = {}
    for work in training.get("works", ()):
        try:
            record = load_record(Path(work["path"]))
        except (VizError, OSError, TypeError, KeyError):
            continue
        if record is not None and record.content_id is not None:
            found[record.content_id] = record.title
    return found


def save_record(work: Path, made: Registration) -> None:
    """Write a work's record, whole or not at all, readable by its owner only."""
    path = record_path(work)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(made.to_json(), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


async def _exchange(method: str, node_url: str, path: str, body: object) -> Any:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, node_url.rstrip("/") + path, json=body) as answer,
        ):
            content = await answer.json(content_type=None)
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ChainUnreachable(
            f"the node at {node_url} does not answer as a node ({str(error) or 'time ran out'}): "
            "check its address, or register with --direct"
        ) from error
    if status >= 400:
        raise _refusal(status, content)
    return content


def _refusal(status: int, body: object) -> VizError:
    """Return the error that a problem body (RFC 9457) names, with the contract's own reason."""
    problem: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    # At the top "error" is OpenAI's object; the contract's error name stands inside it.
    inner = problem.get("error")
    named = {
        key: inner[key] for key in ("error", "args") if isinstance(inner, Mapping) and key in inner
    }
    said = str(problem.get("detail") or f"HTTP {status}").splitlines()[0][:_DETAIL_CHARS]
    kind = class_of(problem.get("code")) or NodeRefused
    return kind(f"the node refused: {said}", status=status, **named)
