"""Seal blobs with age, and wrap their keys.

Owns every use of ``pyrage``. A sealed blob is a standard age file (age-encryption.org/v1) for one
X25519 recipient, whose identity was made for this blob alone. That identity is the blob's key. Who
has it can open the blob with any age program (``age -d -i KEYFILE``). Giving the key to somebody
changes neither the blob nor its CID, and destroying every copy of the key makes the blob unreadable
for ever.

Invariants: files are sealed and opened in pieces, so that memory does not grow with their size; an
opened file appears complete, readable by its owner only, or not at all (age authenticates the end
of a file too); at most the stated number of bytes is written.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from pathlib import Path
from typing import IO, Final, Protocol

import pyrage
from pyrage import x25519

from viz.errors import BlobTooLarge, InvalidRequest, SealBroken, StorageUnavailable
from viz.storage.disk import EarlyWriter

# The first line of every age file.
MAGIC: Final = b"age-encryption.org/v1\n"
MAX_WRAPPED_BYTES: Final = 1_024
MAX_RECIPIENT_CHARS: Final = 128
IDENTITY_PREFIX: Final = "AGE-SECRET-KEY-1"
# Files are read and written in pieces of this size; the library asks for 8 KiB at a time.
PIECE_BYTES: Final = 1024 * 1024


class PlainTarget(Protocol):
    """The destination of an opened blob."""

    def write(self, data: bytes, /) -> int | None: ...

    def flush(self) -> object: ...


def new_identity() -> str:
    """Return a fresh age identity, which is a secret key."""
    return str(x25519.Identity.generate())


def recipient_of(identity: str) -> str:
    """Return the age recipient (age1...) of an identity; raise InvalidRequest if it is invalid."""
    return str(_identity(identity).to_public())


def check_recipient(recipient: str) -> None:
    """Raise InvalidRequest if a text is not an X25519 age recipient."""
    _recipient(recipient)


def seal(source: Path | bytes, target: Path, identity: str) -> int:
    """Write the source, sealed for ``identity``, to ``target``; return its size. Blocks.

    An existing ``target`` is overwritten; after a failure it is removed. Raises StorageUnavailable.
    """
    recipient = _identity(identity).to_public()
    try:
        with _opened(source) as plain, _private(target) as sealed:
            pyrage.encrypt_io(plain, EarlyWriter(sealed), [recipient])
            sealed.flush()
            os.fsync(sealed.fileno())
            return sealed.tell()
    except (OSError, pyrage.EncryptError) as error:
        target.unlink(missing_ok=True)
        raise StorageUnavailable(f"{target} cannot be written: {error}") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def unseal(source: Path, target: Path, identity: str, *, max_bytes: int) -> int:
    """Write the plain bytes of a sealed file to ``target``, mode 0600; return their number. Blocks.

    Raises SealBroken if the file is truncated, changed or sealed for another key, BlobTooLarge,
    StorageUnavailable. After a failure no plain byte is on the disk.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with _private(partial) as plain:
            written = _open(source, EarlyWriter(plain), identity, max_bytes)
            plain.flush()
            os.fsync(plain.fileno())
        partial.replace(target)
        return written
    except OSError as error:
        raise StorageUnavailable(f"{target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def unseal_bytes(source: Path, identity: str, *, max_bytes: int) -> bytes:
    """Return the plain bytes of a sealed file; raise as ``unseal`` does. Blocks."""
    plain = io.BytesIO()
    _open(source, plain, identity, max_bytes)
    return plain.getvalue()


def is_sealed(path: Path) -> bool:
    """Return whether a file begins like an age file. Blocks. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def wrap(identity: str, recipient: str) -> bytes:
    """Return a blob's key, sealed for ``recipient``; raise InvalidRequest if that is invalid."""
    return bytes(pyrage.encrypt(identity.encode(), [_recipient(recipient)]))


def unwrap(wrapped: bytes, own: str) -> str:
    """Return the key that was wrapped for the identity ``own``; raise SealBroken."""
    if len(wrapped) > MAX_WRAPPED_BYTES:
        raise SealBroken(f"the wrapped key has {len(wrapped)} bytes, more than any key")
    try:
        key = bytes(pyrage.decrypt(wrapped, [_identity(own)])).decode("ascii")
        recipient_of(key)
    except (pyrage.DecryptError, OSError, UnicodeDecodeError, InvalidRequest) as error:
        raise SealBroken("the wrapped key is not for this node, or is not a key") from error
    return key


class _BoundedTarget:
    """Writes at most ``most`` bytes."""

    def __init__(self, target: PlainTarget, most: int) -> None:
        self._target, self._left = target, most
        self.written = 0
        self.fault: OSError | BlobTooLarge | None = None

    def write(self, data: bytes) -> int:
        if self.written + len(data) > self._left:
            self.fault = BlobTooLarge(f"the opened blob has more than {self._left} bytes")
            raise self.fault
        try:
            self._target.write(data)
        except OSError as error:
            self.fault = error
            raise
        self.written += len(data)
        return len(data)

    def flush(self) -> None:
        self._target.flush()


def _open(source: Path, target: PlainTarget, identity: str, max_bytes: int) -> int:
    bounded = _BoundedTarget(target, max_bytes)
    own = _identity(identity)
    try:
        with source.open("rb", buffering=PIECE_BYTES) as sealed:
            try:
                pyrage.decrypt_io(sealed, bounded, [own])
            except (pyrage.DecryptError, OSError, BlobTooLarge) as error:
                # The library wraps an error of the target in its own.
                if bounded.fault is not None:
                    raise bounded.fault from error
                raise SealBroken(
                    "the sealed blob cannot be opened: it is cut off, changed, or sealed for "
                    "another key"
                ) from error
    except OSError as error:
        raise StorageUnavailable(f"the sealed blob cannot be opened: {error.strerror}") from error
    return bounded.written


def _opened(source: Path | bytes) -> contextlib.AbstractContextManager[IO[bytes]]:
    return (
        io.BytesIO(source)
        if isinstance(source, bytes)
        else source.open("rb", buffering=PIECE_BYTES)
    )


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=PIECE_BYTES
    )


def _identity(text: str) -> x25519.Identity:
    try:
        return x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        raise InvalidRequest("a blob's key is an age identity (AGE-SECRET-KEY-1...)") from error


def _recipient(text: str) -> x25519.Recipient:
    try:
        if len(text) > MAX_RECIPIENT_CHARS:
            raise ValueError
        return x25519.Recipient.from_str(text)
    except (pyrage.RecipientError, ValueError) as error:
        raise InvalidRequest(
            f"{text[:MAX_RECIPIENT_CHARS]!r} is not an age recipient: give an X25519 one, age1..."
        ) from error
