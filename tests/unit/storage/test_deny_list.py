"""The deny list on the disk, and the store that keeps to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.fakes.blobs import MemoryBlobStore

from viz.domain.units import Cid
from viz.errors import BlobDenied, InvalidRequest, StorageUnavailable
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.unixfs import CHUNK_BYTES, root_of

BYTES = b"weights of a work that was withdrawn" * 20_000


async def test_a_denied_blob_never_comes_back(tmp_path: Path) -> None:
    """Protects an owner who withdrew: no store, fetch, pin or reading brings the blob back, also
    in a later process."""
    place, inner = tmp_path / "list" / "withdrawn.deny", MemoryBlobStore()
    store = DenyingBlobStore(inner, DenyList(place))
    kept, cid = await store.add(b"another"), await store.add(BYTES)
    assert await store.deny(cid, "work 3 was withdrawn")
    assert list(inner.blocks) == [kept] and inner.pins == {kept}
    for again in (store, DenyingBlobStore(inner, DenyList(place))):
        for refused in (
            again.add(BYTES),
            again.fetch(cid, tmp_path / "out", max_bytes=10**7),
            again.has(cid),
            again.pin(cid),
            again.block(cid),
        ):
            with pytest.raises(BlobDenied):
                await refused
        assert list(inner.blocks) == [kept], "what was refused is not left in the store either"
        assert not await again.erase(cid), "a second time there is nothing to do"
    assert not (tmp_path / "out").exists()


def test_the_list_is_in_ipfs_compact_format(tmp_path: Path) -> None:
    """Daemons of IPFS read the same file: a header, dashes, a rule a line; append only."""
    place, cid = tmp_path / "w.deny", root_of(b"x")
    before = os.umask(0)
    try:
        listed = DenyList(place)
        listed.add(cid, "work 3\nwas withdrawn")
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o077 == 0, "the list is its user's alone, whatever the umask"
    first = place.read_bytes()
    head, _, rules = first.decode().partition("---\n")
    assert head.splitlines()[:2] == ["version: 1", "name: viz-withdrawn"]
    assert [line for line in rules.splitlines() if line] == [
        "# work 3 was withdrawn",
        f"/ipfs/{cid}",
    ]
    listed.add(cid, "again")
    listed.add(root_of(b"y"), "")
    assert place.read_bytes().startswith(first) and place.read_text().count(cid) == 1
    with pytest.raises(InvalidRequest):
        listed.add(Cid("/etc/passwd"), "")


def test_lines_of_others_and_a_torn_line_harm_nothing(tmp_path: Path) -> None:
    """An operator or a kill may leave other lines; what can be read counts."""
    place, cid = tmp_path / "w.deny", root_of(b"x")
    place.write_text(f"version: 1\n---\n//abcd\n!/ipfs/x\n/ipfs/{cid} reason=3\n/ipfs/baf")
    listed = DenyList(place)
    listed.add(root_of(b"y"), "")
    again = DenyList(place)
    assert cid in again and root_of(b"y") in again and Cid("baf") not in again


def test_a_list_that_cannot_be_read_is_no_empty_list(tmp_path: Path) -> None:
    """What was denied is not served because a file cannot be read."""
    (tmp_path / "w.deny").write_bytes(b"\xff\xfe")
    with pytest.raises(StorageUnavailable):
        DenyList(tmp_path / "w.deny")
    assert len(BYTES) > CHUNK_BYTES, "the blob above has more than one block"
