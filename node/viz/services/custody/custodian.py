"""Hold sealed works and keys for their owners, and hand keys out to accounts the chain permits.

Owns the checks of a hand-over and the log of hand-outs; who may have a key is decided in
``viz.services.custody.key_permissions``. Invariants:

- Every request is signed, names this node and its origin, and answers a single-use challenge.
- A key is logged durably before it leaves, and is wrapped for the requester alone.
- A work is accepted only if its present owner signed the hand-over and its opened bytes match the
  commitment on the chain. The opened bytes stay in memory.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Final

import structlog

from viz.domain.eip712 import Domain, content_registry_domain
from viz.domain.ports.blobs import BlobStore
from viz.domain.ports.chain import ChainReader, ContentState
from viz.domain.ports.clock import Clock
from viz.domain.ports.custody import (
    CustodyLedger,
    CustodyRecord,
    HandedKey,
    KeyKind,
    KeyStore,
)
from viz.domain.typed_data import Custody, EndCustody
from viz.domain.units import Address, Cid, ContentId
from viz.errors import (
    AccessTokenInvalid,
    CustodyFull,
    InvalidRequest,
    InvalidSignature,
    InvalidWork,
    KeyUnknown,
    LicenseError,
    SealBroken,
    StorageError,
    StorageFull,
    StorageUnavailable,
    WrongDomain,
)
from viz.private import make_private_folder
from viz.protocol.custody import (
    HANDED_PAGE,
    HandOver,
    KeyChallenge,
    SignedKeyRequest,
    WrappedKey,
)
from viz.protocol.listing import MAX_SEALED_BYTES
from viz.services.account_signatures import is_signed
from viz.services.custody.challenges import Challenges
from viz.services.custody.key_permissions import KeyPermissions, work_id
from viz.services.custody.sealed_works import MAX_PLAIN_BYTES, opened_work
from viz.storage.base import root_of_source
from viz.storage.cid import to_binary
from viz.storage.sealing import unseal_bytes, unwrap, wrap

KEYS_AN_HOUR: Final = 20
_HOUR_S: Final = 3_600
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CustodyPolicy:
    """How many bytes of sealed works this node accepts: in total (0: none), and per owner."""

    most_bytes: int
    most_each_bytes: int


@dataclass(frozen=True, slots=True)
class CustodianIdentity:
    """The custodian's account, its HTTP origin and its age identity."""

    node: Address
    origin: str
    age_identity: str


