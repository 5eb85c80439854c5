"""What was paid through a former channel is told on, and damage in one folder harms no other.

The node's chain is invented, the folders are real.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api.harness import DEPOSIT, PAYER_KEY, Node, running_node
from tests.integration.buyer.conftest import PASSWORD, buying
from tests.integration.buyer.test_channel_control import viz
from tests.integration.buyer.test_untrue_node import ask

from viz.buyer.channels.renewal import Renewed, renew
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.folders import KEY_FILE, LEDGER_FILE
from viz.buyer.network.opening import left_on_disk
from viz.chain.deployment import save_deployment
from viz.domain.eip712 import public_address
from viz.errors import StoreError
from viz.local_socket import free_port


class Place:
    """A data folder, whose buyer pays one node."""

    def __init__(self, node: Node, data: Path) -> None:
        self.node, self.data, self.home = node, data, data / "buyer"
        save_deployment(data / "deployment.json", DEPLOYMENT)

    def buyer(self) -> Any:
        return buying(self.node, self.home, chain=self.node.chain, origin=None)

    async def paid(self, answers: int) -> tuple[str, int, Path]:
        """Deposit if there is no deposit, and pay answers; return signer, bill and folder."""
        async with self.buyer() as client:
            if not client.channel.limit_units:
                await client.open_channel(PAYER_KEY, DEPOSIT)
            for number in range(answers):
                assert await ask(client, max_tokens=8, seed=number)
            return client.signer, billed(client), client.directory

    async def closed(self) -> None:
        async with self.buyer() as client:
            await client.close_channel(PAYER_KEY)

    async def renewed(self, signer: Any) -> Renewed:
        chain = self.node.chain
        return await renew(self.home, DEPLOYMENT, chain, signer, chain.address)

    async def spending(self) -> dict[str, Any]:
        done = await viz(self.data, "buyer spending --json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def billed(client: BuyerClient) -> int:
    return sum(client.channel.billed.values())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node", port=free_port()) as node:
        node.chain.balances[public_address(PAYER_KEY)] = 10**9
        yield Place(node, tmp_path / "data")


async def test_what_was_spent_through_a_former_channel_is_counted_once(place: Place) -> None:
    """It vanished from `viz buyer spending` with the renewal; a restored copy counts no second
    time, and the copy that knows most counts."""
    former, _, directory = await place.paid(1)
    shutil.copytree(directory, place.data / "copy")
    _, before, _ = await place.paid(2)
    await place.closed()
    await place.renewed(former)
    for _ in range(2):
        (found,) = (await place.spending())["channels"]
        assert (found["signer"], found["spent"], found["former"]) == (former, str(before), True)
        shutil.copytree(place.data / "copy", directory, dirs_exist_ok=True)
        await place.renewed(former)
    present, after, _ = await place.paid(1)
    channels = (await place.spending())["channels"]
    assert [(each["signer"], each["spent"], each["former"]) for each in channels] == [
        (present, str(after), False),
        (former, str(before), True),
    ]
    assert (channels[0]["left"], channels[1]["left"]) == (str(DEPOSIT - after), "0")
    table = (await viz(place.data, "buyer spending")).stdout
    assert f"former channel of {former}" in table and table.count("left of the deposit") == 1


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost key"])
async def test_the_receipts_of_a_former_channel_are_handed_out_too(
    place: Place, *, lost: bool
) -> None:
    """They could be had no more. Without the old key the file says what it lacks."""
    former, _, _ = await place.paid(2)
    await place.closed()
    aside = (await place.renewed(former)).aside
    if lost:
        (aside / KEY_FILE).unlink()
    present, _, _ = await place.paid(1)
    file = place.data / "receipts.json"
    words = f"channel receipts {file} --node {place.node.url} --json"
    done = await viz(place.data, words, secret=PASSWORD)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (of,) = told["former"]
    count = 0 if lost else 2
    assert (of["signer"], of["known"], of["count"]) == (former, 2, count)
    assert (told["signer"], told["count"], told["known"]) == (present, 1 + count, 1)
    assert len(json.loads(file.read_bytes())["receipts"]) == 1 + count
    assert (f"the former channel of {former} the file has 0 receipts" in done.stderr) == lost


def files_in(folder: Path) -> dict[str, bytes]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


def another_disk(monkeypatch: pytest.MonkeyPatch, folder: Path, free: bool = True) -> None:
    """Let ``folder`` be on another disk, which has no room if it is not ``free``."""
    rename, copy = os.rename, shutil.copy2

    def renamed(source: Any, target: Any, **more: Any) -> None:
        if (folder in Path(source).parents) != (folder in Path(target).parents):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **more)

    def copied(source: Any, target: Any, **more: Any) -> Any:
        if not free and Path(source).name == LEDGER_FILE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(source, target, **more)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(shutil, "copy2", copied)
    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, copied, False, False))


async def test_former_channels_may_be_on_another_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal failed with "Invalid cross-device link". A disk without room changes nothing."""
    former, before, directory = await place.paid(1)
    await place.closed()
    with socket.socket(socket.AF_UNIX) as left, monkeypatch.context() as inside:
        inside.chdir(directory)  # a socket's path is short
        left.bind("desk.sock")  # of a proxy that was killed
    kept = files_in(directory)
    with monkeypatch.context() as full:
        another_disk(full, place.home / "former-channels", free=False)
        with pytest.raises(StoreError, match=r"No space left.*used as before"):
            await place.renewed(former)
    assert files_in(directory) == kept and not list((place.home / "former-channels").iterdir())
    another_disk(monkeypatch, place.home / "former-channels")
    aside = (await place.renewed(former)).aside
    assert files_in(aside) == kept and not (aside / "desk.sock").exists()
    assert not any(each.stat().st_mode & 0o077 for each in (aside, *aside.rglob("*")))
    assert not list(directory.parent.iterdir())
    assert (await place.spending())["channels"][0]["spent"] == str(before)
    present, _, _ = await place.paid(1)
    assert present != former


@pytest.mark.parametrize("damaged", [KEY_FILE, LEDGER_FILE])
async def test_damage_in_one_folder_stops_no_other(place: Place, damaged: str) -> None:
    """`viz buyer spending` and the network's proxy ended in the error of one channel's file, and
    needed no key of it. The file is named, and stays as it is."""
    _, spent, directory = await place.paid(1)
    other = directory.with_name(f"{directory.name[:-40]}{'5' * 40}")
    shutil.copytree(directory, other)
    (other / damaged).write_bytes(b"{damaged\n")
    found = await place.spending()
    by_node = {each["node"].lower(): each for each in found["channels"]}
    assert by_node[place.node.chain.address.lower()]["spent"] == str(spent)
    if damaged == KEY_FILE:
        assert by_node[f"0x{'5' * 40}"]["signer"] is None and not found["unread"]
    else:
        assert found["unread"] == [str(other)] and len(by_node) == 1
    # As a process of its own: the warning is no part of the JSON.
    command = [sys.executable, "-m", "viz", "buyer", "spending", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, "--data-dir", str(place.data)], capture_output=True, text=True
    )
    assert json.loads(done.stdout) == found and str(other / damaged) in done.stderr
    assert (other / damaged).read_bytes() == b"{damaged\n"
    left = {node.lower(): units for node, units in left_on_disk(place.home, DEPLOYMENT).items()}
    assert left == {place.node.chain.address.lower(): DEPOSIT - spent, f"0x{'5' * 40}": 0}
