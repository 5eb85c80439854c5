"""Name and find the folders of a buyer's channels, and say whose session key is in one.

Owns the names of the folders and of the files that others than the ledger read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, parse_address
from viz.errors import ConfigError, InvalidKeyFile, InvalidRequest
from viz.process_lock import ProcessLock

KEY_FILE: Final = "session.key.json"
LEDGER_FILE: Final = "ledger.jsonl"
STANDING_FILE: Final = "standing.json"
DEPOSIT_FILE: Final = "deposit.json"
# Deposits that are confirmed by the node's word alone: deposit-VALID_BEFORE-SALT.json.
SAID_DEPOSITS: Final = "deposit-*-*.json"
# What to do about a channel whose session key is gone.
NO_KEY: Final = (
    "restore it from a copy. If there is none, `viz channel leave` and then `viz channel renew`, "
    "each with the channel's --node-address and --signer, bring the deposit back and begin with a "
    "new session key"
)
# Where `viz channel renew` sets the folders of former channels aside: as NAME-SIGNER, and as
# NAME-SIGNER.2 if that is there already.
FORMER: Final = "former-channels"
_CHANNELS: Final = "channels"
_ADDRESS: Final = "[0-9a-f]{40}"


@dataclass(frozen=True, slots=True)
class KeptChannel:
    """A channel's folder; ``former`` if it was set aside.

    ``signer`` is None if the key file of a present channel is missing or damaged.
    """

    directory: Path
    node: Address
    signer: Address | None
    former: bool = False


def directory_of(home: Path, deployment: Deployment, node: Address) -> Path:
    """Return the folder of the channel to a node, which may not exist yet."""
    return home / _CHANNELS / f"{_prefix(deployment)}{node[2:].lower()}"


def directories_in(home: Path, deployment: Deployment) -> list[Path]:
    """Return the folder of every channel of this deployment in ``home``."""
    name = re.compile(re.escape(_prefix(deployment)) + _ADDRESS)
    return sorted(each for each in (home / _CHANNELS).glob("*") if name.fullmatch(each.name))


def kept_channels(home: Path, deployment: Deployment) -> list[KeptChannel]:
    """Return every channel of this deployment in ``home``, the former ones last.

    A channel may be among them more than once, if a copy of its folder was restored. Decrypts no
    key.
    """
    name = re.compile(rf"{re.escape(_prefix(deployment))}({_ADDRESS})-({_ADDRESS})(\.\d+)?")
    aside = sorted((home / FORMER).glob("*"))
    return [
        *(
            KeptChannel(each, node_of(each), signer_in(each))
            for each in directories_in(home, deployment)
        ),
        *(
            KeptChannel(each, parse_address(f"0x{of[1]}"), parse_address(f"0x{of[2]}"), former=True)
            for each in aside
            if (of := name.fullmatch(each.name))
        ),
    ]


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


class ChannelHeld(ConfigError):
    """Another process of this buyer pays from the channel; nothing is wrong with its node."""


def hold(directory: Path) -> ProcessLock:
    """Lock a channel's folder; raise ChannelHeld if another process pays from it."""
    lock = ProcessLock.take(directory / "lock")
    if lock is None:
        raise ChannelHeld(
            f"another process pays from {directory}. If it is a proxy, send your requests to it; "
            "if not, wait until it has ended. To pay beside it, use another --data-dir, which has "
            "its own deposit"
        )
    return lock
