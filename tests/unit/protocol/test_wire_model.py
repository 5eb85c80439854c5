"""Messages of the wire: what a bad one is told, what is ignored, what Python types may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.protocol.test_payment import INFO, SESSION, SIGNER, VIEW

from viz.errors import InvalidRequest
from viz.protocol.messages import ChannelView, NodeInfo, SessionProof
from viz.protocol.wire_model import struct_from_json, struct_to_json, wire_name

PROOF = SessionProof(SIGNER, SESSION, bytes(65))


def _view(change: Callable[[dict[str, Any]], object]) -> Any:
    members = VIEW.to_json()
    change(members)
    return members


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.pop("seq"), "the channel lacks 'seq'"),
        (lambda m: m.update(seq=True), "'seq' in the channel is not a whole number of 0 to"),
        (lambda m: m.update(seq=2**53), "'seq' in the channel is not a whole number of 0 to"),
        (lambda m: m.update(seq=1.0), "'seq' in the channel is not a whole number of 0 to"),
        (lambda m: m.update(deposit=5), "'deposit' in the channel is not a decimal text of 0 to"),
        (lambda m: m.update(deposit="9" * 5000), "'deposit' in the channel is not a decimal text"),
        (lambda m: m.update(deposit="05"), "'deposit' in the channel is not a decimal text"),
        (lambda m: m.update(signer="0x12"), "'signer' in the channel is not an address"),
        (lambda m: m.update(head="0x00"), "'head' in the channel is not a 32-byte hash"),
        (lambda m: m.update(best=[[7, 5]]), "'best' in the channel is not a list of a usage line"),
        (lambda m: m.update(lines="x"), "'lines' in the channel is not a list"),
        (lambda m: m.update(lines=[{}] * 4097), "'adapterId'"),
        (lambda m: m.update(lines=m["lines"] * 4097), "'lines' in the channel is not a list of at"),
        (lambda m: m.update(lines=[m["lines"][0], {}]), "'lines[1]' lacks 'adapterId'"),
        (lambda m: m.update(lines=[5]), "'lines[0]' is not a JSON object"),
        (lambda m: m["lines"][0].update(spent=None), "'spent' in 'lines[0]' is not a decimal"),
    ],
)
def test_a_refusal_names_the_member(
    change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    """Whoever wrote the other side learns which member to correct, and where it stands."""
    with pytest.raises(InvalidRequest) as refused:
        ChannelView.from_json(_view(change))
    assert str(refused.value).startswith(sentence) or sentence in str(refused.value)


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_object_is_refused(value: object) -> None:
    """A list or a text where a message belongs is a plain refusal, not a crash."""
    with pytest.raises(InvalidRequest, match="the channel is not a JSON object"):
        ChannelView.from_json(value)


def test_a_member_inside_a_signed_struct_is_named() -> None:
    """A struct that is nested in a message is read as strictly as the message."""
    members = PROOF.to_json()
    members["session"].pop("origin")
    with pytest.raises(InvalidRequest, match="'session' lacks 'origin'"):
        SessionProof.from_json(members)
    with pytest.raises(InvalidRequest, match="the session challenge lacks 'node'"):
        struct_from_json(type(SESSION), {}, "the session challenge")
    assert struct_from_json(type(SESSION), struct_to_json(SESSION)) == SESSION


def test_members_of_a_newer_peer_are_ignored() -> None:
    """A node or buyer of tomorrow may say more; today's reads what it knows."""
    members = INFO.to_json() | {"colour": "red"}
    members["adapters"][0]["smell"] = ["of", "tar"]
    assert NodeInfo.from_json(members) == INFO


def test_null_in_an_optional_member_is_its_default() -> None:
    """A peer in a language that writes null for what it lacks is understood."""
    members = INFO.to_json()
    members["adapters"][0] |= {"name": None, "description": None, "works": None}
    (offer,) = NodeInfo.from_json(members).adapters
    assert (offer.name, offer.description, offer.works) == ("", "", ())


def test_text_that_cannot_be_sent_on_is_refused() -> None:
    """A lone surrogate is valid JSON and no Unicode: it would break whoever prints or signs it."""
    with pytest.raises(InvalidRequest, match="'tokenName'"):
        NodeInfo.from_json(INFO.to_json() | {"tokenName": "\ud800"})


def test_constructing_in_code_checks_nothing() -> None:
    """Hot paths build messages without a validation; what they build is theirs to get right."""
    assert replace(VIEW, seq=-1).to_json()["seq"] == -1


@pytest.mark.parametrize(
    ("attribute", "name"),
    [("deposit_units", "deposit"), ("close_at_s", "closeAt"), ("node", "node"), ("lines", "lines")],
)
def test_a_member_is_named_after_its_attribute(attribute: str, name: str) -> None:
    """Units stand in Python names; on the wire the format says them."""
    assert wire_name(attribute) == name
