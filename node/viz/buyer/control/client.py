"""Find the proxy that holds a channel, and send it the commands of ``viz.buyer.control.commands``.

Owns the calling side of ``viz.buyer.control.server``. The wallet signs in this process, and only
what the command needs: a deposit of the amount that was asked for into the trusted Settlement, or
the close of a channel of this node.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from viz.buyer.asking import Write
from viz.buyer.control.server import (
    HEARTBEAT_S,
    MAX_MESSAGE_BYTES,
    PATH,
    SOCKET,
)
from viz.buyer.wallet.wallet import Signable, Wallet
from viz.domain.eip712 import Domain, settlement_domain
from viz.domain.ports.chain import Deployment
from viz.domain.typed_data import ReceiveWithAuthorization, RequestClose
from viz.domain.units import Address, Units, hex_of
from viz.errors import BuyerError, NodeNotTrusted, NodeUnreachable
from viz.local_socket import is_ours, open_folder, socket_path
from viz.protocol.problems import error_of
from viz.protocol.wire import Json, Reader, parse_json
from viz.protocol.wire_model import struct_from_json

CONNECT_TIMEOUT_S: Final = 5.0
MESSAGE_TIMEOUT_S: Final = 600.0


class ProxyControl:
    """The commands of a channel that a proxy holds; one command per connection."""

    def __init__(self, directory: Path, deployment: Deployment, node: Address, url: str) -> None:
        self._directory = directory
        self.deployment = deployment
        self.node = node
        self.url = url

    async def show(self) -> Json:
        """Return what was deposited, signed and billed, read from the node now."""
        return await self._do({"do": "show"})

    async def forgive(self, allow_units: Units) -> Json:
        """Trust the node again, and pay up to ``allow_units`` of bills beyond what arrived.

        Returns the channel's state.
        """
        return await self._do({"do": "forgive", "allow": str(allow_units)})

    async def open(self, wallet: Wallet, deposit_units: Units) -> Json:
        """Deposit into the channel; return its state."""
        wanted = {"do": "open", "payer": wallet.address, "deposit": str(deposit_units)}
        return await self._do(wanted, wallet=wallet, deposit_units=deposit_units)

    async def close(self, wallet: Wallet) -> Json:
        """Close the channel with the node's consent; return the total and the transaction."""
        return await self._do({"do": "close", "payer": wallet.address}, wallet=wallet)

    async def ask(self, body: dict[str, Any], write: Write, tell: Write) -> Json:
        """Ask a question, pass the text on as it arrives, and return what it cost.

        ``tell`` gets the same line as in ``ChannelControl.ask``.
        """
        return await self._do({"do": "ask", "body": body}, write=write, tell=tell)

    async def _do(
        self,
        command: Json,
        *,
        wallet: Wallet | None = None,
        deposit_units: Units = 0,
        write: Write | None = None,
        tell: Write | None = None,
    ) -> Json:
        async with _connected(self._directory) as ws:
            await _hear(ws)
            await ws.send_json(command)
            while True:
                said = await _hear(ws)
                if "text" in said and write is not None:
                    await write(Reader(said, "the proxy's answer").text("text", MAX_MESSAGE_BYTES))
                elif "told" in said and tell is not None:
                    await tell(Reader(said, "the proxy's answer").text("told", MAX_MESSAGE_BYTES))
                elif "sign" in said and wallet is not None:
                    domain, struct = self._signable(said, wallet, deposit_units)
                    signature = await wallet.sign(domain, struct)
                    await ws.send_json({"signature": hex_of(signature)})
                elif isinstance(said.get("done"), dict):
                    return dict(said["done"])
                else:
                    raise _error(said)

    def _signable(
        self, said: Json, wallet: Wallet, deposit_units: Units
    ) -> tuple[Domain, Signable]:
        """Return what the wallet may sign; raise NodeNotTrusted for anything else."""
        here, reader = self.deployment, Reader(said, "what is to be signed")
        where = reader.child("domain")
        value = said.get("value")
        struct: Signable
        # Chain, token and Settlement are the trusted ones: only the rest is the proxy's word.
        if reader.text("sign", 64) == ReceiveWithAuthorization.__name__:
            struct = struct_from_json(ReceiveWithAuthorization, value)
            domain = Domain(where.text("name"), where.text("version"), here.chain_id, here.token)
            asked = (wallet.address, here.settlement, deposit_units)
            good = (struct.sender, struct.to, struct.value_units) == asked
        else:
            struct = struct_from_json(RequestClose, value)
            domain = settlement_domain(here.chain_id, here.settlement)
            good = struct.node == self.node
        if not good:
            raise NodeNotTrusted("the proxy wants another signature than the command needs")
        return domain, struct


async def find_proxies(directories: Sequence[Path], deployment: Deployment) -> list[ProxyControl]:
    """Return the commands of every proxy that runs in one of these channels' folders."""
    found: list[ProxyControl] = []
    for directory in directories:
        if not (directory / SOCKET).is_socket():
            continue
        try:
            async with _connected(directory) as ws:
                hello = Reader(await _hear(ws), "the proxy's greeting")
                control = ProxyControl(
                    directory, deployment, hello.address("node"), hello.text("url")
                )
                found.append(control)
        except NodeUnreachable:
            continue  # a proxy that was killed left its socket
    return found


@asynccontextmanager
async def _connected(directory: Path) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    folder = open_folder(directory)
    try:
        connector = aiohttp.UnixConnector(socket_path(folder, SOCKET))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            try:
                ws = await http.ws_connect(
                    f"http://desk{PATH}", heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES
                )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NodeUnreachable("the proxy of this channel does not answer") from error
            async with ws:
                if not is_ours(ws.get_extra_info("socket")):
                    raise NodeUnreachable("the proxy of this channel is another user's")
                yield ws
    finally:
        os.close(folder)


async def _hear(ws: aiohttp.ClientWebSocketResponse) -> Json:
    try:
        message = await ws.receive(timeout=MESSAGE_TIMEOUT_S)
    except TimeoutError as error:
        raise NodeUnreachable("the proxy of this channel does not answer") from error
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise NodeUnreachable("the proxy ended before the command was done: ask again")
    return parse_json(message.data, max_bytes=MAX_MESSAGE_BYTES)


def _error(said: Json) -> Exception:
    return error_of(said, 200, unknown=BuyerError)
