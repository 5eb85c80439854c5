"""The operator's token is told to nobody who could not read it in its file."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from viz.cli import http
from viz.cli.operator.running_node import OperatorClient
from viz.errors import NodeUnreachable
from viz.local_socket import OPERATOR_SOCKET, listeners

NOBODY = 65_534


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / http.OPERATOR_FILE).write_text("secret", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
def test_who_listens_on_a_port_is_known(family: socket.AddressFamily, address: str) -> None:
    """By whichever of this machine's own addresses."""
    with socket.socket(family) as opened:
        try:
            opened.bind((address, 0))
        except OSError:
            if family is socket.AF_INET:
                raise
            pytest.skip("this machine has no IPv6")
        port = opened.getsockname()[1]
        assert listeners(port) == set()
        opened.listen()
        assert listeners(port) == {os.getuid()}


def test_another_users_program_on_the_port_gets_no_token(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the node is down anybody may listen there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.setblocking(False)
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        OperatorClient(url, home)
        monkeypatch.setattr(http, "listeners", lambda _: {NOBODY})
        with pytest.raises(NodeUnreachable, match="another user's program"):
            OperatorClient(url, home)
        monkeypatch.setattr(http, "LOCAL_NODE", url)
        with pytest.raises(NodeUnreachable, match="another user's program"):
            OperatorClient("", home)


async def test_another_users_socket_in_a_shared_folder_gets_no_token(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may be shared, so that others can make a socket in it."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1_000))
        writer.close()

    monkeypatch.chdir(home)
    async with await asyncio.start_unix_server(listen, OPERATOR_SOCKET):
        operator = OperatorClient("", home)
        monkeypatch.setattr(http, "peer_uid", lambda _: NOBODY)
        with pytest.raises(NodeUnreachable, match="another user's program"):
            await operator.ask("GET", "/status")
        await asyncio.sleep(0.1)
    assert not any(heard)
