"""Whatever stands in a license: it is refused by name, or every form of it keeps its rules."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.licenses import WHERE, preset, values_with
from tests.unit.protocol.license import specifications as spec

from viz.domain.display import visible
from viz.errors import InvalidLicense
from viz.protocol.license_document.presets import PRESETS
from viz.protocol.license_document.reading import license_from_json, license_from_toml
from viz.protocol.license_document.writing import license_to_toml
from viz.protocol.license_forms.catalogue import forms
from viz.protocol.license_forms.cawg import training_assertion
from viz.protocol.license_forms.odrl import odrl
from viz.protocol.license_forms.rsl import rsl
from viz.protocol.license_forms.tdmrep import tdm_policy, tdm_rules


def fields(table: dict[str, Any], above: str = "") -> list[str]:
    found: list[str] = []
    for name, value in table.items():
        found.append(above + name)
        if isinstance(value, dict):
            found += fields(value, f"{above}{name}.")
    return found


WORDS = [
    "any",
    "research",
    "non-commercial",
    "0",
    "1.5",
    "ownership",
    "no-warranty",
    "agent",
    "keep",
    "none",
    "DE",
    "en",
    "2026-01-01",
    "https://a.test/",
    "mailto:a@b.test",
]
TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=40))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=4,
)
CHANGES = st.dictionaries(
    st.sampled_from([name for name in fields(preset().to_json()) if name.count(".") < 2]),
    VALUES,
    min_size=1,
    max_size=3,
)


@given(name=st.sampled_from(sorted(PRESETS)), changes=CHANGES)
def test_a_changed_license_is_refused_or_keeps_every_rule(
    name: str, changes: dict[str, Any]
) -> None:
    """No value makes a reader fail otherwise, or a form that its specification forbids."""
    deepest_last = dict(sorted(changes.items(), key=lambda pair: -pair[0].count(".")))
    try:
        document = license_from_json(json.dumps(values_with(deepest_last, name)).encode())
    except InvalidLicense as error:
        assert visible(error.detail) == error.detail and len(error.detail) < 1_000
        return
    assert license_from_json(document.canonical) == document
    assert license_from_toml(license_to_toml(document).encode()) == document
    spec.check_rsl(rsl(document, WHERE))
    spec.check_tdmrep(tdm_rules(document, WHERE))
    spec.check_odrl(odrl(document, WHERE))
    spec.check_training_assertion(training_assertion(document, WHERE))
    if (policy := tdm_policy(document, WHERE)) is not None:
        spec.check_tdm_policy(policy)
    assert len(forms(document, WHERE)) >= 8


NAMES = st.one_of(
    st.text(st.characters(blacklist_categories=()), min_size=1, max_size=30),
    st.text(st.sampled_from("<>&\"'|`[]()*_#\\{}$\u202e\u2066\ufeff\uffff\ud800 a"), min_size=1),
)


@given(name=NAMES)
def test_any_name_is_refused_or_written_in_every_form(name: str) -> None:
    """Noncharacters, halves of surrogates and markup of all kinds break no file."""
    raw = json.dumps(values_with({"licensor.name": name, "work.title": name})).encode()
    try:
        document = license_from_json(raw)
    except InvalidLicense as error:
        assert "licensor.name" in error.detail
        return
    assert license_from_toml(license_to_toml(document).encode()) == document
    spec.check_rsl(rsl(document, WHERE))
    for form in forms(document, WHERE):
        assert form.body.decode("utf-8")


@given(raw=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_bytes_that_are_no_license_are_refused(raw: bytes) -> None:
    for read in (license_from_json, license_from_toml):
        try:
            read(raw)
        except InvalidLicense:
            continue
        raise AssertionError("bytes became a license")


@given(name=st.text(st.characters(blacklist_categories=()), min_size=1, max_size=60))
def test_an_unknown_field_is_named_whatever_its_name(name: str) -> None:
    """A field's name is a stranger's text too."""
    try:
        license_from_json(json.dumps({**preset().to_json(), f"x{name}": 1}).encode())
    except InvalidLicense as error:
        assert visible(error.detail) == error.detail
        return
    raise AssertionError("an unknown field was taken")
