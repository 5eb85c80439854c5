"""Define messages as dataclasses, and convert them to JSON and back.

A message is a frozen, slotted dataclass that derives from ``WireModel``. Its constructor checks
nothing; ``from_json`` checks every member, in pydantic's compiled core. A member's JSON name is its
attribute in camelCase without the unit (``deposit_units``: "deposit"); its annotation defines its
form and its bound. Classes of ``viz.domain`` are converted by a ``record`` of their members, and
signed structs by their EIP-712 type.

Invariants: ``from_json(to_json(message)) == message``; every failure is one InvalidRequest that
names the member; members that are not known are ignored, so that a newer peer can add some
(docs/adr/0012); a member that is None is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, Final, Generic, Self, TypeVar

from pydantic import ConfigDict, FailFast, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticUseDefault, core_schema

from viz.domain.eip712 import Struct, layout_of
from viz.domain.units import UINT32_MAX, UINT96_MAX, AdapterId, Address, Hash32, Units, hex_of
from viz.domain.usage import Lines, spelled_lines
from viz.errors import InvalidRequest
from viz.protocol.wire import (
    JSON_INTEGER_MAX,
    MAX_TEXT_CHARS,
    Json,
    read_address,
    read_decimal,
    read_hash,
    read_hex,
    read_lines,
    read_object,
)

T = TypeVar("T")
S = TypeVar("S", bound=Struct)
_UNIT_SUFFIXES: Final = ("_units", "_s")


def wire_name(attribute: str) -> str:
    """Return an attribute's name in JSON: camelCase, without the unit."""
    for suffix in _UNIT_SUFFIXES:
        attribute = attribute.removesuffix(suffix)
    first, *others = attribute.split("_")
    return first + "".join(word.capitalize() for word in others)


# how single values look


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """An annotation: ``schema`` defines the member's form in JSON, for any Python type."""

    schema: CoreSchema

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return self.schema


def whole(maximum: int) -> Form:
    """Return the form of a JSON integer of 0 to ``maximum``."""
    return _said(
        core_schema.int_schema(strict=True, ge=0, le=maximum), f"a whole number of 0 to {maximum}"
    )


def number(maximum: float) -> Form:
    """Return the form of a JSON number of 0 to ``maximum``."""
    return _said(
        core_schema.float_schema(strict=True, ge=0, le=maximum), f"a number of 0 to {maximum}"
    )


def text(max_chars: int = MAX_TEXT_CHARS) -> Form:
    """Return the form of a text with at most ``max_chars`` characters of valid Unicode."""
    return _said(
        core_schema.str_schema(strict=True, max_length=max_chars),
        f"a text of at most {max_chars} characters",
    )


def decimal(maximum: int = UINT96_MAX) -> Form:
    """Return the form of a wide integer: a decimal text, since a JSON number may be a float."""
    return _plain(lambda value: read_decimal(value, maximum), str)


def blob(max_bytes: int) -> Form:
    """Return the form of bytes: hexadecimal with 0x."""
    return _plain(lambda value: read_hex(value, max_bytes), hex_of)


@dataclass(frozen=True, slots=True)
class AtMost:
    """An annotation: a bounded tuple of messages; reading stops at the first wrong one."""

    items: int

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return handler(Annotated[source, Field(max_length=self.items), FailFast()])


class NullIsAbsent:
    """An annotation: null means the default, as if the member were not there."""

    @staticmethod
    def __get_pydantic_core_schema__(source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_default_for_null, handler(source))


def _default_for_null(value: object) -> object:
    if value is None:
        raise PydanticUseDefault
    return value


def _said(schema: CoreSchema, what: str) -> Form:
    return Form(
        core_schema.custom_error_schema(schema, custom_error_type="form", custom_error_message=what)
    )


def _plain(read: Callable[[Any], Any], write: Callable[[Any], Any]) -> Form:
    return Form(
        core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(write)
        )
    )


UINT32: Final = whole(UINT32_MAX)
ADDRESS: Final = Form(core_schema.no_info_plain_validator_function(read_address))
HASH32: Final = _plain(read_hash, hex_of)
LINES: Final = _plain(read_lines, spelled_lines)
JSON_OBJECT: Final = _plain(read_object, dict)
BOOLEAN: Final = _said(core_schema.bool_schema(strict=True), "true or false")

Uint32 = Annotated[int, UINT32]
JsonInteger = Annotated[int, whole(JSON_INTEGER_MAX)]
AdapterNumber = Annotated[AdapterId, UINT32]
UnitsText = Annotated[Units, decimal()]
AddressText = Annotated[Address, ADDRESS]
Hash32Hex = Annotated[Hash32, HASH32]
UsageLines = Annotated[Lines, LINES]


# classes without a JSON form of their own


