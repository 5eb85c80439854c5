"""Deploy the contracts once, and write the deployment file.

Owns the order of creation and the check of an existing deployment file against the chain.
Invariant: a deployment file is written only if every contract in it has code and refers to the
others correctly; a second run with this file creates nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from eth_account.signers.local import LocalAccount

from viz.chain import abi
from viz.chain.deployment import find_deployment, save_deployment
from viz.chain.endpoint import EndpointRefused, NotSupported, TooMuchAsked
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.domain.display import NO_SYMBOL, symbol_of
from viz.domain.ports.chain import DEVELOPMENT_CHAINS, Deployment
from viz.domain.units import Address
from viz.errors import ChainError, ChainMismatch, ConfigError, TransactionFailed

CLOSE_DELAY_S: Final = 24 * 3600


async def ensure_deployed(
    rpc: Rpc,
    account: LocalAccount,
    path: Path,
    *,
    token: Address | None = None,
    close_delay_s: int = CLOSE_DELAY_S,
) -> Deployment:
    """Return the deployment in ``path``, checked on chain; deploy and write it if it is absent.

    The token's symbol, which tokens can change, is the chain's, and is written if it is another.
    ``token`` is the ERC-20 token (with EIP-3009) of all payments. Without it, a TestUSD is created,
    on a development chain only. Raises ChainMismatch, ConfigError, TransactionFailed,
    ChainUnreachable.
    """
    existing = find_deployment(path)
    if existing is not None:
        await rpc.check(existing)
        await check_wiring(rpc, existing)
        symbol = await symbol_on_chain(rpc, existing.token)
        if symbol not in {NO_SYMBOL, existing.token_symbol}:
            existing = replace(existing, token_symbol=symbol)
            save_deployment(path, existing)
        return existing
    deployment = await deploy(rpc, account, token=token, close_delay_s=close_delay_s)
    await check_wiring(rpc, deployment)
    save_deployment(path, deployment)
    return deployment


async def deploy(
    rpc: Rpc,
    account: LocalAccount,
    *,
    token: Address | None = None,
    close_delay_s: int = CLOSE_DELAY_S,
) -> Deployment:
    """Create the contracts and return their addresses; write no file.

    Raises ConfigError if ``token`` is no contract, or is missing on a chain that is not a local
    one, and ChainError.
    """
    chain_id = await rpc.chain_id()
    genesis, first_block = await rpc.genesis(), await rpc.block_number()
    sender = Sender(rpc, account, chain_id=chain_id)
    if token is None:
        if chain_id not in DEVELOPMENT_CHAINS:
            raise ConfigError(
                f"chain {chain_id} is not a development chain: name its token with --token "
                "(TestUSD, which anyone can mint, is only for local chains)"
            )
        token, _ = await sender.deploy("TestUSD")
    elif not await rpc.code(token):
        raise ConfigError(f"there is no contract at {token}: give the address of an ERC-20 token")
    contents, _ = await sender.deploy("ContentRegistry", (token,))
    adapters, _ = await sender.deploy("AdapterRegistry", (contents, close_delay_s))
    settlement, _ = await sender.deploy("Settlement", (token, contents, adapters))
    directory, _ = await sender.deploy("NodeDirectory")
    decimals = await rpc.call(token, abi.encode_call(abi.CURRENCY, "decimals", ()))
    return Deployment(
        chain_id=chain_id,
        genesis=genesis,
        token=token,
        token_decimals=int(abi.decode_result(abi.CURRENCY, "decimals", (), decimals)),
        content_registry=contents,
        adapter_registry=adapters,
        settlement=settlement,
        node_directory=directory,
        first_block=first_block,
        token_symbol=await symbol_on_chain(rpc, token),
    )


async def symbol_on_chain(rpc: Rpc, token: Address) -> str:
    """Return the token's symbol; ``tokens`` if the contract has none, which ERC-20 allows."""
    try:
        answer = await rpc.call(token, abi.encode_call(abi.CURRENCY, "symbol", ()))
        return symbol_of(abi.decode_result(abi.CURRENCY, "symbol", (), answer))
    except (ChainError, ValueError):
        return symbol_of(None)


async def check_wiring(rpc: Rpc, deployment: Deployment) -> None:
    """Raise ChainMismatch if contracts or token differ from the deployment.

    Checks that the contracts refer to each other, and that the token has the stated number of
    decimals, because amounts that people write are scaled by it.
    """
    decimals = await _asked(rpc, "token", abi.CURRENCY, deployment.token, "decimals")
    if decimals != deployment.token_decimals:
        raise ChainMismatch(
            f"the token {deployment.token} has {decimals} decimals, the deployment file says "
            f"{deployment.token_decimals}: do not use this file, ask its author for a correct one"
        )
    links = (
        ("ContentRegistry", deployment.content_registry, "token", deployment.token),
        ("AdapterRegistry", deployment.adapter_registry, "contents", deployment.content_registry),
        ("Settlement", deployment.settlement, "TOKEN", deployment.token),
        ("Settlement", deployment.settlement, "CONTENTS", deployment.content_registry),
        ("Settlement", deployment.settlement, "ADAPTERS", deployment.adapter_registry),
    )
    for contract, address, function, expected in links:
        found = await _asked(rpc, contract, contract, address, function)
        if found != expected:
            raise ChainMismatch(
                f"{contract} at {address} refers to {found}, not to {expected}: the deployment "
                "file mixes two deployments: do not use it, ask its author for a correct one"
            )


async def _asked(rpc: Rpc, name: str, contract: str, address: Address, function: str) -> Any:
    """Return what a view of a contract answers; raise ChainMismatch if it is another contract."""
    try:
        answer = await rpc.call(address, abi.encode_call(contract, function, ()))
        return abi.decode_result(contract, function, (), answer)
    except TransactionFailed as error:
        raise ChainMismatch(
            f"the contract at {address} does not answer {function}(), so it is not the "
            f"deployment's {name}: do not use this file, ask its author for a correct one"
        ) from error


async def check_first_block(rpc: Rpc, deployment: Deployment) -> bool:
    """Raise ChainMismatch if a contract may have events before the deployment's first block.

    Returns False if the endpoint does not keep states so old, or answers with another block's
    instead, so that only the deployment says so.
    ContentRegistry is the oldest, because the others' constructors take its address.
    """
    first, head = deployment.first_block, await rpc.block_number()
    if first > head:
        raise ChainMismatch(
            f"the deployment's first block is {first}, and the chain's last is {head}, so no event "
            "would be found: do not use this file, ask its author for a correct one"
        )
    try:
        older = bool(first and await rpc.code(deployment.content_registry, first - 1))
        if older and await rpc.code(deployment.content_registry, 0):
            return False  # no contract of ours is in block 0: the endpoint ignores the block
    except (NotSupported, TooMuchAsked, EndpointRefused):
        return False  # each endpoint words it otherwise that it has no state so old
    if older:
        raise ChainMismatch(
            f"ContentRegistry at {deployment.content_registry} is older than the deployment's "
            f"first block, {first}, so events before it would be missed: do not use this file, ask "
            "its author for a correct one"
        )
    return True
