"""What HTTP itself refuses: in the form of every other refusal, with what its status calls for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.integration.api.harness import Node, running_node
from tests.integration.api.test_hostile_clients import connected

from viz.api.app import ALL_HEADER_BYTES, MAX_HEADER_BYTES
from viz.protocol import payment


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", payment.CHAT_PATH, {"POST"}),
        ("DELETE", payment.MODELS_PATH, {"GET", "HEAD"}),
        ("PUT", "/viz/v1/contents", {"POST"}),
        ("POST", "/", {"GET", "HEAD"}),
    ],
)
async def test_what_is_not_allowed_says_what_is(
    node: Node, method: str, path: str, allowed: set[str]
) -> None:
    """A 405 must name the methods (RFC 9110, 15.5.6), also where its body is ours."""
    async with node.http.request(method, node.url + path) as answer:
        assert answer.status == 405 and (await answer.json(content_type=None))["code"] == "http-405"
    assert {each.strip() for each in answer.headers["Allow"].split(",")} == allowed


async def raw(node: Node, sent: bytes) -> tuple[int, dict[str, str], Any]:
    """Send bytes; return the status, the headers and the body of what is answered."""
    async with connected(node) as (reader, writer):
        writer.write(sent)
        data = await reader.read(-1)
    top, _, body = data.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


GET = b"GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n"
SECRET = b"Bearer-of-a-secret"
MALFORMED = {
    "no HTTP": b"\x16\x03\x01" + SECRET + b"\r\n\r\n",
    "no method": b"()<> / HTTP/1.1\r\nX: " + SECRET + b"\r\n\r\n",
    "a header without a name": GET + b": " + SECRET + b"\r\n\r\n",
    "a header with a control character": GET + b"X: \x00" + SECRET + b"\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nHost: n\r\nContent-Length: 1\r\n"
                   b"Content-Length: 2\r\n\r\n" + SECRET,
    "a length that is none": b"POST / HTTP/1.1\r\nContent-Length: " + SECRET + b"\r\n\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
                         b"\r\n1\r\na\r\n0\r\n\r\n",
    "a chunk that is none": b"POST /viz/v1/sessions HTTP/1.1\r\nHost: n\r\n"
                            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + SECRET + b"\r\n",
}  # fmt: skip


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_no_http_is_answered_in_our_form(node: Node, sent: bytes) -> None:
    """A problem document that repeats nothing, and in the log one line without a trace."""
    with capture_logs() as lines:
        status, headers, said = await raw(node, sent)
    assert (status, said["code"], said["status"]) == (400, "http-400", 400)
    assert headers["Content-Type"].startswith("application/problem+json")
    assert said["error"]["message"] == said["detail"] and SECRET.decode() not in str(said)
    assert not [line for line in lines if line.get("exc_info") or line["log_level"] == "error"]


@pytest.mark.parametrize(
    "more",
    [
        b"X-Long: " + b"x" * (MAX_HEADER_BYTES + 9) + b"\r\n",
        b"X" * (MAX_HEADER_BYTES + 9) + b": x\r\n",
        b"".join(b"X-%d: x\r\n" % n for n in range(300)),
        b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8_000) for n in range(ALL_HEADER_BYTES // 8_000 + 1)),
    ],
    ids=["a value", "a name", "a count", "the sum"],
)
async def test_headers_beyond_their_bounds_are_431(node: Node, more: bytes) -> None:
    """Told apart from malformed ones, so that a client knows to send fewer."""
    status, _, said = await raw(node, GET + more + b"\r\n")
    assert (status, said["code"]) == (431, "http-431")
    assert "headers" in said["detail"] and "xxx" not in said["detail"]


async def test_headers_within_their_bounds_are_read(node: Node) -> None:
    """A voucher of 255 lines is a header of some twenty kilobytes."""
    long = b"X-Long: " + b"x" * (MAX_HEADER_BYTES - 100) + b"\r\n"
    async with connected(node) as (reader, writer):
        writer.write(GET + long + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/healthz", "/nowhere"])
async def test_what_is_expected_and_unknown_is_refused_in_our_form(node: Node, path: str) -> None:
    """aiohttp refuses it before the application, and its own answer is plain text."""
    async with node.http.get(node.url + path, headers={"Expect": "x"}) as answer:
        assert (answer.status, answer.content_type) == (417, "application/problem+json")
        said = await answer.json(content_type=None)
    assert said["code"] == "http-417" and "100-continue" in said["detail"]
    async with node.http.get(node.url + "/healthz", headers={"Expect": "100-continue"}) as answer:
        assert answer.status == 200


async def test_no_answer_names_the_versions_of_what_runs_here(node: Node) -> None:
    """Who looks for nodes with a known fault does not learn from us which have it."""
    for path, headers in (("/healthz", {}), ("/nowhere", {}), ("/healthz", {"Expect": "x"})):
        async with node.http.get(node.url + path, headers=headers) as answer:
            assert answer.headers.getall("Server") == ["viz"]
    _, answered, _ = await raw(node, MALFORMED["no HTTP"])
    assert answered["Server"] == "viz"
