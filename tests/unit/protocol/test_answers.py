"""What came back is the node's answer, a page of a server in front of it, or no answer at all."""

from __future__ import annotations

import json

import pytest

from viz.errors import NodeRefused, NodeUnreachable, StaleVoucher, VizError
from viz.protocol.answers import AnswerObject, read_as, too_long, value_of
from viz.protocol.messages import ChannelView
from viz.protocol.problems import CODE_URI

PAGES = (b"", b"<html>hello</html>", b'{"node": "0x', b"[" * 99, b"NaN", b"9" * 5_000, b"\xff\xfe{")


@pytest.mark.parametrize("raw", PAGES)
@pytest.mark.parametrize("status", [200, 201, 302, 403, 404, 502])
def test_a_page_of_another_server_is_no_word_of_the_node(raw: bytes, status: int) -> None:
    """Also with status 200: a maintenance page or a login is not what a node says."""
    with pytest.raises(NodeUnreachable, match=f"in front of the node answered {status}"):
        value_of(raw, status)


def test_a_page_that_stays_names_the_address_and_one_that_passes_the_time() -> None:
    """Who meets a redirect for ever is not told to ask again in a while."""
    with pytest.raises(NodeUnreachable, match="URL"):
        value_of(b"", 301)
    with pytest.raises(NodeUnreachable, match="ask again"):
        value_of(b"", 503)
    with pytest.raises(NodeUnreachable, match="ask again"):
        value_of(b"", 429)


def test_a_nodes_problem_is_its_refusal() -> None:
    """The class, the words and the members come along."""
    said = {"type": f"{CODE_URI}stale-voucher", "code": "stale-voucher", "detail": "d", "base": "5"}
    with pytest.raises(StaleVoucher, match="d") as refused:
        value_of(json.dumps(said).encode(), 409)
    assert refused.value.answered and refused.value.extensions == {"base": "5"}


@pytest.mark.parametrize("value", [None, True, [], [{}], "text", 1e308, {}, {"signer": []}])
def test_what_is_no_answer_to_the_question_is_never_the_askers_fault(value: object) -> None:
    """An error of the wrong class ended a network's answer, and had the wrong exit code."""
    with pytest.raises(NodeRefused, match=r"not the answer of a node.*check the node's URL"):
        read_as(ChannelView.from_json, value)


def test_a_member_that_an_answer_lacks_is_the_nodes_fault() -> None:
    """The operator's commands look members up: that was a KeyError with a traceback."""
    found = value_of(b'{"a": {"b": 1}}', 200, object_hook=AnswerObject)
    assert found == {"a": {"b": 1}} and found.get("c") is None
    with pytest.raises(NodeRefused, match="'c'"):
        found["a"]["c"]


@pytest.mark.parametrize(("status", "kind"), [(200, NodeRefused), (502, NodeUnreachable)])
def test_an_answer_without_end_is_told_apart_too(status: int, kind: type[VizError]) -> None:
    """A server in front may send a long page of its own."""
    assert type(too_long(status, 1 << 20)) is kind


def test_an_answer_that_says_a_thing_twice_is_no_answer() -> None:
    """Another program may take the first value; an error page of a server in front stays one."""
    raw = b'{"amount": "1", "amount": "2"}'
    with pytest.raises(NodeRefused, match="the member 'amount' is there twice"):
        value_of(raw, 200, object_hook=AnswerObject)
    with pytest.raises(NodeUnreachable):
        value_of(raw, 502)
