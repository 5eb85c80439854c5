"""Sealed blobs are age files; what cannot be opened whole leaves no plain byte behind."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

import pyrage
import pytest

from viz.domain.units import Cid
from viz.errors import BlobTooLarge, InvalidRequest, SealBroken, StorageUnavailable
from viz.storage import sealing
from viz.storage.key_folder import KeyFolder
from viz.storage.sealing import (
    is_sealed,
    new_identity,
    recipient_of,
    seal,
    unseal,
    unseal_bytes,
    unwrap,
    wrap,
)
from viz.storage.unixfs import root_of

PLAIN = b"The keeper of Varn Point lights the lamp at dusk.\n" * 6_000
CID = root_of(b"sealed")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("plain", [b"", b"x", PLAIN, PLAIN[: 64 * 1024], PLAIN[: 128 * 1024]])
def test_what_is_sealed_opens_to_the_same_bytes(tmp_path: Path, plain: bytes) -> None:
    """Whole, with any age program, and with the blob's own key alone."""
    source, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    source.write_bytes(plain)
    key = new_identity()
    assert seal(source, sealed, key) == sealed.stat().st_size
    assert is_sealed(sealed) and not is_sealed(source)
    # The library's own reader, without our code.
    own = pyrage.x25519.Identity.from_str(key)
    assert pyrage.decrypt(sealed.read_bytes(), [own]) == plain
    assert unseal(sealed, opened, key, max_bytes=len(plain)) == len(plain)
    assert opened.read_bytes() == plain
    assert unseal_bytes(sealed, key, max_bytes=len(plain)) == plain
    assert mode(opened) == mode(sealed) == 0o600


def test_each_blob_has_a_key_of_its_own(tmp_path: Path) -> None:
    """Giving one key away gives one blob away; sealing twice gives two different blobs."""
    first, second = new_identity(), new_identity()
    assert recipient_of(first) != recipient_of(second)
    seal(PLAIN, tmp_path / "a", first)
    seal(PLAIN, tmp_path / "b", first)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-17],
        lambda data: data[: 64 * 1024 + 300],
        lambda data: data[: len(data) - len(data) % (64 * 1024 + 16)],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        lambda data: data[:120_000] + bytes([data[120_000] ^ 1]) + data[120_001:],
        lambda data: data + b"more",
        lambda data: b"not age at all\n" + data,
    ],
)
def test_a_damaged_blob_is_refused_and_leaves_nothing_plain(tmp_path: Path, damage: object) -> None:
    """Cut off at any place, changed, or lengthened: no plain byte stays on the disk."""
    key = new_identity()
    seal(PLAIN, tmp_path / "sealed", key)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(damage((tmp_path / "sealed").read_bytes()))  # type: ignore[operator]
    (tmp_path / "sealed").unlink()
    with pytest.raises(SealBroken, match="cut off, changed, or sealed for another key"):
        unseal(damaged, tmp_path / "opened", key, max_bytes=len(PLAIN))
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]
    assert b"keeper of Varn" not in damaged.read_bytes()


