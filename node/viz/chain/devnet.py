"""Run a local chain: anvil as a child process, with its state on disk.

Owns finding, starting, awaiting and stopping the binary, and the methods that only a test chain has
(time, snapshots, mining). Invariants: the wait for the start and the end is bounded; anvil is
stopped by SIGINT, so that it writes its state. Only anvil reads and writes the state file.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from viz.chain.keys import DEVELOPMENT_MNEMONIC
from viz.chain.rpc import Rpc
from viz.child_process import tied
from viz.domain.units import Address
from viz.errors import ChainError, ChainUnreachable, ConfigError
from viz.local_socket import free_port
from viz.private import make_private_folder
from viz.process_lock import ProcessLock

CHAIN_ID: Final = 31_337
_ATTEMPTS: Final = 3
_READY_S: Final = 30.0
_STOP_S: Final = 20.0


def find_anvil() -> Path:
    """Return the anvil binary: ``VIZ_ANVIL``, PATH, or this repository's contracts/node_modules.

    Raises ConfigError with the command to install it if there is none.
    """
    if named := os.environ.get("VIZ_ANVIL"):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise ConfigError(f"VIZ_ANVIL={named} is not a program: correct it, or unset it")
    if found := shutil.which("anvil"):
        return Path(found)
    modules = Path(__file__).resolve().parents[3] / "contracts" / "node_modules"
    # The platform package holds the binary itself; .bin/anvil is a wrapper that needs Node.js.
    for candidate in sorted(modules.glob("@foundry-rs/anvil-*/bin/anvil")):
        if os.access(candidate, os.X_OK):
            return candidate
    raise ConfigError("anvil, the local chain, is not installed: run ./scripts/setup")


class Devnet:
    """A running anvil process."""

    def __init__(self, process: asyncio.subprocess.Process, rpc: Rpc, port: int) -> None:
        self._process = process
        self._rpc = rpc
        self._lock: ProcessLock | None = None
        self.port = port

    @classmethod
    async def start(
        cls,
        *,
        port: int = 0,
        state: Path | None = None,
        chain_id: int = CHAIN_ID,
        accounts: int = 20,
        block_time_s: int | None = None,
        log: Path | None = None,
        state_interval_s: int = 5,
    ) -> Devnet:
        """Start anvil on ``port`` (0: a free one) and wait until it answers.

        With ``state``, anvil loads its state from this file if it exists, and writes it every
        ``state_interval_s`` seconds and at its end. Raises ConfigError if the port is in use, the
        binary is missing, or another process uses this state, and ChainUnreachable if anvil does
        not answer in time.
        """
        binary = find_anvil()
        lock = None if state is None else _hold(state)
        try:
            arguments = _arguments(chain_id, accounts, state, state_interval_s, block_time_s)
            net = await cls._launch(binary, arguments, port, log)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        net._lock = lock
        return net

    @classmethod
    async def _launch(
        cls, binary: Path, arguments: list[str], port: int, log: Path | None
    ) -> Devnet:
        if port:
            _refuse_taken(port)
            return await cls._spawn(binary, arguments, port, log)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                # Another program may take the free port before anvil binds it: try another.
                return await cls._spawn(binary, arguments, free_port(), log)
            except ChainUnreachable:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    async def _spawn(
        cls, binary: Path, arguments: list[str], port: int, log: Path | None
    ) -> Devnet:
        output: Any = asyncio.subprocess.DEVNULL
        if log is not None:
            make_private_folder(log.parent)
            output = log.open("ab")
        try:
            # In a session of its own, Ctrl-C reaches only us, and we stop anvil last.
            process = await asyncio.create_subprocess_exec(
                *tied([str(binary), *arguments, "--port", str(port)], signal.SIGINT),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if log is not None:
                output.close()
        net = cls(process, Rpc(f"http://127.0.0.1:{port}", timeout_s=10.0), port)
        try:
            await net._ready()
            await net._catch_up()
        except BaseException:
            await net.stop()
            raise
        return net

    async def _ready(self) -> None:
        try:
            async with asyncio.timeout(_READY_S):
                while self._process.returncode is None:
                    with suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        writer.close()
                        await self._rpc.block_number()
                        return
                    await asyncio.sleep(0.03)
        except TimeoutError as error:
            raise ChainUnreachable(f"anvil did not answer within {_READY_S:g} s") from error
        raise ChainUnreachable(
            f"anvil ended at once (exit code {self._process.returncode}): its state file may be "
            "damaged, or its port in use"
        )

    async def _catch_up(self) -> None:
        """Set the chain's clock to the present, or to just after its head if that is later."""
        head = await self._rpc.block()
        await self._rpc.request("evm_setTime", [max(int(time.time()), head.time_s + 1)])

    @property
    def url(self) -> str:
        """The URL of its JSON-RPC endpoint."""
        return self._rpc.url

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child still runs."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait until the process ends, and return its exit code."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop it with SIGINT, so that it writes its state; kill it after ``_STOP_S`` seconds."""
        try:
            await self._rpc.close()
            await self._end()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    async def _end(self) -> None:
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    # methods that only a test chain has

    async def advance_time(self, seconds: int) -> None:
        """Move the clock forward and mine a block at the new time."""
        await self._rpc.request("evm_increaseTime", [seconds])
        await self.mine()

    async def mine(self, blocks: int = 1) -> None:
        """Mine blocks; pending transactions are in the first."""
        await self._rpc.request("anvil_mine", [hex(blocks)])

    async def automine(self, enabled: bool) -> None:
        """Set whether anvil mines a block at every transaction, or only on ``mine``."""
        await self._rpc.request("evm_setAutomine", [enabled])

    async def snapshot(self) -> str:
        """Save the present state and return the snapshot's id."""
        return str(await self._rpc.request("evm_snapshot"))

    async def revert(self, snapshot: str) -> None:
        """Go back to a snapshot and delete it; the blocks since then are gone.

        Raises ChainError if there is no such snapshot.
        """
        if not await self._rpc.request("evm_revert", [snapshot]):
            raise ChainError(f"anvil has no snapshot {snapshot}")

    async def fund(self, address: Address, wei: int = 10**18) -> None:
        """Set an account's balance of the chain's native coin, which pays for gas."""
        await self._rpc.request("anvil_setBalance", [address, hex(wei)])


