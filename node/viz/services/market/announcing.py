"""Announce this node in the directory on chain, and take it off again.

Owns what may be announced. Invariants: no transaction is sent if the chain already has the same
entry; a URL that other nodes cannot reach is refused before a transaction, which costs gas.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog

from viz.domain.ports.chain import ChainReader, NodeEntry
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.units import Hash32
from viz.errors import ChainError, InvalidRequest
from viz.outbound import is_public
from viz.services.market.remote_nodes import origin_in

MAX_URL_BYTES: Final = 256  # of NodeDirectory
RETRY_S: Final = 60.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Announced:
    """The node's entry after a command; ``transaction`` is None if nothing had to be sent."""

    entry: NodeEntry | None
    transaction: Hash32 | None = None


class Announcing:
    """Keeps one node's entry in the directory."""

    def __init__(
        self,
        chain: ChainReader,
        writer: ChainWriter,
        *,
        public_url: str,
        age_key: str = "",
        private_addresses: bool = False,
    ) -> None:
        """Announce ``public_url`` at the start, or nothing if it is empty.

        ``age_key`` is the age recipient to which others wrap keys for this node.
        """
        self._chain, self._writer = chain, writer
        self._public_url, self._age_key = public_url, age_key
        self._private = private_addresses

    async def run(self) -> None:
        """Announce the public URL once, if there is one; retry while the chain is unreachable."""
        while self._public_url:
            try:
                done = await self.announce()
            except InvalidRequest as error:
                _log.warning("this node is not announced", reason=error.detail)
                return
            except ChainError as error:
                _log.warning("this node is not announced yet", reason=error.detail)
                await asyncio.sleep(RETRY_S)
                continue
            if done.transaction is not None and done.entry is not None:
                _log.info("this node is announced", url=done.entry.url)
            return

    async def announce(self, url: str = "") -> Announced:
        """Write this node's URL and age key into the directory, if they are not there yet.

        Without ``url`` the configured public URL is announced. Raises InvalidRequest for a URL that
        other nodes cannot reach, ChainError.
        """
        wanted = self._announceable(url or self._public_url)
        node = self._writer.address
        before = await self._chain.node_entry(node)
        if before is not None and (before.url, before.age_key) == (wanted, self._age_key):
            return Announced(before)
        sent = await self._writer.submit(Call("NodeDirectory", "announce", (wanted, self._age_key)))
        sent.require_mined("the announcement")
        return Announced(await self._chain.node_entry(node), sent.hash)

    async def withdraw(self) -> Announced:
        """Remove this node's entry; raise InvalidRequest if there is none, ChainError."""
        if await self._chain.node_entry(self._writer.address) is None:
            raise InvalidRequest("this node is not in the directory: there is nothing to withdraw")
        sent = await self._writer.submit(Call("NodeDirectory", "remove", ()))
        sent.require_mined("the withdrawal")
        return Announced(None, sent.hash)

    def _announceable(self, url: str) -> str:
        if not url:
            raise InvalidRequest(
                "there is no URL to announce: set api.public_url, or give one with --url"
            )
        origin = origin_in(url)
        if len(origin.encode()) > MAX_URL_BYTES:
            raise InvalidRequest(f"the URL has more than {MAX_URL_BYTES} bytes")
        host = urlsplit(origin).hostname or ""
        if not self._private and _is_private(host):
            raise InvalidRequest(
                f"{host} is not a public internet address, so other nodes would not ask it: "
                "announce a public one, or set network.private_addresses for tests on one machine"
            )
        return origin


def _is_private(host: str) -> bool:
    try:
        return not is_public(ipaddress.ip_address(host))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