class Custodian:
    """The custody of one node."""

    def __init__(
        self,
        chain: ChainReader,
        ledger: CustodyLedger,
        keys: KeyStore,
        blobs: BlobStore,
        clock: Clock,
        *,
        identity: CustodianIdentity,
        policy: CustodyPolicy,
        directory: Path,
    ) -> None:
        """Create it; ``directory`` holds sealed uploads until they are complete."""
        self._chain, self._ledger, self._keys, self._blobs = chain, ledger, keys, blobs
        self._clock, self._identity, self._policy = clock, identity, policy
        self._directory = directory
        self._challenges = Challenges(clock)
        self._permissions = KeyPermissions(chain, ledger)
        self._changing: set[ContentId] = set()

    @property
    def _domain(self) -> Domain:
        deployment = self._chain.deployment
        return content_registry_domain(deployment.chain_id, deployment.content_registry)

    def challenge(self, account: Address) -> KeyChallenge:
        """Return a challenge that ``account`` signs to hand a work over or to ask for a key."""
        challenge, expiry_s = self._challenges.issue(account)
        return KeyChallenge(self._identity.node, self._identity.origin, challenge, expiry_s)

    # taking works

    async def take(self, handed: HandOver, body: AsyncIterator[bytes]) -> CustodyRecord:
        """Take a sealed work and its key into custody, and return the durable record.

        Everything that can be checked without the body is checked before it is read. Raises
        CustodyFull, WrongDomain, AccessTokenInvalid, InvalidSignature, LicenseError,
        InvalidRequest, InvalidWork, CommitmentMismatch, StorageError, ChainUnreachable.
        """
        said = handed.custody
        content = await self._may_hand_over(said, handed.signature)
        key = _handed_key(handed, self._identity.age_identity)
        with self.changing(said.content_id):
            self._challenges.spend(said.challenge, said.expiry_s)
            partial = self._directory / f".{uuid.uuid4().hex}.part"
            try:
                await self._receive(said, body, partial)
                await asyncio.to_thread(_require_work, partial, key, content)
                return await self._keep(said, content.owner, key, partial)
            finally:
                await asyncio.to_thread(partial.unlink, missing_ok=True)

    @contextmanager
    def changing(self, content_id: ContentId) -> Iterator[None]:
        """Let no other request change the custody of a work meanwhile; raise InvalidRequest."""
        if content_id in self._changing:
            raise InvalidRequest(
                f"another request changes the custody of work {content_id}: wait, then try again"
            )
        self._changing.add(content_id)
        try:
            yield
        finally:
            self._changing.discard(content_id)

    async def _may_hand_over(self, said: Custody, signature: bytes) -> ContentState:
        """Return the work's state if its owner may hand it over; raise the first fault found."""
        policy = self._policy
        if not policy.most_bytes:
            raise CustodyFull("this node takes no works into custody: name another custodian")
        self._require_ours(said.custodian, said.origin)
        if not 0 < said.size_bytes <= MAX_SEALED_BYTES:
            raise InvalidRequest(f"sizeBytes must be 1 to {MAX_SEALED_BYTES}")
        to_binary(said.cid)
        content = await self._content(said.content_id)
        if content.withdrawn_at:
            raise LicenseError(f"work {said.content_id} was withdrawn: it is not accepted")
        await self._require_owner(said, signature, content)
        each, every = await self._ledger.held_bytes(content.owner)
        earlier = await self._ledger.custody(said.content_id)
        freed = earlier.size_bytes if earlier is not None else 0
        if each + said.size_bytes - freed > policy.most_each_bytes:
            raise CustodyFull(
                f"your works in custody here have {each} bytes, and the quota of one owner is "
                f"{policy.most_each_bytes}: use another custodian"
            )
        if every + said.size_bytes - freed > policy.most_bytes:
            raise CustodyFull(
                f"this node has {every} bytes in custody, and its quota is {policy.most_bytes}: "
                "use another custodian"
            )
        return content

    async def require_end(self, said: EndCustody, signature: bytes) -> ContentState:
        """Return the work whose owner ends its custody here; the challenge is spent then.

        Raises WrongDomain, LicenseError, AccessTokenInvalid, InvalidSignature, ChainUnreachable.
        """
        self._require_ours(said.custodian, said.origin)
        content = await self._content(said.content_id)
        await self._require_owner(said, signature, content)
        self._challenges.spend(said.challenge, said.expiry_s)
        return content

    async def _content(self, number: int) -> ContentState:
        content = await self._chain.content(work_id(number))
        if content is None:
            raise LicenseError(f"there is no work {number}: check the id")
        return content

    async def _require_owner(
        self, said: Custody | EndCustody, signature: bytes, content: ContentState
    ) -> None:
        """Raise an error if the work's present owner did not sign, or not for a fresh challenge."""
        try:
            self._challenges.require(said.challenge, content.owner, said.expiry_s)
        except AccessTokenInvalid as error:
            raise AccessTokenInvalid(
                f"work {said.content_id} belongs to {content.owner}, and {error.detail}"
            ) from error
        if not await is_signed(self._chain, self._domain.digest(said), signature, content.owner):
            what = "hand-over" if isinstance(said, Custody) else "end of the custody"
            raise InvalidSignature(
                f"the {what} of work {said.content_id} is not signed by its owner, {content.owner}"
            )

    async def _receive(self, said: Custody, body: AsyncIterator[bytes], partial: Path) -> None:
        """Write the body to ``partial``; raise InvalidRequest if it is not what was signed."""
        received = 0
        try:
            with await asyncio.to_thread(_opened, partial) as file:
                async for piece in body:
                    received += len(piece)
                    if received > said.size_bytes:
                        break
                    await asyncio.to_thread(file.write, piece)
            root = await asyncio.to_thread(root_of_source, partial)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    "the disk of this node is full: the work was not taken. Use another custodian"
                ) from error
            raise StorageUnavailable(f"{partial} cannot be written: {error.strerror}") from error
        if received != said.size_bytes:
            raise InvalidRequest(
                f"the body has {'more' if received > said.size_bytes else 'fewer'} bytes than the "
                f"{said.size_bytes} that were signed"
            )
        if root != said.cid:
            raise InvalidRequest(f"the body has CID {root}, but {said.cid} was signed")

    async def _keep(self, said: Custody, owner: Address, key: str, partial: Path) -> CustodyRecord:
        """Store blob, key and record; if the record cannot be stored, remove the other two."""
        cid = await self._blobs.add(partial)
        record = CustodyRecord(said.content_id, owner, cid, said.size_bytes, self._clock.now_s())
        try:
            await self._keys.put(cid, key)
            earlier = await self._ledger.put_custody(
                record,
                most_each_bytes=self._policy.most_each_bytes,
                most_bytes=self._policy.most_bytes,
            )
        except BaseException:
            await self._discard(cid)
            raise
        if earlier is not None and earlier.cid != cid:
            await self._discard(earlier.cid)
        _log.info("work in custody", content_id=said.content_id, owner=owner, cid=cid)
        return record

    async def _discard(self, cid: Cid) -> None:
        """Destroy a sealed blob's key and erase the blob, if no other work in custody has the same.

        Whoever sold a work can register a twin of it and hand the same blob over: that must not
        cost the buyer its custody. A blob that cannot be erased is only logged: nobody can open it
        without its key.
        """
        if await self._ledger.works_under(cid):
            return
        await self._keys.destroy(cid)
        try:
            await self._blobs.erase(cid)
        except StorageError as error:
            _log.warning("a sealed blob could not be erased", cid=cid, reason=str(error))

    # giving keys

    async def hand_out(self, asked: SignedKeyRequest) -> WrappedKey:
        """Log the hand-out, then return the key, if the chain permits the requester to have it.

        Raises WrongDomain, AccessTokenInvalid, InvalidSignature, InvalidRequest, NoLiveGrant,
        AdapterNotServable, UnknownAdapter, KeyUnknown, TooManyQuestions, StoreError,
        ChainUnreachable.
        """
        said = asked.request
        self._require_ours(said.custodian, said.origin)
        self._challenges.require(said.challenge, said.requester, said.expiry_s)
        digest = self._domain.digest(said)
        if not await is_signed(self._chain, digest, asked.signature, said.requester):
            raise InvalidSignature(f"the request for a key is not signed by {said.requester}")
        self._challenges.spend(said.challenge, said.expiry_s)
        recipient = await self._permissions.recipient_of(said)
        head = await self._chain.head()
        cid = await self._permissions.cid_for(said)
        key = await self._keys.get(cid)
        if key is None:
            raise KeyUnknown(
                f"this node does not hold the key of {cid}: ask another custodian of the listing"
            )
        now_s = self._clock.now_s()
        handed = HandedKey(
            KeyKind(said.kind),
            said.item_id,
            said.requester,
            recipient,
            cid,
            said.challenge,
            head.number,
            now_s,
        )
        await self._ledger.log_key(handed, most=KEYS_AN_HOUR, since=now_s - _HOUR_S)
        _log.info(
            "key handed out",
            kind=handed.kind.name.lower(),
            id=said.item_id,
            requester=said.requester,
            block=head.number,
        )
        return WrappedKey(cid, wrap(key, recipient), head.number)

    async def handed(self, kind: KeyKind, item_id: int, *, after: int) -> tuple[HandedKey, ...]:
        """Return the log of hand-outs of a work's or adapter's key, the oldest first."""
        found = await self._ledger.handed_keys(kind, item_id, after=after, limit=HANDED_PAGE)
        return tuple(found)

    async def key_of(self, cid: Cid) -> str | None:
        """Return this node's own copy of a blob's key; None if it has none."""
        return await self._keys.get(cid)

    async def keep_own(self, cid: Cid, key: str) -> None:
        """Keep the key of a blob that this node sealed itself."""
        await self._keys.put(cid, key)

    async def drop_own(self, cid: Cid) -> None:
        """Destroy the key of a blob that this node sealed itself and did not store."""
        await self._keys.destroy(cid)

    def _require_ours(self, custodian: Address, origin: str) -> None:
        mine = self._identity
        if (custodian, origin) != (mine.node, mine.origin):
            raise WrongDomain(
                f"the request is signed for {custodian} at {origin[:200]}, and this node is "
                f"{mine.node} at {mine.origin}: sign one for this node"
            )


def _handed_key(handed: HandOver, own: str) -> str:
    """Return the key in a hand-over; raise InvalidWork if it is not wrapped for ``own``."""
    try:
        return unwrap(handed.wrapped_key, own)
    except SealBroken as error:
        raise InvalidWork(
            f"the key that was handed over cannot be opened: {error.detail}. Wrap it for the "
            "ageKey of this node's /viz/v1/node"
        ) from error


def _require_work(sealed: Path, key: str, content: ContentState) -> None:
    """Raise an error if the sealed file does not hold the work of the chain. Blocks."""
    try:
        plain = unseal_bytes(sealed, key, max_bytes=MAX_PLAIN_BYTES)
    except SealBroken as error:
        raise InvalidWork(
            f"{error.detail}. Seal the work again, and hand it over with the key of that seal"
        ) from error
    opened_work(plain, content)


def _opened(path: Path) -> BufferedWriter:
    make_private_folder(path.parent)
    return path.open("xb")
