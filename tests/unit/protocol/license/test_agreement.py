"""A license document against on-chain terms: every field that differs is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of
from tests.fakes.licenses import changed, preset

from viz.domain.license import Terms, Use
from viz.errors import LicenseMismatch
from viz.protocol.license_document.agreement import (
    differences,
    require_agreement,
    terms_of,
)
from viz.protocol.license_document.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_document_agrees_with_its_own_terms(name: str) -> None:
    """What ``viz license new`` writes can be registered as it is."""
    document = preset(name)
    terms = terms_of(document)
    terms.check()
    require_agreement(document, terms, DEPLOYMENT)


def test_the_terms_are_those_that_the_document_says() -> None:
    assert terms_of(preset()) == Terms(
        training_fee_units=2_000_000,
        min_royalty_bps=800,
        grant_duration_s=31_536_000,
        notice_s=604_800,
        revocation_class=2,
        uses=int(Use.TRAIN | Use.EMBODY | Use.SERVE | Use.EXCERPT | Use.EVALUATE),
        approval_required=False,
    )


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("money.training_fee", {"training_fee_units": 2_000_001}),
        ("money.min_royalty_bps", {"min_royalty_bps": 799}),
        ("limits.grant_s", {"grant_duration_s": 0}),
        ("exit.notice_s", {"notice_s": 604_801}),
        ("exit.revocation_class", {"revocation_class": 1}),
        ("limits.approval_required", {"approval_required": True}),
        ("rights.copy_for_training", {"uses": 30}),
        ("rights.embody_in_parameters", {"uses": 29}),
        ("rights.serve", {"uses": 27}),
        ("rights.excerpts.permitted", {"uses": 23}),
        ("rights.evaluate", {"uses": 15}),
    ],
)
def test_a_term_that_differs_is_named(field: str, change: dict[str, Any]) -> None:
    """Nobody signs one license and publishes another."""
    document = preset()
    terms = replace(terms_of(document), **change)
    assert [each.field for each in differences(document, terms)] == [field]
    with pytest.raises(LicenseMismatch, match=f"{field} is ") as refused:
        require_agreement(document, terms, DEPLOYMENT)
    assert refused.value.extensions["fields"] == [field]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("chain.chain_id", {"chain_id": 1}),
        ("chain.registry", {"content_registry": address_of(9)}),
        ("chain.token", {"token": address_of(9)}),
        ("chain.token_decimals", {"token_decimals": 18}),
    ],
)
def test_a_document_for_another_chain_is_refused(field: str, change: dict[str, Any]) -> None:
    """The same fee is another amount of another token."""
    document = preset()
    with pytest.raises(LicenseMismatch, match=field):
        require_agreement(document, terms_of(document), replace(DEPLOYMENT, **change))


def test_every_difference_is_told_at_once() -> None:
    document = changed({"money.min_royalty_bps": 1, "limits.grant_s": 1})
    with pytest.raises(LicenseMismatch) as refused:
        require_agreement(document, terms_of(preset()), DEPLOYMENT)
    assert refused.value.extensions["fields"] == ["money.min_royalty_bps", "limits.grant_s"]


def test_fees_that_are_written_otherwise_are_equal() -> None:
    """2 and 2.000 tokens are one amount; the documents are two."""
    short, long = changed({"money.training_fee": "2"}), changed({"money.training_fee": "2.000"})
    assert terms_of(short) == terms_of(long)
    assert short.license_hash != long.license_hash
