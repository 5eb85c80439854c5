"""Send HTTP requests to URLs that strangers named: in directory entries, custodies and listings.

Owns the protection of this machine and its network against such URLs (server-side request forgery).
Invariants: connections go only to public addresses (if the operator has not allowed private ones):
each is checked again when its socket is made, however the URL was written; redirects are not
followed; no proxy of the environment, cookie or stored credential is used; every answer is limited
in bytes and time; a compressed answer is not unpacked; names are resolved in threads of their own,
so one that resolves slowly makes nothing else wait.

For a node that the person chose, use ``viz.client.node_client`` instead.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from viz.daemon_thread import in_daemon_thread
from viz.domain.http_url import http_origin
from viz.errors import AddressNotPublic, InvalidRequest, NodeRefused, NodeUnreachable
from viz.protocol.answers import read_as, value_of
from viz.protocol.wire import Json

CALL_TIMEOUT_S: Final = 20.0
MAX_JSON_BYTES: Final = 4 * 1024 * 1024
MAX_JSON_VALUES: Final = 262_144
MAX_CONNECTIONS: Final = 32
MAX_CONNECTIONS_EACH: Final = 4
# A name server can hold a thread for half a minute, and ``MAX_CONNECTIONS`` names may be asked for
# again meanwhile.
NAMES_AT_ONCE: Final = 64
NAME_WAITS_S: Final = 5.0
_PIECE_BYTES: Final = 64 * 1024
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# All IPv6 addresses of the internet are in here; site-local ones, local NAT64 (RFC 8215), IPv4
# translated (SIIT) or compatible and segment routing are outside.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_DOCUMENTATION: Final = ipaddress.IPv6Network("3fff::/20")
_RELAYS_6TO4: Final = ipaddress.IPv4Network("192.88.99.0/24")
# What stands before the IPv4 address in an ISATAP address, with and without the universal bit.
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


@dataclass(frozen=True, slots=True)
class OutboundReply:
    """A complete answer; ``headers`` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outbound:
    """An HTTP client for URLs that strangers named. Close it at the end."""

    def __init__(
        self, *, private_addresses: bool = False, connections: int = MAX_CONNECTIONS
    ) -> None:
        """``private_addresses`` also permits this machine and its networks, for local tests.

        At most ``connections`` are open at the same time.
        """
        self._private, self._connections = private_addresses, connections
        self._http: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: Json | None = None,
        max_bytes: int = MAX_JSON_BYTES,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Json:
        """Return the JSON object that a node answers.

        Raises the node's own problem if it refuses (``answered`` is then True), NodeUnreachable if
        a server in front of it answers, NodeRefused if an answer is no JSON object, and whatever
        ``call`` raises.
        """
        reply = await self.call(method, url, json=body, max_bytes=max_bytes, timeout_s=timeout_s)
        return read_as(dict, value_of(reply.body, reply.status, max_values=MAX_JSON_VALUES))

    async def call(
        self,
        method: str,
        url: str,
        *,
        json: Json | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> OutboundReply:
        """Return the answer to one request, whatever its status.

        Raises AddressNotPublic, NodeUnreachable (also after a timeout), NodeRefused for an answer
        above ``max_bytes``, a redirect or a compressed answer.
        """
        require_allowed(url, private_addresses=self._private)
        sent = {hdrs.ACCEPT_ENCODING: "identity", **(headers or {})}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session().request(
                    method, url, json=json, headers=sent, allow_redirects=False
                ) as response,
            ):
                if 300 <= response.status < 400 and response.status != 304:
                    raise NodeRefused(f"{url} answered with a redirect, which is not followed")
                if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
                    raise NodeRefused(f"{url} sent a compressed answer, which was not requested")
                body = await _bounded(response, max_bytes, url)
                lower = {name.lower(): value for name, value in response.headers.items()}
                return OutboundReply(response.status, lower, body)
        except TimeoutError as error:
            raise NodeUnreachable(f"{url} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise NodeUnreachable(f"{url} cannot be reached: {why}") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = guarded_session(
                private_addresses=self._private, connections=self._connections
            )
        return self._http


def as_sent(url: str) -> str:
    """Return a URL in the form in which it is requested: without dots (``/a/../b``) and fragment.

    Rules about paths must be compared with this form. Raises InvalidRequest if it is no URL.
    """
    try:
        return str(URL(url).with_fragment(None))
    except ValueError as error:
        raise InvalidRequest(f"{url[:200]!r} is not an address: {error}") from error


