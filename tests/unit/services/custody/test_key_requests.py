"""What an operator is told of a custodian that refuses a key, or answers something else."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of

from viz.domain.ports.custody import KeyKind
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import Cid
from viz.errors import InvalidRequest, NodeRefused, NoLiveGrant, VizError
from viz.services.custody.key_requests import KeyRequests
from viz.storage.sealing import new_identity

CUSTODIAN, ORIGIN = address_of(0xC0), "https://custodian.example"
WHO = f"the custodian {CUSTODIAN} at {ORIGIN}"


class Peers:
    """Answers every question with one object or one refusal."""

    def __init__(self, answer: dict[str, Any] | VizError) -> None:
        self._answer = answer

    async def ask(self, method: str, url: str, **sent: Any) -> dict[str, Any]:
        if isinstance(self._answer, VizError):
            raise self._answer
        return self._answer


async def asked(answer: dict[str, Any] | VizError) -> None:
    requests = KeyRequests(
        cast(PeerHttp, Peers(answer)),
        DEPLOYMENT,
        node=address_of(0xA0),
        key=b"\x07" * 32,
        age_identity=new_identity(),
    )
    await requests.key(ORIGIN, CUSTODIAN, KeyKind.WORK, 2, Cid("bafkqaaa"))


def answered(kind: type[VizError]) -> VizError:
    error = kind("no because")
    error.answered = True
    return error


async def test_a_custodian_that_answers_something_else_is_named() -> None:
    """The person who activates an adapter was told that its own request lacks a member."""
    with pytest.raises(NodeRefused, match=r"it lacks|lacks") as refused:
        await asked({"key": "0x00"})
    assert refused.value.detail.startswith(f"{WHO} gave no usable answer: ")


@pytest.mark.parametrize(
    ("kind", "told"),
    [(NoLiveGrant, NoLiveGrant), (NodeRefused, NodeRefused), (InvalidRequest, NodeRefused)],
)
async def test_a_custodians_words_are_told_as_its_own(
    kind: type[VizError], told: type[VizError]
) -> None:
    """Its refusal was told as this node's; one of the form as the fault of the asker."""
    with pytest.raises(told) as refused:
        await asked(answered(kind))
    assert type(refused.value) is told and refused.value.detail == f"{WHO} says: no because"