def _arguments(
    chain_id: int,
    accounts: int,
    state: Path | None,
    state_interval_s: int,
    block_time_s: int | None,
) -> list[str]:
    arguments = ["--chain-id", str(chain_id), "--accounts", str(accounts), "--silent"]
    arguments += ["--mnemonic", DEVELOPMENT_MNEMONIC, "--host", "127.0.0.1"]
    if state is not None:
        arguments += ["--timestamp", str(_genesis_time(state))]
        arguments += ["--state", str(state), "--state-interval", str(state_interval_s)]
        # Reads at the confirmed depth must also work on blocks from before a restart.
        arguments += ["--preserve-historical-states"]
    if block_time_s is not None:
        arguments += ["--block-time", str(block_time_s)]
    return arguments


def _hold(state: Path) -> ProcessLock:
    """Lock the state for this process: two anvils would overwrite each other's state."""
    make_private_folder(state.parent)
    lock = ProcessLock.take(state.with_suffix(".lock"))
    if lock is None:
        raise ConfigError(
            f"another process runs the chain in {state}: stop it, or choose another folder"
        )
    return lock


def _genesis_time(state: Path) -> int:
    """Return the genesis block's time, the same at every start with ``state``.

    anvil makes a new genesis block at every start and keeps it beside the one in the state. With
    another time it would have another hash, and either of the two may be returned as block 0.
    """
    note = state.with_suffix(".genesis")
    if not note.exists():
        make_private_folder(state.parent)
        note.write_text(f"{int(time.time())}\n", encoding="ascii")
    try:
        return int(note.read_text(encoding="ascii"))
    except ValueError as error:
        raise ConfigError(f"{note} holds no time: restore it, or remove {state.parent}") from error


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is in use: stop what listens there, or choose another port"
            ) from error
