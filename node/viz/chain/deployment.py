"""The deployment file, and which contract lives where.

Owns the JSON form of ``Deployment`` and its atomic write. Does not know the network: whether the
chain agrees with the file is ``Rpc.check``'s.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from viz.chain.abi import CURRENCY
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, hex_of, parse_address, parse_hash
from viz.errors import ConfigError, InvalidRequest

MAX_SYMBOL_CHARS: Final = 11  # as EIP-747 has it


def address_of(deployment: Deployment, contract: str) -> Address:
    """Return a contract's address by its name; raise InvalidRequest for an unknown name."""
    addresses = {
        CURRENCY: deployment.token,
        "TestUSD": deployment.token,
        "ContentRegistry": deployment.content_registry,
        "AdapterRegistry": deployment.adapter_registry,
        "Settlement": deployment.settlement,
        "NodeDirectory": deployment.node_directory,
    }
    if contract not in addresses:
        raise InvalidRequest(f"the deployment has no contract {contract}")
    return addresses[contract]


def contracts_by_address(deployment: Deployment) -> dict[Address, str]:
    """Return the contract names by address, the token's as ``Token``."""
    return {
        address_of(deployment, name): name
        for name in (CURRENCY, "ContentRegistry", "AdapterRegistry", "Settlement", "NodeDirectory")
    }


def load_deployment(path: Path) -> Deployment:
    """Return the deployment of a file; raise ConfigError with what to do about it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no deployment file {path}: run scripts/deploy.py, or `viz up` for a local "
            "chain"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a deployment: {error}") from error
    try:
        return Deployment(
            chain_id=int(content["chain_id"]),
            genesis=parse_hash(content["genesis"]),
            token=parse_address(content["token"]),
            token_decimals=int(content["token_decimals"]),
            content_registry=parse_address(content["content_registry"]),
            adapter_registry=parse_address(content["adapter_registry"]),
            settlement=parse_address(content["settlement"]),
            node_directory=parse_address(content["node_directory"]),
            first_block=int(content["first_block"]),
            token_symbol=symbol_of(content.get("token_symbol")),
        )
    except (KeyError, TypeError, ValueError, InvalidRequest) as error:
        raise ConfigError(f"{path} is not a whole deployment: {error}") from error


def symbol_of(text: object) -> str:
    """Return a token's symbol as it may be shown: a few visible characters, else ``tokens``."""
    fits = isinstance(text, str) and 0 < len(text) <= MAX_SYMBOL_CHARS and text.isprintable()
    return str(text) if fits and " " not in str(text) else "tokens"


def find_deployment(path: Path) -> Deployment | None:
    """Return the deployment of a file; None where there is no such file."""
    return load_deployment(path) if path.exists() else None


def save_deployment(path: Path, deployment: Deployment) -> None:
    """Write the deployment, all of it or nothing."""
    content = {
        key: hex_of(value) if isinstance(value, bytes) else value
        for key, value in asdict(deployment).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary = Path(name)
    temporary.chmod(0o644)
    temporary.replace(path)