def test_a_blob_for_another_key_is_refused(tmp_path: Path) -> None:
    """A wrong key opens nothing."""
    seal(PLAIN, tmp_path / "sealed", new_identity())
    with pytest.raises(SealBroken):
        unseal(tmp_path / "sealed", tmp_path / "opened", new_identity(), max_bytes=len(PLAIN))
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_no_more_is_opened_than_was_stated(tmp_path: Path) -> None:
    """A blob that is larger than its listing says does not fill the disk."""
    key = new_identity()
    seal(PLAIN, tmp_path / "sealed", key)
    with pytest.raises(BlobTooLarge):
        unseal(tmp_path / "sealed", tmp_path / "opened", key, max_bytes=len(PLAIN) - 1)
    with pytest.raises(BlobTooLarge):
        unseal_bytes(tmp_path / "sealed", key, max_bytes=1_000)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_a_disk_that_refuses_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is the disk's fault, not the blob's."""
    key = new_identity()
    seal(PLAIN, tmp_path / "sealed", key)
    with pytest.raises(StorageUnavailable):
        seal(PLAIN, tmp_path / "none" / "sealed", key)
    with pytest.raises(StorageUnavailable):
        unseal(tmp_path / "sealed", tmp_path / "none" / "opened", key, max_bytes=len(PLAIN))
    with pytest.raises(StorageUnavailable, match="cannot be opened"):
        unseal_bytes(tmp_path / "absent", key, max_bytes=1)

    def full(path: Path) -> FullFile:
        path.touch()
        return FullFile()

    monkeypatch.setattr(sealing, "_private", full)
    with pytest.raises(StorageUnavailable, match="No space left"):
        seal(PLAIN, tmp_path / "again", key)
    with pytest.raises(StorageUnavailable, match="No space left"):
        unseal(tmp_path / "sealed", tmp_path / "opened", key, max_bytes=len(PLAIN))
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


class FullFile(io.BytesIO):
    """A file on a disk without room."""

    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_wrapped_key_opens_for_its_recipient_alone() -> None:
    """The key travels sealed to whoever asked for it."""
    key, trainer, other = new_identity(), new_identity(), new_identity()
    wrapped = wrap(key, recipient_of(trainer))
    assert key.encode() not in wrapped and unwrap(wrapped, trainer) == key
    for bad in (wrapped[:-1], b"", b"x" * 2_000, wrap_text("no key", trainer)):
        with pytest.raises(SealBroken):
            unwrap(bad, trainer)
    with pytest.raises(SealBroken):
        unwrap(wrapped, other)
    for recipient in ("", "age1xyz", "ssh-ed25519 AAAA", "x" * 10_000, key):
        with pytest.raises(InvalidRequest, match="not an age recipient"):
            wrap(key, recipient)


def wrap_text(text: str, identity: str) -> bytes:
    """Return a text wrapped as a key is."""
    to = pyrage.x25519.Recipient.from_str(recipient_of(identity))
    return bytes(pyrage.encrypt(text.encode(), [to]))


async def test_keys_are_kept_alone_and_destroyed(tmp_path: Path) -> None:
    """A key is readable by its owner only, and gone with its bytes once destroyed."""
    folder, key = KeyFolder(tmp_path / "keys"), new_identity()
    assert await folder.get(CID) is None and not await folder.destroy(CID)
    await folder.put(CID, key)
    (kept,) = (tmp_path / "keys").iterdir()
    assert mode(kept) == 0o600 and mode(tmp_path / "keys") == 0o700
    assert await folder.get(CID) == key
    hard_link = tmp_path / "link"
    os.link(kept, hard_link)
    assert await folder.destroy(CID)
    assert list((tmp_path / "keys").iterdir()) == [] and await folder.get(CID) is None
    assert key not in hard_link.read_text()
    with pytest.raises(InvalidRequest):
        await folder.get(Cid("../operator"))


async def test_a_key_file_without_a_key_is_said(tmp_path: Path) -> None:
    """An operator learns that a file is damaged; nobody is told that the key never was here."""
    folder = KeyFolder(tmp_path / "keys")
    await folder.put(CID, new_identity())
    (tmp_path / "keys" / f"{CID}.key").write_text("\n")
    with pytest.raises(StorageUnavailable, match="may still use its blob, restore"):
        await folder.get(CID)


@pytest.mark.parametrize("left", [b"#" * 90, b"", b"\n", b"\xff\x00", b"# key of"])
async def test_what_is_left_of_a_key_is_removed_like_a_key(tmp_path: Path, left: bytes) -> None:
    """Destruction asks whether there is a file, not whether it is a key: a kill between the
    overwriting and the removal ended all destruction at a node for ever."""
    folder = KeyFolder(tmp_path / "keys")
    await folder.put(CID, new_identity())
    assert await folder.has(CID)
    (tmp_path / "keys" / f"{CID}.key").write_bytes(left)
    assert await folder.has(CID) and await folder.destroy(CID)
    assert not await folder.has(CID) and list((tmp_path / "keys").iterdir()) == []


async def test_nobody_is_told_to_restore_a_key_that_had_to_go(tmp_path: Path) -> None:
    """An overwritten key is destroyed: for other uses it is not here. No backup is asked for."""
    folder = KeyFolder(tmp_path / "keys")
    await folder.put(CID, new_identity())
    path = tmp_path / "keys" / f"{CID}.key"
    path.write_bytes(b"#" * path.stat().st_size)
    assert await folder.get(CID) is None