def record(kind: type[Any], members: Mapping[str, tuple[str, Form]]) -> Form:
    """Return the form of a frozen, slotted dataclass: JSON name and form by attribute."""
    defaults = {each.name: each.default for each in fields(kind)}
    return Form(
        core_schema.dataclass_schema(
            kind,
            core_schema.dataclass_args_schema(
                kind.__name__,
                [
                    core_schema.dataclass_field(
                        attribute,
                        form.schema
                        if defaults[attribute] is MISSING
                        else core_schema.with_default_schema(
                            core_schema.no_info_before_validator_function(
                                _default_for_null, form.schema
                            ),
                            default=defaults[attribute],
                        ),
                        validation_alias=name,
                        serialization_alias=name,
                    )
                    for attribute, (name, form) in members.items()
                ],
            ),
            list(members),
            slots=True,
        )
    )


def signed_form(kind: type[Struct]) -> Form:
    """Return the form of a signed struct: its members with their signed names and types."""
    return record(
        kind,
        {
            member.attribute: (member.name, _form_of(kind, member.solidity_type))
            for member in layout_of(kind).members
        },
    )


_FIXED: Final = {"address": ADDRESS, "bytes32": HASH32, "string": text(), "bool": BOOLEAN}


def _form_of(kind: type[Struct], solidity_type: str) -> Form:
    if solidity_type.startswith("uint"):
        bits = int(solidity_type.removeprefix("uint"))
        return whole((1 << bits) - 1) if bits <= 32 else decimal((1 << bits) - 1)
    return _FIXED.get(solidity_type) or signed_form(kind.NESTED[solidity_type])


class Signed:
    """An annotation: the member is a signed struct."""

    @staticmethod
    def __get_pydantic_core_schema__(
        source: type[Struct], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return signed_form(source).schema


# whole messages


class Codec(Generic[T]):
    """Reads and writes one kind of message."""

    def __init__(self, kind: Any) -> None:
        adapter: TypeAdapter[T] = TypeAdapter(kind)
        # Use the compiled validator and serializer directly: the methods of TypeAdapter take longer
        # than a small message does.
        self._validate, self._dump = adapter.validator.validate_python, adapter.serializer.to_python

    def read(self, value: object, where: str) -> T:
        """Return the message in JSON values; raise InvalidRequest that names a wrong member."""
        try:
            read: T = self._validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise InvalidRequest(_sentence(first, where)) from error
        return read

    def json(self, value: T) -> Json:
        """Return the message as JSON values."""
        found: Json = self._dump(value, mode="json", by_alias=True, exclude_none=True)
        return found


class WireModel:
    """Base class of the messages; ``WHERE`` is the message's name in errors."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=wire_name, extra="ignore"
    )
    WHERE: ClassVar[str] = "the message"

    @classmethod
    def from_json(cls, value: object, where: str = "") -> Self:
        """Return the message in JSON values; raise InvalidRequest that names a wrong member."""
        codec: Codec[Self] = _codec_of(cls, cls)
        return codec.read(value, where or cls.WHERE)

    def to_json(self) -> Json:
        """Return the message as JSON values."""
        return _codec_of(type(self), type(self)).json(self)


def struct_to_json(struct: Struct) -> Json:
    """Return a signed struct's members by their signed names."""
    kind = type(struct)
    return _codec_of(kind, Annotated[kind, Signed]).json(struct)


def struct_from_json(kind: type[S], value: object, where: str = "") -> S:
    """Return the signed struct of this class; raise InvalidRequest if a member does not fit."""
    codec: Codec[S] = _codec_of(kind, Annotated[kind, Signed])
    return codec.read(value, where or kind.__name__)


_CODECS: Final[dict[type[Any], Codec[Any]]] = {}


def _codec_of(kind: type[Any], annotation: Any) -> Codec[Any]:
    """Return the codec of a class, compiled at its first use."""
    known = _CODECS.get(kind)
    if known is None:
        known = _CODECS[kind] = Codec(annotation)
    return known


def _sentence(error: ErrorDetails, where: str) -> str:
    """Return one line for a failure: the member, its message, and what it must be."""
    path = ""
    for step in error["loc"][:-1]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    inside = repr(path) if path else where
    last = error["loc"][-1] if error["loc"] else ""
    kind, told = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{inside} lacks {last!r}"
    if kind == "dataclass_type":
        whole_path = f"{path}[{last}]" if isinstance(last, int) else f"{path}.{last}".strip(".")
        return f"{repr(whole_path) if whole_path else where} is not a JSON object"
    if kind == "value_error":
        what = str(told["error"])
    elif kind == "too_long":
        what = f"a list of at most {told['max_length']}"
    elif kind == "literal_error":
        what = told["expected"]
    else:
        what = error["msg"] if kind == "form" else "a list"
    return f"{last!r} in {inside} is not {what}"
