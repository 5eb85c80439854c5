"""Start and stop a private Kubo daemon as a child process.

Owns the child process and its repository folder. Invariants: it listens on loopback only, on free
ports, has no peers and fetches no configuration; it does not outlive ``stop``; an existing
repository is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from viz.child_process import tied
from viz.errors import StorageUnavailable
from viz.local_socket import free_port
from viz.private import make_private_folder
from viz.storage.kubo import KuboBlobStore

_INIT_S: Final = 60.0
_STOP_S: Final = 15.0
_HINT: Final = "run scripts/setup --kubo, or set KUBO_BIN to an ipfs binary"


def find_kubo(configured: Path | None = None) -> Path:
    """Return the ipfs binary: the configured one, else ``ipfs`` on PATH.

    ``viz.localnet`` reads KUBO_BIN. Raises StorageUnavailable with the command to install it.
    """
    if configured is not None:
        if not os.access(configured, os.X_OK):
            raise StorageUnavailable(f"{configured} is not an executable; {_HINT}")
        return configured
    found = shutil.which("ipfs")
    if found is None:
        raise StorageUnavailable(f"no Kubo (ipfs) found; {_HINT}")
    return Path(found)


class KuboDaemon:
    """One ``ipfs daemon`` child process with its own repository; an async context manager."""

    def __init__(
        self, binary: Path, repository: Path, *, api_port: int = 0, gateway_port: int = 0
    ) -> None:
        """Prepare the daemon without starting it; port 0 means a free port at every start."""
        self._binary = binary
        self._repository = repository
        self._ports = (api_port, gateway_port)
        self._process: asyncio.subprocess.Process | None = None
        self._api = ""
        self._gateway = ""

    @property
    def api(self) -> str:
        """The RPC multiaddress; empty before the start."""
        return self._api

    @property
    def gateway(self) -> str:
        """The gateway's base URL; empty before the start."""
        return self._gateway

    @property
    def process_id(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process is not None else None

    async def start(self, *, timeout_s: float = 60) -> None:
        """Create the repository if there is none, start the daemon and wait until it answers.

        Raises StorageUnavailable with the last line that the daemon printed.
        """
        make_private_folder(self._repository)
        if not (self._repository / "config").is_file():
            await self._initialise()
        api_port, gateway_port = (port or free_port() for port in self._ports)
        self._configure(api_port, gateway_port)
        log = self._repository / "daemon.log"
        with log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *tied([str(self._binary), "daemon", "--migrate=true", "--enable-gc=false"]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(),
            )
        self._api = f"/ip4/127.0.0.1/tcp/{api_port}"
        self._gateway = f"http://127.0.0.1:{gateway_port}"
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_ready(self._process)
        except (TimeoutError, StorageUnavailable) as error:
            await self.stop()
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
            raise StorageUnavailable(
                f"Kubo did not start within {timeout_s:g} s: {last} (see {log})"
            ) from error

    async def stop(self) -> None:
        """Terminate the daemon, and kill it if it does not end; may be called more than once."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def __aenter__(self) -> KuboDaemon:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        store = KuboBlobStore(self._api, timeout_s=2)
        try:
            while True:
                if process.returncode is not None:
                    raise StorageUnavailable(f"the daemon ended with {process.returncode}")
                with contextlib.suppress(StorageUnavailable):
                    await store.version()
                    return
                await asyncio.sleep(0.1)
        finally:
            await store.close()

    async def _initialise(self) -> None:
        process = await asyncio.create_subprocess_exec(
            str(self._binary),
            "init",
            "--empty-repo",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment(),
        )
        try:
            async with asyncio.timeout(_INIT_S):
                output, _ = await process.communicate()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise StorageUnavailable(f"`ipfs init` did not end within {_INIT_S:g} s") from error
        if process.returncode != 0:
            words = output.decode(errors="replace").strip()
            raise StorageUnavailable(f"`ipfs init` failed in {self._repository}: {words}")

    def _configure(self, api_port: int, gateway_port: int) -> None:
        """Rewrite the repository's configuration so that the daemon contacts no other host."""
        path = self._repository / "config"
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["Addresses"] |= {
            "API": f"/ip4/127.0.0.1/tcp/{api_port}",
            "Gateway": f"/ip4/127.0.0.1/tcp/{gateway_port}",
            "Swarm": [],
        }
        config["Bootstrap"] = []
        config["AutoConf"] = {"Enabled": False}
        config["Routing"] = {"Type": "none"}
        config["DNS"] = {"Resolvers": {}}
        config["Ipns"] = config.get("Ipns", {}) | {"DelegatedPublishers": []}
        config["Discovery"] = {"MDNS": {"Enabled": False}}
        config["AutoTLS"] = {"Enabled": False}
        config["Provide"] = {"Enabled": False}
        config["Swarm"] = config.get("Swarm", {}) | {
            "DisableNatPortMap": True,
            "RelayClient": {"Enabled": False},
            "RelayService": {"Enabled": False},
        }
        config["Version"] = {"AgentSuffix": "", "SwarmCheckEnabled": False}
        config["Plugins"] = {"Plugins": {"telemetry": {"Disabled": True}}}
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        return os.environ | {"IPFS_PATH": str(self._repository), "IPFS_TELEMETRY": "off"}
