"""A creator whom a node refuses learns which refusal it was, and the contract's own reason."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from viz.api.problems import http_problem, opaque, problem
from viz.creator.signing import registration_context
from viz.errors import (
    ChainUnreachable,
    InvalidSignature,
    NodeRefused,
    NodeUnreachable,
    RelayBusy,
    TransactionFailed,
    VizError,
)
from viz.protocol.registration import REGISTRATION_CONTEXT_PATH

CREATOR = "0x" + "11" * 20
REASON = "the contract refused: the signature's deadline has passed; sign again (SignatureExpired"
REFUSALS: list[tuple[web.Response, type[VizError], str]] = [
    (
        problem(
            TransactionFailed(
                REASON + "(5))", contractError="SignatureExpired", args={"deadline": 5}
            ),
            "i",
        ),
        TransactionFailed,
        REASON,
    ),
    (problem(RelayBusy("try again in 9 s"), "i"), RelayBusy, "try again in 9 s"),
    (problem(InvalidSignature("not signed by 0x11"), "i"), InvalidSignature, "not signed by"),
    (problem(ChainUnreachable("no RPC"), "i"), ChainUnreachable, "the chain cannot be reached now"),
    (http_problem(404, "Not Found", "i"), NodeRefused, "Not Found"),
    (opaque("some-id"), NodeRefused, "some-id"),
    (web.json_response(["no", "problem"], status=418), NodeUnreachable, "answered 418"),
]


@pytest.fixture
async def refuse() -> AsyncIterator[tuple[str, list[web.Response]]]:
    """Yield the address of a node that answers what the list holds."""
    answers: list[web.Response] = []

    async def answer(_: web.Request) -> web.Response:
        return answers.pop()

    app = web.Application()
    app.add_routes([web.get(REGISTRATION_CONTEXT_PATH, answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", answers
    await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "kind", "said"), REFUSALS, ids=[kind.__name__ for _, kind, _ in REFUSALS]
)
async def test_a_refusal_keeps_its_class_and_its_reason(
    refuse: tuple[str, list[web.Response]], answer: Any, kind: type[VizError], said: str
) -> None:
    """A script can tell a busy node from a wrong signature and from the contract's word."""
    url, answers = refuse
    answers.append(answer)
    with pytest.raises(VizError, match=re.escape(said)) as caught:
        await registration_context(CREATOR, url)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    if kind is TransactionFailed:
        assert caught.value.extensions["contractError"] == "SignatureExpired"
        assert caught.value.extensions["args"] == {"deadline": 5}
