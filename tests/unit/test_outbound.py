"""Addresses that strangers named are asked only on the internet, and within bounds."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from aiohttp.abc import ResolveResult

from viz.errors import AddressNotPublic
from viz.outbound import Outbound, PublicResolver, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "64:ff9b:1::7f00:1",
        "64:ff9b:1::808:808",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:7f00:1",
        "fec0::1",
        "192.88.99.1",
        "2002:c058:6301::",
        "2001:4860::5efe:10.0.0.1",
        "2001:4860::200:5efe:10.0.0.1",
        "3fff::1",
        "5f00::1",
    ],
)
async def test_no_private_address_is_asked(address: str) -> None:
    """Loopback, private networks, link-local, metadata, and IPv4 that hides in IPv6 in any form."""
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    strict = Outbound()
    with pytest.raises(AddressNotPublic, match=r"private_addresses .*--private-addresses"):
        await strict.ask("GET", f"http://{host}:8402/viz/v1/node")
    await strict.close()


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_the_internet_is_public(address: str) -> None:
    """A node elsewhere can be asked."""
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a", "http://", "http://me:secret@a", "http://a:0", "//a"]
)
async def test_only_plain_http_urls_are_asked(url: str) -> None:
    """Other schemes and credentials in a URL are nobody's node."""
    strict = Outbound()
    with pytest.raises(AddressNotPublic, match="not an address to ask"):
        await strict.ask("GET", url)
    await strict.close()


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    """A name with two answers must not be tried until the private one is taken."""

    class Two:
        async def resolve(
            self, host: str, port: int, family: socket.AddressFamily
        ) -> list[ResolveResult]:
            return [
                ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0)
                for each in ("8.8.8.8", "10.0.0.1")
            ]

    resolver = PublicResolver()
    resolver._inner = Two()  # type: ignore[assignment]
    with pytest.raises(AddressNotPublic):
        await resolver.resolve("two.example", 80)
