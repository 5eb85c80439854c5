"""The demo's processes: the chain, the node, the buyer's proxy, and every command it gives.

Owns starting, awaiting and ending them, and the folder they live in. Each is a real process with
an own log; the demo itself only speaks to them as a person would. None outlives the demo, however
it ends.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from viz.child_process import tied
from viz.local_socket import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
START_LIMIT_S: Final = 240
STOP_LIMIT_S: Final = 40


class DemoError(Exception):
    """The demo did not show what it is there to show."""


class World:
    """One run of the demo, below one folder."""

    def __init__(self, folder: Path, console: Console, *, kubo: bool) -> None:
        self.folder, self.console, self.kubo = folder, console, kubo
        self.rpc_port, self.node_port, self.proxy_port = free_port(), free_port(), free_port()
        self.rpc_url = f"http://127.0.0.1:{self.rpc_port}"
        self.node_url = f"http://127.0.0.1:{self.node_port}"
        self.proxy_url = f"http://127.0.0.1:{self.proxy_port}/v1"
        self.password = secrets.token_urlsafe(16)
        self._running: list[tuple[str, subprocess.Popen[str]]] = []

    def environment(self, password: str | None = None) -> dict[str, str]:
        """Return what a process of the demo sees."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("VIZ_")},
            **{k: v for k, v in os.environ.items() if k == "VIZ_ANVIL"},
            "VIZ_DATA_DIR": str(self.folder),
            "VIZ_KEY_PASSWORD": password or self.password,
            "PYTHONUNBUFFERED": "1",
        }

    # commands

    def viz(self, *arguments: object, fails: bool = False) -> str:
        """Run a `viz` command to its end; return its output, or its error where it should fail."""
        return self.command([sys.executable, "-m", "viz", *map(str, arguments)], fails=fails)

    def json(self, *arguments: object) -> Any:
        """Run a `viz` command with --json and return what it prints."""
        return json.loads(self.viz(*arguments, "--json"))

    def watched(self, *arguments: object) -> Any:
        """Run a `viz` command with --json whose progress is for the reader to see."""
        done = subprocess.run(
            [sys.executable, "-m", "viz", *map(str, arguments), "--json"],
            stdout=subprocess.PIPE,
            env=self.environment(),
            cwd=ROOT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"viz {arguments[0]} ended with {done.returncode}")
        return json.loads(done.stdout)

    def command(self, arguments: list[str], *, fails: bool = False) -> str:
        """Run a command to its end and return its output."""
        done = subprocess.run(
            arguments,
            capture_output=True,
            env=self.environment(),
            cwd=ROOT,
            text=True,
            check=False,
            timeout=900,
        )
        if bool(done.returncode) != fails:
            shown = " ".join(arguments[1:])
            raise DemoError(f"{shown}\nended with {done.returncode}: {done.stderr.strip()}")
        return (done.stderr if fails else done.stdout).strip()

    # processes

    def start(self, name: str, *arguments: object, password: str | None = None) -> None:
        """Start a `viz` command that keeps running, its words in NAME.log."""
        log = (self.folder / f"{name}.log").open("w", encoding="utf-8")
        process = subprocess.Popen(
            tied([sys.executable, "-m", "viz", *map(str, arguments)]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment(password),
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        log.close()
        self._running.append((name, process))

    def wait_for(self, name: str, url: str) -> float:
        """Wait until a process answers at ``url``; return the seconds that it took."""

        def answers() -> bool:
            try:
                with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                    return True
            except OSError:
                return False

        return self.wait_until(name, answers)

    def said(self, name: str) -> dict[str, Any]:
        """Wait until a process has printed a JSON object, and return it."""
        found: dict[str, Any] = {}

        def printed() -> bool:
            text = (self.folder / f"{name}.log").read_text(encoding="utf-8")
            try:
                found.update(json.JSONDecoder().raw_decode(text[text.index("{") :])[0])
            except ValueError:
                return False
            return True

        self.wait_until(name, printed)
        return found

    def wait_until(self, name: str, ready: Callable[[], bool]) -> float:
        """Wait until ``ready`` while a process runs; return the seconds that it took."""
        started = time.monotonic()
        process = next(running for known, running in self._running if known == name)
        while time.monotonic() - started < START_LIMIT_S:
            if process.poll() is not None:
                raise DemoError(f"{name} ended: {self._last_words(name)}")
            if ready():
                return time.monotonic() - started
            time.sleep(0.2)
        raise DemoError(f"{name} was not ready in {START_LIMIT_S} s: {self._last_words(name)}")

    def end(self, name: str, *, by: signal.Signals = signal.SIGTERM) -> int:
        """End one process by a signal and return its exit code; its name may be started again."""
        entry = next(running for running in self._running if running[0] == name)
        entry[1].send_signal(by)
        try:
            code = entry[1].wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"{name} did not end: {self._last_words(name)}") from error
        self._running.remove(entry)
        return code

    def _last_words(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")[-1_500:]

    def stop(self) -> None:
        """End every process, the last started first."""
        for _, process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._running.clear()
