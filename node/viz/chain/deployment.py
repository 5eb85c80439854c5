"""Read and write the deployment file: the addresses of the contracts.

Owns the JSON form of ``Deployment`` and its atomic write. ``Rpc.check`` compares it with the chain.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from viz.domain.display import symbol_of
from viz.domain.ports.chain import Deployment
from viz.domain.strict_json import load_json
from viz.domain.units import Address, hex_of, parse_address, parse_hash
from viz.errors import ConfigError, InvalidRequest
from viz.given_file import read_given
from viz.private import write_private
from viz.protocol.wire import JSON_INTEGER_MAX

MAX_DECIMALS: Final = 36
_MAX_BYTES: Final = 1024 * 1024


def address_of(deployment: Deployment, contract: str) -> Address:
    """Return a contract's address by its name; raise InvalidRequest for an unknown name."""
    from viz.chain.abi import CURRENCY

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
    """Return the contract names by address; the token's name is ``Token``."""
    from viz.chain.abi import CURRENCY

    return {
        address_of(deployment, name): name
        for name in (CURRENCY, "ContentRegistry", "AdapterRegistry", "Settlement", "NodeDirectory")
    }


def load_deployment(path: Path) -> Deployment:
    """Return the deployment in a file; raise ConfigError if it cannot be read."""
    try:
        if not path.exists():
            raise ConfigError(
                f"there is no deployment file {path}: to use a node, check and save its chain and "
                "contracts with `viz trust URL`; to run a node, run `viz up` or scripts/deploy.py"
            )
        content = load_json(read_given(path, _MAX_BYTES, ConfigError))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a deployment: {error}") from error
    return parse_deployment(content, str(path))


def parse_deployment(content: Any, where: str) -> Deployment:
    """Return the deployment in JSON from a file or a node; raise ConfigError naming ``where``."""
    try:
        return Deployment(
            chain_id=_small(content["chain_id"], JSON_INTEGER_MAX),
            genesis=parse_hash(content["genesis"]),
            token=parse_address(content["token"]),
            token_decimals=_small(content["token_decimals"], MAX_DECIMALS),
            content_registry=parse_address(content["content_registry"]),
            adapter_registry=parse_address(content["adapter_registry"]),
            settlement=parse_address(content["settlement"]),
            node_directory=parse_address(content["node_directory"]),
            first_block=_small(content["first_block"], JSON_INTEGER_MAX),
            token_symbol=symbol_of(content.get("token_symbol")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRequest) as error:
        raise ConfigError(f"{where} is not a complete deployment: {error}") from error


def _small(value: object, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise ValueError(f"{value!r} is not a whole number from 0 to {maximum}")
    return value


def find_deployment(path: Path) -> Deployment | None:
    """Return the deployment in a file; None if there is no such file."""
    return load_deployment(path) if path.exists() else None


def deployment_json(deployment: Deployment) -> dict[str, Any]:
    """Return a deployment as the JSON of its file."""
    return {
        key: hex_of(value) if isinstance(value, bytes) else value
        for key, value in asdict(deployment).items()
    }


def differences(ours: Deployment, theirs: Deployment) -> list[tuple[str, object, object]]:
    """Return the fields in which two deployments differ, as (name, ours, theirs).

    The token's symbol is not compared: a token can be renamed, and is still that token.
    """
    mine, other = deployment_json(ours), deployment_json(theirs)
    del mine["token_symbol"]
    return [(key, value, other[key]) for key, value in mine.items() if value != other[key]]


def save_deployment(path: Path, deployment: Deployment) -> None:
    """Write the deployment atomically: all of it or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(deployment_json(deployment), indent=2).encode() + b"\n")
    path.chmod(0o644)  # what buyers and creators are given: it is public
