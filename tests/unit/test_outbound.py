"""Addresses that strangers named are asked only on the internet, and within bounds."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Any

import pytest

from viz.errors import AddressNotPublic, NodeUnreachable
from viz.outbound import NameResolver, Outbound, guarded_session, is_public


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
    "host", ["127.0.0.1", "①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "[::ffff:127.0.0.1]"]
)
async def test_no_spelling_of_a_private_address_is_connected_to(host: str) -> None:
    """The URL's library reads digits of other scripts; only the socket's address is sure."""
    async with guarded_session(private_addresses=False) as session:
        with pytest.raises(AddressNotPublic):
            await session.get(f"http://{host}:8402/")
    strict = Outbound()
    with pytest.raises(AddressNotPublic):
        await strict.ask("GET", f"http://{host}:8402/")
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


async def test_one_private_address_among_public_ones_refuses_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with two answers must not be tried until the private one is taken."""

    def two(*_: object, **__: object) -> list[tuple[Any, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (each, 80)) for each in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with pytest.raises(AddressNotPublic):
        await NameResolver().resolve("two.example", 80)
    found = await NameResolver(private_addresses=True).resolve("two.example", 80)
    assert [each["host"] for each in found] == ["8.8.8.8", "10.0.0.1"]


async def test_names_that_resolve_slowly_hold_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strangers' name servers that never answer take none of the threads that parse requests."""
    answer, began = threading.Event(), asyncio.Event()
    asked: list[str] = []
    loop = asyncio.get_running_loop()

    def slow(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        loop.call_soon_threadsafe(began.set)
        answer.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr("viz.outbound.NAMES_AT_ONCE", 8)
    monkeypatch.setattr("viz.outbound.NAME_WAITS_S", 0.5)
    outbound = Outbound(connections=64)
    calls = [
        asyncio.create_task(
            outbound.call("GET", f"http://slow-{n}.example/", max_bytes=1, timeout_s=1)
        )
        for n in range(64)
    ]
    await began.wait()
    others = [asyncio.to_thread(int, number) for number in range(64)]
    assert await asyncio.gather(*others) == list(range(64))
    assert not all(call.done() for call in calls), "names still wait"
    refused = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, NodeUnreachable) for each in refused)
    assert len(asked) == 8, "names at the same time are bounded, also those given up"
    answer.set()
    with pytest.raises(AddressNotPublic):
        await outbound.call("GET", "http://later.example/", max_bytes=1)
    assert asked[8:] == ["later.example"], "those given up are not asked for any more"
    await outbound.close()