def require_allowed(url: str, *, private_addresses: bool) -> None:
    """Raise AddressNotPublic for a URL with another scheme, or with a private address in it.

    Host names are checked when the session resolves them.
    """
    parts = urlsplit(url) if http_origin(url.partition("?")[0]) else None
    host = parts.hostname or "" if parts else ""
    if not host:
        raise AddressNotPublic(f"{url[:200]!r} is not an address to ask: http(s)://host[:port]")
    if private_addresses:
        return
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return  # a name: the resolver checks its addresses
    if not is_public(address):
        raise _refused(host)


def guarded_session(
    *, private_addresses: bool, connections: int = MAX_CONNECTIONS
) -> aiohttp.ClientSession:
    """Return a session that connects to public addresses only, unless others are allowed.

    A request to another raises AddressNotPublic.
    """
    connector = aiohttp.TCPConnector(
        resolver=NameResolver(private_addresses=private_addresses),
        socket_factory=None if private_addresses else _public_socket,
        limit=connections,
        limit_per_host=MAX_CONNECTIONS_EACH,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={hdrs.USER_AGENT: "viz"},
    )


def _public_socket(found: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket for an address of ``getaddrinfo``; raise AddressNotPublic.

    The resolver does not see an address in a URL, and the URL's library reads digits and dots of
    all scripts as such.
    """
    family, kind, protocol, _, address = found
    place = str(address[0])
    if not is_public(ipaddress.ip_address(place.partition("%")[0])):
        raise _refused(place)
    return socket.socket(family, kind, protocol)


class NameResolver(AbstractResolver):
    """Resolves names in threads of its own; refuses a name with an address that is not public.

    The threads of the event loop serve everything else: parsing, files, tokenising. A stranger's
    name server can hold a thread for half a minute, so it gets none of those.
    """

    def __init__(self, *, private_addresses: bool = False) -> None:
        self._private = private_addresses
        self._places = asyncio.Semaphore(NAMES_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises AddressNotPublic if one of them is not public and only public ones are allowed, and
        OSError if there is none, or if too many names wait (aiohttp goes on with a name after its
        request was given up).
        """
        ask = partial(
            socket.getaddrinfo,
            host,
            port,
            family,
            socket.SOCK_STREAM,
            flags=socket.AI_ADDRCONFIG,
        )
        found: list[ResolveResult] = []
        try:
            async with asyncio.timeout(NAME_WAITS_S):
                await self._places.acquire()
        except TimeoutError as error:
            raise OSError(f"{host[:200]} waits behind names that resolve too slowly") from error
        asked = asyncio.ensure_future(in_daemon_thread(ask, name="viz-names"))
        asked.add_done_callback(self._answered)
        for family_, _, protocol, _, address in await asyncio.shield(asked):
            place = str(address[0])
            if not self._private and not is_public(ipaddress.ip_address(place.partition("%")[0])):
                raise _refused(host)
            found.append(
                ResolveResult(
                    hostname=host,
                    host=place,
                    port=int(address[1]),
                    family=family_,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return found

    def _answered(self, asked: asyncio.Future[Any]) -> None:
        """Free the place when the thread ends, also if nobody waits for the name any more."""
        self._places.release()
        if not asked.cancelled():
            asked.exception()

    async def close(self) -> None:
        """Nothing is open."""


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is a public internet address.

    An IPv6 address can contain an IPv4 address (mapped, 6to4, NAT64): then both must be public.
    Forms that no node on the internet has (local NAT64, IPv4-compatible, SIIT, ISATAP, site-local)
    are refused, whatever they contain.
    """
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address not in _RELAYS_6TO4
    inside = address.ipv4_mapped or address.sixtofour
    if inside is None and address in _NAT64:
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inside is not None:
        return is_public(inside)
    if address not in _GLOBAL_UNICAST or address in _DOCUMENTATION:
        return False
    return int(address) >> 32 & 0xFFFFFFFF not in _ISATAP


def _refused(host: str) -> AddressNotPublic:
    return AddressNotPublic(
        f"{host[:200]} is not a public internet address, so it is not asked. For tests on one "
        "machine or network set network.private_addresses (`viz content import` has "
        "--private-addresses)"
    )


async def _bounded(response: aiohttp.ClientResponse, max_bytes: int, url: str) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        body += piece
        if len(body) > max_bytes:
            raise NodeRefused(f"{url} answers with more than {max_bytes} bytes")
    return bytes(body)
