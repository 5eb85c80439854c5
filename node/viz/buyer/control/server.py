"""Serve the commands of a channel over a Unix socket, while a proxy holds the channel.

Owns the socket beside the channel's ledger and the conversation on it: one command per connection,
as JSON messages over a WebSocket. ``viz.buyer.control.commands`` does the commands.

Only the buyer can use the socket: only its owner can open it, and the kernel tells which user made
each connection. The wallet's key stays with the command. A structure that needs the wallet's
signature is sent to the command, and comes back signed.

    server  {"node": address, "url": "http://host:port"}
    client  {"do": "ask", "body": {...}} | {"do": "show"}
            | {"do": "forgive", "allow": units}
            | {"do": "open", "payer": address, "deposit": units} | {"do": "close", "payer": address}
    server  {"told": "..."} | {"text": "..."} ... | {"sign": type, "domain": {...}, "value": {...}}
    client  {"signature": "0x..."}
    server  {"done": {...}} | {"error": {"code": ..., "detail": ...}}
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

from viz.buyer.asking import Write, costs_in
from viz.buyer.wallet.wallet import Signable, Wallet
from viz.domain.eip712 import Domain
from viz.domain.units import Address, Units
from viz.errors import InvalidRequest, VizError
from viz.local_socket import bound, is_ours, open_folder, remove
from viz.protocol.problems import MAX_DETAIL_CHARS
from viz.protocol.wire import Json, Reader, parse_json
from viz.protocol.wire_model import struct_to_json

SOCKET: Final = "desk.sock"
PATH: Final = "/desk"
MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
MAX_SIGNATURE_BYTES: Final = 1024
SIGN_TIMEOUT_S: Final = 120.0
HEARTBEAT_S: Final = 15.0
_log = structlog.get_logger()


class SocketCommands(Protocol):
    """The commands that the socket accepts, for a channel or the network (``NetworkControl``)."""

    async def show(self) -> Json: ...

    async def forgive(self, allow_units: Units) -> Json: ...

    async def open(self, wallet: Wallet, deposit_units: Units) -> Json: ...

    async def close(self, wallet: Wallet) -> Json: ...

    async def ask(self, body: dict[str, Any], write: Write, tell: Write) -> Json: ...


@asynccontextmanager
async def serving_control(
    control: SocketCommands, directory: Path, node: Address, url: str
) -> AsyncIterator[bool]:
    """Serve the commands in a channel's folder while the context lasts.

    The caller holds the channel's lock, so a socket that is already there was left by a process
    that was killed. Yields False, and logs a warning, if the folder's file system has no sockets.
    """
    app = web.Application()
    app.router.add_get(PATH, _handler(control, node, url))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    folder = open_folder(directory)
    try:
        try:
            site = web.SockSite(runner, bound(folder, SOCKET))
            await site.start()
        except OSError as error:
            _log.warning(
                "viz buyer ask and viz channel are refused while this proxy runs",
                reason=f"no socket can be made in {directory}: {error.strerror}",
            )
            yield False
        else:
            yield True
    finally:
        await runner.cleanup()
        with suppress(OSError):
            remove(folder, SOCKET)
        os.close(folder)


def _handler(control: SocketCommands, node: Address, url: str) -> Handler:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        connection = request.transport.get_extra_info("socket") if request.transport else None
        if not is_ours(connection):
            raise web.HTTPForbidden(text="this socket is another user's")
        ws = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES)
        await ws.prepare(request)
        await ws.send_json({"node": node, "url": url})
        await _Conversation(control, ws).run()
        await ws.close()
        return ws

    return handle


class _Conversation:
    """One command: the caller's messages, and the answers to them."""

    def __init__(self, control: SocketCommands, ws: web.WebSocketResponse) -> None:
        self._control = control
        self._ws = ws
        self._heard: asyncio.Queue[Json] = asyncio.Queue(maxsize=4)

    async def run(self) -> None:
        """Do the command; stop if the caller leaves."""
        listening = asyncio.create_task(self._listen())
        working = asyncio.create_task(self._work())
        try:
            await asyncio.wait({listening, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (listening, working):
                task.cancel()
            await asyncio.gather(listening, working, return_exceptions=True)

    async def _listen(self) -> None:
        async for message in self._ws:
            if message.type is not WSMsgType.TEXT:
                return
            try:
                said = parse_json(message.data, max_bytes=MAX_MESSAGE_BYTES)
            except InvalidRequest:
                return
            await self._heard.put(said)

    async def _work(self) -> None:
        try:
            done = await self._do(await self._heard.get())
            await self._ws.send_json({"done": done})
        except VizError as error:
            said = {"code": error.code, "detail": error.detail[:MAX_DETAIL_CHARS]}
            await self._ws.send_json({"error": said | costs_in(error)})
        except ConnectionResetError:
            pass
        except Exception as error:  # noqa: BLE001  one command's failure must not end the proxy
            _log.error("unexpected, in a command", exc_info=error)
            said = {"code": VizError.code, "detail": "the command failed: see the proxy's log"}
            with suppress(ConnectionResetError):
                await self._ws.send_json({"error": said})

    async def _do(self, said: Json) -> Json:
        reader = Reader(said, "the command")
        wanted = reader.text("do", 16)
        if wanted == "show":
            return await self._control.show()
        if wanted == "forgive":
            return await self._control.forgive(reader.units("allow"))
        if wanted == "ask":
            body = said.get("body")
            if not isinstance(body, dict):
                raise InvalidRequest("the command lacks the question's body")
            return await self._control.ask(body, self._write, self._tell)
        if wanted == "open":
            return await self._control.open(self._wallet(reader), reader.units("deposit"))
        if wanted == "close":
            return await self._control.close(self._wallet(reader))
        raise InvalidRequest(f"there is no command {wanted!r}: is the proxy of another version?")

    async def _write(self, text: str) -> None:
        if text:
            await self._ws.send_json({"text": text})

    async def _tell(self, line: str) -> None:
        await self._ws.send_json({"told": line})

    def _wallet(self, reader: Reader) -> _DistantWallet:
        return _DistantWallet(self._ws, self._heard, reader.address("payer"))


class _DistantWallet:
    """The wallet in the command's process. Each signature is asked for over the socket."""

    def __init__(
        self, ws: web.WebSocketResponse, heard: asyncio.Queue[Json], address: Address
    ) -> None:
        self._ws = ws
        self._heard = heard
        self.address = address

    async def sign(self, domain: Domain, struct: Signable) -> bytes:
        await self._ws.send_json(
            {
                "sign": type(struct).__name__,
                "domain": {
                    "name": domain.name,
                    "version": domain.version,
                    "chainId": domain.chain_id,
                    "verifyingContract": domain.contract,
                },
                "value": struct_to_json(struct),
            }
        )
        try:
            async with asyncio.timeout(SIGN_TIMEOUT_S):
                answer = await self._heard.get()
        except TimeoutError as error:
            raise InvalidRequest("the wallet did not sign in time: ask again") from error
        return Reader(answer, "the signature").blob("signature", MAX_SIGNATURE_BYTES)
