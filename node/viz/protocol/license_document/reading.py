"""Read a license document from TOML or JSON, and refuse everything that is not one.

Invariants: nothing larger than ``MAX_LICENSE_BYTES`` is parsed; a duplicate member, a fraction, an
unknown field and a contradiction are refused; every refusal is an InvalidLicense that names the
field.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

from pydantic import ValidationError

from viz.domain.display import visible
from viz.domain.strict_json import load_json
from viz.errors import InvalidLicense
from viz.protocol.license_document.contradictions import require_consistent
from viz.protocol.license_document.model import FORMAT, MAX_LICENSE_BYTES, LicenseDocument

_MAX_VALUES: Final = 2_048
# What to do for each type of pydantic error, with the error's values in braces.
_MESSAGES: Final = {
    "extra_forbidden": "is unknown: remove it, or correct its name",
    "missing": "is missing: add it",
    "bool_type": "write true or false",
    "int_type": "write a whole number",
    "string_type": "write text, in quotes",
    "string_unicode": "holds half of a surrogate pair: save it as UTF-8",
    "list_type": "write a list",
    "model_type": "write a table of fields",
    "literal_error": "write {expected}",
    "greater_than_equal": "write at least {ge}",
    "less_than_equal": "write at most {le}",
    "string_too_long": "write at most {max_length} characters",
    "string_too_short": "write at least {min_length} characters",
    "too_long": "write at most {max_length} of them",
    "too_short": "write at least {min_length} of them",
}


def license_from_toml(raw: bytes) -> LicenseDocument:
    """Return the document in TOML; raise InvalidLicense, which names the field at fault."""
    _require_small(raw)
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidLicense(f"the license is not UTF-8: {error}: save it as UTF-8") from error
    except RecursionError as error:
        raise InvalidLicense("the license is nested too deeply: correct it") from error
    except ValueError as error:
        raise InvalidLicense(f"the license is not TOML: {error}") from error
    return license_from_values(_with_dates_as_text(values))


def license_from_json(raw: bytes) -> LicenseDocument:
    """Return the document in JSON, canonical or not; raise InvalidLicense naming the field."""
    _require_small(raw)
    try:
        values = load_json(raw, max_values=_MAX_VALUES, parse_constant=_refuse_constant)
    except ValueError as error:
        raise InvalidLicense(f"the license is not valid JSON: {error}") from error
    return license_from_values(values)


def license_from_values(values: object) -> LicenseDocument:
    """Return the document in parsed values; raise InvalidLicense naming the field."""
    if not isinstance(values, Mapping):
        raise InvalidLicense("the license is not a table of fields")
    if values.get("format") != FORMAT:
        raise InvalidLicense(
            f'format must be "{FORMAT}": another version of Viz wrote this, or it is not a license',
            field="format",
        )
    try:
        document = LicenseDocument.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = visible(".".join(str(part) for part in first["loc"])[:80])
        told = _MESSAGES.get(first["type"], "").format(**first.get("ctx", {}))
        why = told or first["msg"].removeprefix("Value error, ")
        raise InvalidLicense(f"{field}: {why}", field=field) from error
    return require_consistent(document)


def is_license_document(values: Mapping[str, Any]) -> bool:
    """Return whether these values are a license document, and not the older [license] table."""
    return values.get("format") == FORMAT


def verbatim_tokens(values: Mapping[str, Any]) -> object:
    """Return the longest run of tokens that the license lets an adapter repeat; None: no limit.

    Reads a license document and the older [license] table. The value of the latter is not checked.
    Raises InvalidLicense for a document that is not valid.
    """
    if is_license_document(values):
        return license_from_values(values).rights.excerpts.max_tokens
    return values.get("max_verbatim_tokens")


def _require_small(raw: bytes) -> None:
    if len(raw) > MAX_LICENSE_BYTES:
        raise InvalidLicense(
            f"the license has {len(raw)} bytes, more than {MAX_LICENSE_BYTES}: shorten it"
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _with_dates_as_text(value: Any) -> Any:
    """Return the TOML values with bare dates converted to text, as in JSON."""
    if isinstance(value, dict):
        return {name: _with_dates_as_text(each) for name, each in value.items()}
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    return value
