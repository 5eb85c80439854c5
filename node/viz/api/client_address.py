"""Find the client's address, also if the request comes through a trusted proxy.

Reads X-Forwarded-For (the usual header) or Forwarded (RFC 7239), whichever the trusted proxies set
(``api.forwarded_header``). A proxy passes the other on as its client wrote it, so it never counts.
Anybody can send these headers, so they count only if the connection comes from one of
``api.trusted_proxies``. They are read from the end, where the nearest proxy writes, up to the first
address that is not a trusted proxy.
Invariant: all IPv6 addresses of one /64 count as one client, because each subscriber has at least a
whole /64.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from aiohttp import web

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
PROXIES: Final = web.AppKey("proxies", tuple[IpNetwork, ...])
FORWARDED_HEADER: Final = web.AppKey("forwarded_header", str)
X_FORWARDED_FOR: Final = "x-forwarded-for"
FORWARDED: Final = "forwarded"
IPV6_PREFIX: Final = 64
MAX_HOPS: Final = 16
_TELL_EVERY_S: Final = 600.0
_log = structlog.get_logger()
_told_s = [-_TELL_EVERY_S]


def client_of(request: web.Request) -> str:
    """Return the client's address as text, for counting; for IPv6, its /64 network."""
    address = _behind(request)
    return (request.remote or "") if address is None else counted_as(address)


def counted_as(address: IpAddress) -> str:
    """Return the text that identifies an address in limits: for IPv6, its /64 network."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def is_in(address: IpAddress, networks: Iterable[IpNetwork]) -> bool:
    """Return whether the address is in one of the networks."""
    return any(address in network for network in networks)


def is_here(request: web.Request) -> bool:
    """Return whether the request is from a program on this machine, and not forwarded by it."""
    address = _behind(request)
    if not (is_on_socket(request) if address is None else address.is_loopback):
        return False
    # A proxy on this machine that is not in ``api.trusted_proxies`` forwards requests of anybody.
    return not any(name in request.headers for name in (X_FORWARDED_FOR, FORWARDED))


def is_on_socket(request: web.Request) -> bool:
    """Return whether the request came through the operator's socket."""
    opened = request.get_extra_info("socket")
    return opened is not None and opened.family == socket.AF_UNIX


def parse_address(text: str) -> IpAddress | None:
    """Parse an IP address; return None for any other text, and IPv4 for a mapped address."""
    try:
        address = ipaddress.ip_address(text.strip().strip('"').partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _behind(request: web.Request) -> IpAddress | None:
    peer = parse_address(request.remote or "")
    if peer is None:
        return None
    trusted = request.app[PROXIES]
    if not is_in(peer, trusted):
        if peer.is_loopback and X_FORWARDED_FOR in request.headers and not trusted:
            _tell("is not believed", "api.trusted_proxies", X_FORWARDED_FOR)
        return peer
    name = request.app[FORWARDED_HEADER]
    read, other = (_elements, X_FORWARDED_FOR) if name == FORWARDED else (_plain, FORWARDED)
    if name not in request.headers and other in request.headers:
        # It may also be the client's: to believe that would let each client choose its address.
        setting = "api.forwarded_header, if the proxy adds to that header, and only then"
        _tell("uses another header than is read", setting, other)
    return _nearest(peer, read(request.headers.getall(name, ())), trusted)


def _nearest(peer: IpAddress, hops: Sequence[str], trusted: Iterable[IpNetwork]) -> IpAddress:
    found = peer
    for hop in hops[: -MAX_HOPS - 1 : -1]:
        address = _host(hop)
        if address is None:
            break
        found = address
        if not is_in(address, trusted):
            break
    return found


def _plain(lines: Sequence[str]) -> list[str]:
    return [each for line in lines for each in line.split(",") if each.strip()]


def _elements(lines: Sequence[str]) -> list[str]:
    hops: list[str] = []
    for element in _plain(lines):
        pairs = (pair.partition("=") for pair in element.split(";"))
        hops += [value for name, _, value in pairs if name.strip().lower() == "for"]
    return hops


def _host(hop: str) -> IpAddress | None:
    """Return the address of a hop, without its port; None if it is not an address."""
    text = hop.strip().strip('"')
    if text.startswith("["):
        return parse_address(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return parse_address(text)


def _tell(why: str, setting: str, header: str) -> None:
    if time.monotonic() - _told_s[0] >= _TELL_EVERY_S:
        _told_s[0] = time.monotonic()
        _log.warning(
            f"a proxy names its clients, and {why}: all of them count as one address. "
            f"Set {setting}",
            header=header,
        )
