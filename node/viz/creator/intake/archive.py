"""Open an untrusted zip archive, with limits that are checked before anything is unpacked.

Owns the limits on members, unpacked sizes and compression ratio. ``zipfile`` never yields more
bytes of a member than the archive's directory says, so checking the directory is enough; the
process (``worker``) limits memory and time as well.
"""

from __future__ import annotations

import zipfile
from typing import BinaryIO, Final

from viz.errors import InvalidWork

MAX_MEMBERS: Final = 10_000
MAX_UNPACKED_BYTES: Final = 256 * 1024 * 1024
MAX_MEMBER_BYTES: Final = 32 * 1024 * 1024
# Text compresses about 4:1, XML 20:1; deflate's own maximum is 1,032:1.
_MAX_RATIO: Final = 200
_RATIO_FROM_BYTES: Final = 1024 * 1024
_ENCRYPTED: Final = 0x1


class Archive:
    """The members of a checked archive, by name.

    zipfile raises NotImplementedError for a form or a compression that it does not know.
    """

    def __init__(self, file: BinaryIO, what: str) -> None:
        """Raise InvalidWork for an archive that is damaged, encrypted or too large."""
        try:
            self._zip = zipfile.ZipFile(file)
            members = self._zip.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise InvalidWork(
                f"the {what} is damaged ({error}): save it again from the program that made it"
            ) from error
        if len(members) > MAX_MEMBERS:
            raise InvalidWork(
                f"the {what} holds {len(members)} files, at most {MAX_MEMBERS} are read"
            )
        total = sum(member.file_size for member in members)
        if total > MAX_UNPACKED_BYTES:
            raise InvalidWork(
                f"the {what} would unpack to {total} bytes, at most {MAX_UNPACKED_BYTES} are read: "
                "it may be an archive bomb. If it is not, remove films, sound and large pictures"
            )
        for member in members:
            packed = max(1, member.compress_size)
            if member.file_size > _RATIO_FROM_BYTES and member.file_size > packed * _MAX_RATIO:
                raise InvalidWork(
                    f"the {what} packs {member.file_size} bytes into {member.compress_size}: no "
                    f"text "
                    "packs so well, and it is taken for an archive bomb"
                )
            if member.flag_bits & _ENCRYPTED:
                raise InvalidWork(
                    f"the {what} is encrypted: open it with its password and save a copy without "
                    f"one"
                )
        self._members = {member.filename: member for member in members}

    def names(self) -> list[str]:
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """Return a member's bytes. Raises InvalidWork if it is missing, too large or damaged."""
        member = self._members.get(name)
        if member is None:
            raise InvalidWork(f"the file names {name!r}, but does not have it: it is damaged")
        if member.file_size > MAX_MEMBER_BYTES:
            raise InvalidWork(
                f"{name} in the file has {member.file_size} bytes, at most {MAX_MEMBER_BYTES} are "
                f"read"
            )
        try:
            return self._zip.read(member)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
            raise InvalidWork(f"{name} in the file is damaged: {error}") from error
        except Exception as error:  # zlib.error, lzma.LZMAError: each codec has its own
            raise InvalidWork(f"{name} in the file cannot be unpacked: {error}") from error
