"""Run a local testnet in one folder: chain, contracts, keys, funds and, if requested, Kubo.

Prepares what `viz up` and `viz testnet` need before a node can run, and keeps it across restarts.
Never use it for a real chain: the deployer's key is public, and the operator's password is stored
beside the operator's key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from eth_account.signers.local import LocalAccount

from viz.chain.deploy import ensure_deployed
from viz.chain.devnet import Devnet
from viz.chain.keys import create_key_file, development_account, load_key_file
from viz.chain.payment_token import PaymentToken
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.domain.ports.chain import DEVELOPMENT_CHAINS, Deployment
from viz.domain.ports.transactions import Call
from viz.domain.units import Address, Units
from viz.errors import ChainMismatch, ConfigError
from viz.private import make_private_folder
from viz.settings.secret import kept_secret
from viz.storage.kubo_daemon import KuboDaemon, find_kubo

GAS_WEI: Final = 10 * 10**18
OPERATOR_UNITS: Final = 100_000_000
# A real wallet takes a second of scrypt to open; for keys of test money less is enough.
_SCRYPT_N: Final = 2**14


@dataclass(slots=True)
class Localnet:
    """A running local chain with Viz's contracts."""

    folder: Path
    devnet: Devnet
    deployment: Deployment
    operator: LocalAccount
    kubo: KuboDaemon | None

    @classmethod
    async def start(cls, folder: Path, *, rpc_port: int = 0, kubo: bool = False) -> Self:
        """Start or continue the testnet in ``folder``.

        Raises ConfigError (anvil or Kubo missing, port in use), ChainMismatch (the chain's state
        file was lost but the deployment file was not), ChainUnreachable.
        """
        operator = _operator(folder)
        devnet = await Devnet.start(
            port=rpc_port, state=folder / "chain" / "state.json", log=folder / "chain" / "anvil.log"
        )
        daemon: KuboDaemon | None = None
        try:
            deployment = await _deployed(devnet.url, folder)
            await fund(
                devnet.url,
                deployment,
                Address(operator.address),
                wei=GAS_WEI,
                units=OPERATOR_UNITS,
                top_up=True,
            )
            if kubo:
                daemon = KuboDaemon(_kubo_binary(), folder / "kubo")
                await daemon.start()
        except BaseException:
            await devnet.stop()
            raise
        return cls(folder, devnet, deployment, operator, daemon)

    @property
    def password(self) -> str:
        """Return the operator key's password."""
        return (self.folder / "operator.password").read_text(encoding="utf-8").strip()

    async def stop(self) -> None:
        """Stop the started processes; the state stays on disk."""
        if self.kubo is not None:
            await self.kubo.stop()
        await self.devnet.stop()


async def _deployed(url: str, folder: Path) -> Deployment:
    rpc = Rpc(url)
    try:
        return await ensure_deployed(rpc, development_account(0), folder / "deployment.json")
    except ChainMismatch as error:
        raise ChainMismatch(
            f"{error.detail} The local testnet in {folder} lost part of its state. Restore "
            f"{folder / 'chain' / 'state.json'} from a backup, or start another testnet with "
            "--data-dir NEW_FOLDER. Keep this folder: its keys and ledgers may hold money of other "
            "chains"
        ) from error
    finally:
        await rpc.close()


def _operator(folder: Path) -> LocalAccount:
    password_file, key_file = folder / "operator.password", folder / "operator.key.json"
    make_private_folder(folder)
    password = kept_secret(password_file, random_bytes=24)
    if key_file.exists():
        return load_key_file(key_file, password)
    return create_key_file(key_file, password, scrypt_n=_SCRYPT_N)


def _kubo_binary() -> Path:
    if named := os.environ.get("KUBO_BIN"):
        return find_kubo(Path(named))
    built = Path(__file__).resolve().parents[2] / "scripts" / "kubo" / "bin" / "ipfs"
    return find_kubo(built if built.exists() else None)


async def fund(
    url: str,
    deployment: Deployment,
    account: Address,
    *,
    wei: int = 0,
    units: Units = 0,
    top_up: bool = False,
) -> None:
    """Give ``account`` gas and test tokens; with ``top_up`` only if it has less.

    Raises TransactionFailed on a chain whose token has no faucet, OutcomeUnknown, ChainUnreachable.
    """
    rpc = Rpc(url)
    try:
        if wei and not (top_up and await rpc.balance_wei(account) >= wei):
            await rpc.request("anvil_setBalance", [account, hex(wei)])
        sender = Sender(rpc, development_account(0), deployment, chain_id=deployment.chain_id)
        if units and not (top_up and await _balance(rpc, deployment, account) >= units):
            minted = await sender.submit(Call("TestUSD", "mint", (account, units)))
            minted.require_mined("minting test tokens")
    finally:
        await rpc.close()


async def pass_time(url: str, seconds: int) -> int:
    """Move a local chain's clock forward, mine a block, and return the chain's time, in seconds.

    Raises ConfigError if the chain is not a development chain, ChainUnreachable.
    """
    rpc = Rpc(url)
    try:
        chain_id = await rpc.chain_id()
        if chain_id not in DEVELOPMENT_CHAINS:
            raise ConfigError(
                f"chain {chain_id} is not a development chain: on a real one, time passes by itself"
            )
        await rpc.request("evm_increaseTime", [seconds])
        await rpc.request("anvil_mine", [hex(1)])
        return (await rpc.block()).time_s
    finally:
        await rpc.close()


async def _balance(rpc: Rpc, deployment: Deployment, account: Address) -> Units:
    return await PaymentToken(rpc, deployment).balance(account)
