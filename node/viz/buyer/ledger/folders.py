"""Name and find the folders of a buyer's channels, and say whose session key is in one.

Owns the names of the folders and of the files that others than the ledger read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, parse_address
from viz.errors import ConfigError, InvalidKeyFile, InvalidRequest
from viz.process_lock import ProcessLock

KEY_FILE: Final = "session.key.json"
DEPOSIT_FILE: Final = "deposit.json"
# Deposits that are confirmed by the node's word alone: deposit-VALID_BEFORE-SALT.json.
SAID_DEPOSITS: Final = "deposit-*-*.json"
# What to do about a channel whose session key is gone.
NO_KEY: Final = (
    "restore it from a copy. If there is none, `viz channel leave` and then `viz channel renew`, "
    "each with the channel's --node-address and --signer, bring the deposit back and begin with a "
    "new session key"
)
_CHANNELS: Final = "channels"


def directory_of(home: Path, deployment: Deployment, node: Address) -> Path:
    """Return the folder of the channel to a node, which may not exist yet."""
    return home / _CHANNELS / f"{_prefix(deployment)}{node[2:].lower()}"


def directories_in(home: Path, deployment: Deployment) -> list[Path]:
    """Return the folder of every channel of this deployment in ``home``."""
    return sorted((home / _CHANNELS).glob(f"{_prefix(deployment)}*"))


def node_of(directory: Path) -> Address:
    """Return the node that a channel's folder is named after."""
    return parse_address("0x" + directory.name.rpartition("-")[2])


def signer_in(directory: Path) -> Address | None:
    """Return the address in a channel's key file; None if there is none to read."""
    try:
        kept = json.loads((directory / KEY_FILE).read_text(encoding="utf-8"))
        return parse_address("0x" + str(kept["address"]).removeprefix("0x"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InvalidRequest):
        return None


def channels_in(
    home: Path, deployment: Deployment, node: Address | None = None
) -> dict[Address, Address]:
    """Return the signer of every channel in ``home``, or of the one to ``node``, by its node.

    Decrypts no key. Raises InvalidKeyFile if a session key's file names no address.
    """
    found: dict[Address, Address] = {}
    wanted = (
        directories_in(home, deployment) if node is None else [directory_of(home, deployment, node)]
    )
    for directory in wanted:
        key_file, signer = directory / KEY_FILE, signer_in(directory)
        if signer is not None:
            found[node_of(directory)] = signer
        elif key_file.exists():
            raise InvalidKeyFile(f"{key_file} is not a key file: {NO_KEY}")
    return found


def _prefix(deployment: Deployment) -> str:
    return f"{deployment.chain_id}-{deployment.settlement[2:10]}-".lower()


def hold(directory: Path) -> ProcessLock:
    """Lock a channel's folder; raise ConfigError if another process pays from it."""
    lock = ProcessLock.take(directory / "lock")
    if lock is None:
        raise ConfigError(
            f"another process pays from {directory}: stop it, or use another buyer directory"
        )
    return lock
