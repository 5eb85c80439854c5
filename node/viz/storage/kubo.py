"""Store blobs in a Kubo daemon through its RPC; the only module that uses ipfshttpclient.

Owns the translation between our Protocol and Kubo's API, and the time limits. The base class
hashes every block that the daemon returns. ipfshttpclient blocks, so its calls run in a few
threads of this store, with one client each. Invariant: every call ends within a bound that follows
from ``timeout_s``, by socket timeouts and by the daemon's own ``timeout`` option.
"""

from __future__ import annotations

import asyncio
import io
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import ipfshttpclient
from ipfshttpclient import exceptions as ipfs

from viz.domain.display import counted
from viz.domain.units import Cid
from viz.errors import (
    BlobCorrupt,
    BlobNotFound,
    BlobTooLarge,
    ConfigError,
    InvalidRequest,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from viz.storage.base import VerifiedBlobStore
from viz.storage.cid import RAW, codec_of, to_binary, verify
from viz.storage.store_check import Freed
from viz.storage.unixfs import CHUNK_BYTES, MAX_BLOCK_BYTES, MAX_LINKS, IpfsBlock
from viz.storage.walk import add_pinned

# ipfshttpclient gives urllib3 an argument without effect: no operator can do anything about that.
warnings.filterwarnings("ignore", "The 'strict' parameter is no longer", FutureWarning)

T = TypeVar("T")
_THREADS: Final = 4
_DELETED_AT_ONCE: Final = 128
# What reads every block of the daemon takes minutes on a large disk.
_WHOLE_STORE_S: Final = 600
_ABSENT: Final = ("not found", "could not find", "deadline exceeded")
_FULL: Final = ("no space left on device", "quota exceeded", "storage limit")
# Every option that affects a CID is set, so that the daemon's own configuration cannot change it.
_LAYOUT: Final = {
    "max-file-links": MAX_LINKS,
    "inline": False,
    "hash": "sha2-256",
    "progress": False,
}


class KuboBlobStore(VerifiedBlobStore):
    """A ``BlobStore`` behind a Kubo daemon's RPC address."""

    def __init__(self, api: str, *, timeout_s: float = 30) -> None:
        """Prepare to talk to ``api``, a multiaddress such as /ip4/127.0.0.1/tcp/5001.

        Sends nothing yet. Raises ConfigError if the address cannot be parsed.
        """
        self._api = api
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kubo")
        try:
            ipfshttpclient.Client(api)
        except (ipfs.Error, ValueError) as error:
            raise ConfigError(
                f"{api!r} is not a Kubo RPC address: write it like /ip4/127.0.0.1/tcp/5001"
            ) from error

    async def version(self) -> str:
        """Return the daemon's version; raise StorageUnavailable if it does not answer."""
        answer = await self._call(lambda client: client.version())
        return str(answer["Version"])

    async def has(self, cid: Cid) -> bool:
        """Return whether the daemon itself has the blob's root, without asking its peers."""
        to_binary(cid)
        try:
            await self._call(lambda client: client.block.stat(cid, offline=True))
        except BlobNotFound:
            return False
        return True

    async def pin(self, cid: Cid) -> None:
        """Pin the blob; raise BlobNotFound if the daemon does not have all of it."""
        to_binary(cid)
        await self._call(lambda client: client.pin.add(cid, offline=True))

    async def unpin(self, cid: Cid) -> None:
        """Allow the daemon to delete the blob; no error if it was not pinned."""
        to_binary(cid)

        def remove(client: Any) -> None:
            try:
                client.pin.rm(cid)
            except ipfs.ErrorResponse as error:
                if "not pinned" not in str(error):
                    raise

        await self._call(remove)

    async def pinned(self) -> frozenset[Cid]:
        """Return the daemon's pins that have the form of our CIDs, also those of other programs."""
        wait_s = self._whole_store_s
        answer = await self._of_whole_store(
            lambda client: client.pin.ls(type="recursive", timeout=wait_s)
        )
        return frozenset(Cid(str(name)) for name in answer["Keys"] if _is_ours(str(name)))

    async def put_block(self, block: IpfsBlock) -> None:
        """Store one block that is not there.

        The daemon skips a block that it has, also a damaged one, and deletes none of a pinned blob:
        its file must go while the daemon is stopped. Raises BlobCorrupt if the daemon names the
        block otherwise, StorageFull, StorageUnavailable.
        """
        codec = "raw" if codec_of(block.cid) == RAW else "dag-pb"
        options = {"cid-codec": codec, "mhtype": "sha2-256", "allow-big-block": True}

        def put(client: Any) -> str:
            return str(client.block.put(io.BytesIO(block.data), opts=options)["Key"])

        stored = await self._call(put)
        if stored != block.cid:
            raise BlobCorrupt(f"Kubo stored block {block.cid} as {stored}")

    async def gc(self) -> Freed:
        """Have the daemon delete what no pin needs, of any program: `ipfs repo gc`.

        Raises BlobCorrupt, and deletes nothing, if a pinned blob is damaged so that its blocks are
        not known; StorageUnavailable.
        """
        await self._needed()

        def collect(client: Any) -> int:
            return len(client.repo.gc(quiet=True, timeout=self._whole_store_s))

        before = await self._size()
        blocks = await self._of_whole_store(collect)
        after = await self._size()
        return Freed(blocks, max(0, before - after), after)

    async def _size(self) -> int:
        wait_s = self._whole_store_s
        answer = await self._of_whole_store(lambda client: client.repo.stat(timeout=wait_s))
        return int(answer["RepoSize"])

    @property
    def _whole_store_s(self) -> float:
        """How long the daemon may say nothing while it reads all that it has."""
        return self._timeout_s * 1.5 + _WHOLE_STORE_S

    async def _delete(self, cids: Sequence[Cid]) -> None:
        """Delete the blocks in the daemon, except those that a pinned blob needs.

        The daemon looks for pins too, but as it comes it believes a damaged block, and deletes what
        the blob really needs. ipfshttpclient has no function for deleting, so the request is sent
        directly. The daemon answers each block with what kept it, if something did.
        """
        needed = await self._needed()
        going = [cid for cid in cids if cid not in needed]

        def remove(client: Any) -> list[str]:
            faults: list[str] = []
            for start in range(0, len(going), _DELETED_AT_ONCE):
                names = tuple(map(str, going[start : start + _DELETED_AT_ONCE]))
                answers = client._client.request(
                    "/block/rm", names, decoder="json", opts={"force": True}
                )
                faults += [each["Error"] for each in answers if each.get("Error")]
            return [fault for fault in faults if not fault.startswith("pinned")]

        if faults := await self._call(remove, extra_s=len(going) / 100):
            raise StorageError(
                f"Kubo at {self._api} kept {counted(len(faults), 'block')}: {faults[0]}"
            )

    async def _needed(self) -> set[Cid]:
        """Return the blocks of all pinned blobs; raise BlobCorrupt if they are not all known."""
        roots = await self.pinned()

        def look(client: Any) -> set[Cid]:
            needed: set[Cid] = set()
            for root in roots:
                add_pinned(root, lambda cid: _own_block(client, cid), needed)
            return needed

        return await self._call(look, extra_s=_WHOLE_STORE_S)

    async def close(self) -> None:
        """End the threads; running calls end at their own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read_block(self, cid: Cid) -> bytes:
        def read(client: Any) -> bytes:
            # The daemon searches its peers for this long, and then reports that it has no block.
            wait = {"timeout": f"{self._timeout_s:g}s"}
            with client.block.get(cid, stream=True, opts=wait) as pieces:
                return _bounded(cid, pieces)

        return await self._call(read)

    async def _store(self, source: Path | bytes) -> Cid:
        def add(client: Any) -> Cid:
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
                answer = client.add(
                    file,
                    pin=True,
                    cid_version=1,
                    raw_leaves=True,
                    chunker=f"size-{CHUNK_BYTES}",
                    opts=dict(_LAYOUT),
                )
            return Cid(str(answer["Hash"]))

        size = await asyncio.to_thread(_size_of, source)
        # Allow one second a megabyte, which is slower than any disk: if it takes longer, the
        # daemon hangs.
        return await self._call(add, extra_s=size / 1_000_000)

    async def _of_whole_store(self, call: Callable[[Any], T]) -> T:
        """Return what a call gives that may take long, if the daemon answers in the usual time."""
        await self.version()
        return await self._call(call, extra_s=_WHOLE_STORE_S)

    async def _call(self, call: Callable[[Any], T], *, extra_s: float = 0) -> T:
        bound = self._timeout_s * 2 + extra_s
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(bound):
                return await loop.run_in_executor(self._threads, self._translated, call)
        except TimeoutError as error:
            raise self._no_answer() from error

    def _translated(self, call: Callable[[Any], T]) -> T:
        client = getattr(self._local, "client", None)
        if client is None:
            timeout = (min(5.0, self._timeout_s), self._timeout_s * 1.5)
            client = self._local.client = ipfshttpclient.Client(
                self._api, session=True, timeout=timeout
            )
        try:
            return call(client)
        except ipfs.ErrorResponse as error:
            text = str(error)
            if any(sign in text for sign in _FULL):
                raise StorageFull(
                    f"the disk of Kubo at {self._api} is full, and nothing was added: free some "
                    f"(`viz storage gc`), or give it more. It says: {text}"
                ) from error
            if _says_absent(error):
                raise BlobNotFound(f"Kubo at {self._api} does not have it: {text}") from error
            raise StorageError(f"Kubo at {self._api} refused: {text}") from error
        except ipfs.TimeoutError as error:
            raise self._no_answer() from error
        except (ipfs.ConnectionError, ipfs.ProtocolError) as error:
            raise StorageUnavailable(
                f"no Kubo daemon answers at {self._api}: start `ipfs daemon` with the IPFS_PATH "
                "that has this node's blobs, or correct storage.kubo_api"
            ) from error
        except (ipfs.Error, OSError) as error:
            raise StorageUnavailable(f"Kubo at {self._api}: {error}") from error

    def _no_answer(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"Kubo at {self._api} did not answer in time: check whether it is overloaded"
        )


def _own_block(client: Any, cid: Cid) -> bytes:
    """Return a verified block of the daemon, without asking its peers."""
    try:
        with client.block.get(cid, stream=True, opts={"offline": True}) as pieces:
            data = _bounded(cid, pieces)
    except ipfs.ErrorResponse as error:
        if _says_absent(error):
            raise BlobNotFound(f"Kubo does not have {cid}") from error
        raise
    verify(cid, data)
    return data


def _says_absent(error: ipfs.ErrorResponse) -> bool:
    return any(sign in str(error) for sign in _ABSENT)


def _bounded(cid: Cid, pieces: Iterable[bytes]) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > MAX_BLOCK_BYTES:
            raise BlobTooLarge(f"{cid} is larger than a block may be ({MAX_BLOCK_BYTES} bytes)")
    return bytes(data)


def _size_of(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _is_ours(name: str) -> bool:
    try:
        to_binary(name)
    except InvalidRequest:
        return False
    return True
