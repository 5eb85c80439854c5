"""Define the result of converting a source, as the parsing child sends it to its parent.

Pure values. The JSON form is only for these two processes of the same program.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

SourceKind = Literal["text", "markdown", "html", "docx", "epub", "pdf", "chats"]
Says = Literal["reserved", "allowed"]
MOST_NOTES: Final = 40


@dataclass(frozen=True, slots=True)
class OptOut:
    """One machine-readable statement on text and data mining or training.

    ``scheme`` names the standard, ``where`` the file, header or address it was found in, and
    ``value`` quotes it.
    """

    scheme: str
    says: Says
    where: str
    value: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Converted:
    """One converted source, as text or as chats, and what was done to it.

    ``text`` is the whole work file, UTF-8 with LF: prose, or JSON Lines if ``kind`` is
    ``dialogue``. ``tools`` are ``name version`` pairs of the libraries that read it.
    """

    kind: Literal["text", "dialogue"]
    text: str
    title: str = ""
    language: str = ""
    creators: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    opt_outs: list[OptOut] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)

    def note(self, words: str) -> None:
        """Record something that the creator should know about the conversion."""
        if len(self.notes) < MOST_NOTES:
            self.notes.append(words)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Converted:
        rest = {name: value[name] for name in value if name != "opt_outs"}
        return cls(**rest, opt_outs=[OptOut(**each) for each in value["opt_outs"]])
