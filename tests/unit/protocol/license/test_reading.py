"""What is no license: each is refused with one sentence that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.licenses import changed, preset, values_with

from viz.domain.units import ZERO_ADDRESS
from viz.errors import InvalidLicense
from viz.protocol.license_document.model import MAX_LICENSE_BYTES, LicenseDocument
from viz.protocol.license_document.presets import PRESETS
from viz.protocol.license_document.reading import (
    license_from_json,
    license_from_toml,
    license_from_values,
    verbatim_tokens,
)
from viz.protocol.license_document.writing import license_to_toml


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_license_that_reads_as_it_was_written(name: str) -> None:
    """A creator can sign a preset unchanged, and TOML and JSON are the same document."""
    document = preset(name)
    assert license_from_toml(license_to_toml(document).encode()) == document
    assert license_from_json(document.canonical) == document


def test_a_bare_date_of_toml_is_the_date_as_text() -> None:
    written = license_to_toml(preset()).replace('"2026-11-30"', "2026-11-30")
    assert license_from_toml(written.encode()) == preset()


def test_names_of_every_script_are_taken() -> None:
    """Only characters that nobody can write are refused; the others are shown."""
    names = ["Zoë 山田", "נועה", "\u202eevil", "a\u200db", "</td><script>alert(1)</script>"]
    assert changed({"work.creators": names}).work.creators == names


FIELDS: list[tuple[str, Any, str]] = [
    ("surprise", 1, "unknown"),
    ("rights.resell", True, "unknown"),
    ("rights.serve", ..., "missing"),
    ("rights.serve", "yes", "true or false"),
    ("rights.serve", 1, "true or false"),
    ("limits.grant_s", True, "whole number"),
    ("limits.grant_s", 1.5, "whole number"),
    ("limits.grant_s", 60.0, "whole number"),
    ("limits.grant_s", -1, "at least 0"),
    ("limits.grant_s", 2**32, "at most 4294967295"),
    ("limits.grant_s", 10**400, "at most"),
    ("limits.territory", ["DE", "DE"], "twice"),
    ("limits.territory.0", None, "quotes"),
    ("limits.territory.0", "EU", "country code"),
    ("limits.bases.0", "0xabc", "digest"),
    ("limits.field", "space", "'any'"),
    ("money.min_royalty_bps", 10_001, "at most 10000"),
    ("money.training_fee", "-1", "amount"),
    ("money.training_fee", "1e6", "amount"),
    ("money.training_fee", "1_000", "amount"),
    ("money.training_fee", "\u0661", "amount"),
    ("money.training_fee", 2, "quotes"),
    ("money.training_fee", "0.0000001", "at most 6 decimals"),
    ("money.training_fee", "9" * 29, "is not an amount"),
    ("exit.notice_s", 90 * 86_400 + 1, "at most 7776000"),
    ("exit.revocation_class", 3, "0, 1 or 2"),
    ("work.title", "", "empty"),
    ("work.title", " \u3000", "empty"),
    ("work.title", "a\x1b[2Jb", "U+001B"),
    ("work.title", "two\nlines", "U+000A"),
    ("work.title", "\ud800", "surrogate"),
    ("work.title", "a\x9bb", "U+009B"),
    ("work.title", "x" * 201, "200"),
    ("work.creators", [], "at least 1 of them"),
    ("work.language", "english!", "BCP 47"),
    ("work.sha256", "0x" + "AB" * 32, "digest"),
    ("work.published", "2026-02-30", "date"),
    ("work.published", "20260228", "2026-02-28"),
    ("issued", "", "10"),
    ("text", "x" * 8_001, "8000"),
    ("licensor.contact", "javascript:alert(1)", "address"),
    ("licensor.contact", 'https://a.test/"><script>', "address"),
    ("licensor.contact", "mailto:a@b.test?subject=x", "address"),
    ("licensor.wallet", "0x40adc39c8b89278e06688e90d0de03ccd7da471f", "checksummed"),
    ("licensor.wallet", "0x40Adc39c8B89278e06688E90D0DE03CCD7DA471f", "checksum"),
    ("chain.chain_id", 0, "at least 1"),
    ("chain.chain_id", 2**53, "at most"),
    ("chain.token_symbol", "1.5", "token symbol"),
]


@pytest.mark.parametrize(("field", "value", "says"), FIELDS)
def test_a_field_that_is_wrong_is_named(field: str, value: Any, says: str) -> None:
    path, _, last = field.rpartition(".")
    change = {path: [value]} if last.isdigit() else {field: value}
    with pytest.raises(InvalidLicense, match=r".") as refused:
        license_from_values(values_with(change))
    assert field in refused.value.detail and says in refused.value.detail
    assert refused.value.extensions["field"] == field
    assert len(refused.value.detail) < 400


PUBLIC: dict[str, Any] = {"work.acquired": "public-domain", "warranties.given": ["authority"]}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rights.copy_for_training": False}, "rights.embody_in_parameters"),
        ({"rights.embody_in_parameters": False}, "rights.serve"),
        (
            {"rights.embody_in_parameters": False, "rights.serve": False, "rights.compose": False,
             "rights.export": True},
            "rights.export",
        ),
        (
            {"rights.copy_for_training": False, "rights.embody_in_parameters": False,
             "rights.serve": False, "rights.compose": False, "rights.evaluate": False,
             "rights.excerpts.permitted": False},
            "rights.copy_for_training",
        ),
        ({"rights.excerpts.max_tokens": 0}, "rights.excerpts.max_tokens"),
        ({"exit.effect": "keep"}, "exit.effect"),
        ({"exit.revocation_class": 0}, "exit.effect"),
        ({"warranties.disclaimed": ["no-warranty"]}, "warranties.disclaimed"),
        ({"licensor.capacity": "agent"}, "work.acquired"),
        ({"licensor.capacity": "agent", "work.acquired": "assigned"}, "licensor.capacity"),
        ({"work.third_party": True}, "work.third_party"),
        ({"work.acquired": "public-domain"}, "work.acquired"),
        ({**PUBLIC, "money.min_royalty_bps": 0}, "money.training_fee"),
        ({**PUBLIC, "money.training_fee": "0.00"}, "money.min_royalty_bps"),
        ({"work.created": "2099-01-01"}, "work.created"),
        ({"work.created": "2020-02-02", "work.published": "2020-02-01"}, "work.created"),
        ({"licensor.wallet": ZERO_ADDRESS}, "licensor.wallet"),
    ],
)  # fmt: skip
def test_a_license_that_contradicts_itself_is_refused(changes: dict[str, Any], field: str) -> None:
    """Two readers must not take one document for two licenses."""
    with pytest.raises(InvalidLicense, match=f"^{field} contradicts the license: "):
        changed(changes)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a table"),
        (b"{}", "format"),
        (b'{"format": "viz-license/2"}', "format"),
        (b'{"format": "viz-license/1", "format": "viz-license/1"}', "twice"),
        (as_json(values_with({})).replace(b'"serve": true', b'"serve": true, "serve": false'),
         "twice"),
        (as_json(values_with({})).replace(b"31536000", b"NaN"), "NaN"),
        (as_json(values_with({})).replace(b"31536000", b"-Infinity"), "Infinity"),
        (as_json(values_with({})).replace(b"31536000", b"1e400"), "whole number"),
        (as_json(values_with({})).replace(b"31536000", b"9" * 5_000), "digits"),
        (b"[" * 1_000, "nested"),
        (b"[" * 20_000, "more than"),
        ('{"format": "viz-license/1"}'.encode("utf-16"), "JSON"),
        (b" " * (MAX_LICENSE_BYTES + 1), "more than"),
    ],
)  # fmt: skip
def test_json_that_is_no_license_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidLicense, match=says):
        license_from_json(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"format = ", "not TOML"),
        (b'format = "viz-license/1"\nformat = "viz-license/1"', "not TOML"),
        (b"x = " + b"9" * 5_000, "not TOML"),
        (b"x = " + b"[" * 20_000, "nested|not TOML"),
        (b'format = "\xff"', "UTF-8"),
        (b"issued = 2026-11-30T10:00:00Z", "format"),
        (license_to_toml(preset()).replace("31536000 ", "nan ").encode(), "limits.grant_s"),
        (license_to_toml(preset()).replace('"2026-11-30"', "2026-11-30T10:00:00Z").encode(),
         "issued"),
        (b"#" * (MAX_LICENSE_BYTES + 1), "more than"),
    ],
)  # fmt: skip
def test_toml_that_is_no_license_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidLicense, match=says):
        license_from_toml(raw)


def test_no_field_has_a_default() -> None:
    """What is hashed is what is written: a field that is left out is missing, everywhere."""
    values = preset().to_json()

    def paths(table: dict[str, Any], above: str = "") -> list[str]:
        found = [above + name for name in table]
        for name, value in table.items():
            if isinstance(value, dict):
                found += paths(value, f"{above}{name}.")
        return found

    every = paths(values)
    assert len(every) == 57
    for path in every:
        with pytest.raises(InvalidLicense, match=path.partition(".")[0]):
            license_from_values(values_with({path: ...}))
    assert all(field.is_required() for field in LicenseDocument.model_fields.values())


def test_the_limit_on_repetition_is_read_from_both_kinds_of_license() -> None:
    """A trainer keeps the limit of a document as it keeps that of the older table."""
    assert verbatim_tokens(preset().to_json()) == 64
    assert verbatim_tokens(preset("no-excerpt").to_json()) == 24
    assert verbatim_tokens({"text": "...", "max_verbatim_tokens": 10}) == 10
    assert verbatim_tokens({"text": "..."}) is None
    with pytest.raises(InvalidLicense):
        verbatim_tokens({"format": "viz-license/1"})
