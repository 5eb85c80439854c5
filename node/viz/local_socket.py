"""Open Unix sockets in a private folder, for programs of the same user on this machine.

Owns how one is made, reached and checked, which port of this machine is free, and whose program
listens on one.
Invariants: a socket is its owner's alone (0600), also while it is made; its path may be longer than
the 108 bytes that the kernel takes, since it is reached through its open folder.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

OPERATOR_SOCKET: Final = "operator.sock"
"""Where in its data folder a node answers its operator."""
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_LISTENS: Final = "0A"
_IPV6_LOOPBACK: Final = "01000000".rjust(32, "0")


def open_folder(folder: Path) -> int:
    """Return a descriptor of a folder; the caller closes it. Raises OSError."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def socket_path(directory: int, name: str) -> str:
    """Return a short path to a socket in an open directory."""
    return f"/proc/self/fd/{directory}/{name}"


def bound(directory: int, name: str) -> socket.socket:
    """Return a socket that is bound in an open directory; one that is there is replaced.

    The caller holds a lock that says that nobody listens on the old one. Raises OSError where the
    file system has no sockets.
    """
    path = socket_path(directory, name)
    remove(directory, name)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(path)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def remove(directory: int, name: str) -> None:
    """Remove a socket from an open directory, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def connected(folder: Path, name: str, *, timeout_s: float | None) -> socket.socket:
    """Return a connection to a socket in ``folder``. Raises OSError where nobody listens."""
    directory = open_folder(folder)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout_s)
        made.connect(socket_path(directory, name))
    except OSError:
        made.close()
        raise
    finally:
        os.close(directory)
    return made


def is_listening(folder: Path, name: str, *, timeout_s: float = 1.0) -> bool:
    """Return whether a program listens on a socket in ``folder``."""
    try:
        connected(folder, name, timeout_s=timeout_s).close()
    except OSError:
        return False
    return True


def is_ours(connection: Any) -> bool:
    """Say whether the process at the other end of a Unix socket runs as this user."""
    return connection is not None and peer_uid(connection) == os.getuid()


def peer_uid(connection: Any) -> int:
    """Return the user of the process at the other end of a Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def may_read(uid: int, secret: Path) -> bool:
    """Say whether a user can read a private file anyway: its owner, this user, and root."""
    return uid in (0, os.getuid(), secret.stat().st_uid)


def free_port() -> int:
    """Return a port of the loopback address on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listeners(port: int) -> set[int]:
    """Return the users whose programs listen on a port of this machine's own addresses (proc(5)).

    Empty where nobody does, or where the system does not tell.
    """
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, _, _, _, uid, *_ = row.split()
                address, _, number = local.partition(":")
                if state == _LISTENS and int(number, 16) == port and _is_own(address):
                    found.add(int(uid))
    return found


def _is_own(address: str) -> bool:
    """Say whether the kernel's spelling of an address is any, 127.0.0.0/8 or ::1."""
    return not int(address, 16) or address.endswith("7F") or address == _IPV6_LOOPBACK
