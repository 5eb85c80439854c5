"""`viz up`: everything on one machine, and the same again after a stop."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from examples.demo.world import World
from tests.e2e.conftest import new_world

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = new_world(tmp_path_factory.mktemp("up") / "town")
    try:
        yield made
    finally:
        made.stop()


def up(world: World) -> dict[str, str]:
    """Start everything; return what it printed, by the first word of each line."""
    ports = ("--port", world.node_port, "--rpc-port", world.rpc_port)
    world.start("up", "up", "--data-dir", world.folder, *ports)
    world.wait_for("up", f"{world.node_url}/healthz")
    log = world.folder / "up.log"
    world.wait_until("up", lambda: "Stop with Ctrl-C" in log.read_text(encoding="utf-8"))
    lines = log.read_text(encoding="utf-8").splitlines()
    found = {line.split()[0]: line.partition(" ")[2].strip() for line in lines if line.strip()}
    return found | {"curl": next(line.strip() for line in lines if "curl" in line)}


def test_up_prints_what_works_and_keeps_its_state(world: World) -> None:
    """Protects the first hour with Viz: the printed curl works, and a restart changes nothing."""
    first = up(world)
    names = ("chain", "token", "contents", "adapters", "settlement", "directory", "node", "state")
    kept = {name: first[name] for name in names}
    answer = subprocess.run(
        shlex.split(first["curl"]), capture_output=True, text=True, timeout=60, check=True
    )
    info = json.loads(answer.stdout)
    assert info["settlement"] == first["settlement"] and info["node"] in first["node"]
    wallet = world.json("key", "new", world.folder / "buyer.key.json")["address"]
    world.viz("testnet", "fund", wallet, "--tokens", 5, "--rpc-url", world.rpc_url)
    channel = ("--key", world.folder / "buyer.key.json", "--node", world.node_url)
    opened = world.json("channel", "open", "1.25", *channel)
    asked = ("buyer", "ask", "Say hello.", "--max-tokens", 4, "--node", world.node_url)
    assert world.json(*asked)["text"]
    status = world.json("status", "--node", world.node_url)
    assert world.end("up") == 0
    assert "Traceback" not in (world.folder / "up.log").read_text(encoding="utf-8")

    again = up(world)
    assert {name: again[name] for name in names} == kept
    now = world.json("status", "--node", world.node_url)
    same = ("node", "balance", "owed", "channels", "receipts", "billed", "unclaimed", "adapters")
    assert {name: now[name] for name in same} == {name: status[name] for name in same}
    assert int(now["billed"]) > 0
    shown = world.json("channel", "show", "--node", world.node_url)
    assert (shown["signer"], shown["deposit"]) == (opened["signer"], opened["deposit"])
    assert world.json(*asked)["text"]
    refused = world.viz("up", "--port", world.node_port, "--rpc-port", world.rpc_port, fails=True)
    assert refused.startswith("config: ") and "in use" in refused and "\n" not in refused
