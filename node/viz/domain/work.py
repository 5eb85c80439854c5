"""Parse a work into chunks, and compute their Merkle tree and the commitment on chain.

Owns the two file formats, the division of each into chunks, and the proof that a chunk belongs to
a registered work.

``text``: UTF-8 prose. Line ends become LF, the text Unicode NFC; a chunk is one paragraph
(separated by blank lines, inner whitespace kept), cut at spaces when longer than a chunk may be.
``dialogue``: JSON Lines; each line is ``{"messages": [{"role", "content"}, ...]}``, optionally
one ``system`` message, then ``user`` and ``assistant`` in turn, ending with ``assistant``; a
chunk is one line in canonical JSON (RFC 8785).

Both kinds have one rule for readable text (``_unreadable``): something visible in each paragraph or
message, no control characters except line breaks and tabs, and no long row of combining marks.

Tree, positional: ``leaf = keccak256(0x00 | chunk)``, ``node = keccak256(0x01 | left | right)``,
an odd node moves up unchanged, ``root = keccak256(0x02 | uint32 count | top)``. The prefixes
keep leaves, nodes and roots apart; the count makes an index binding.
``commitment = keccak256(abi.encode(creator, salt, root))``: bound to the creator, hidden by the
salt. Invariants: the same file always gives the same chunks, root and commitment; a file is read to
its bound, so that time and memory grow with its size and no faster.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Literal, cast

import rfc8785
from eth_utils.crypto import keccak

from viz.domain.file_kind import not_utf8, what_it_is
from viz.domain.license import work_commitment
from viz.domain.strict_json import MemberTwice, load_json
from viz.domain.units import Address, Hash32
from viz.errors import CommitmentMismatch, InvalidWork

WorkKind = Literal["text", "dialogue"]

MAX_WORK_BYTES: Final = 8 * 1024 * 1024
MAX_CHUNKS: Final = 65_536
MAX_CHUNK_CHARS: Final = 1_200
MAX_LINE_BYTES: Final = 64 * 1024
MAX_MESSAGES: Final = 64
# To bring marks in a row to NFC takes a time that grows with the square of their number.
MAX_MARKS: Final = 64

# One or more blank lines.
_PARAGRAPH_GAP: Final = re.compile(r"\n[ \t\n]*\n")
_LINE: Final = re.compile(r"([^\n]*)(?:\n|\Z)")
_NOT_WHITE: Final = re.compile(r"\S")
# Where more than MAX_MARKS marks may stand in a row: no mark is a word's letter, space or ASCII.
_MARKS: Final = re.compile(rf"(?<![^\w\s\0-\x7f])[^\w\s\0-\x7f]{{{MAX_MARKS + 1},}}")
# Control characters except line breaks and tabs, and halves of surrogate pairs.
_UNFIT: Final = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# Categories without a visible shape: spaces, formats, separators, marks that need a letter.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Mn", "Me"})
# Letters and symbols without a visible shape: the Hangul fillers, the blank Braille pattern.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
_LEAF, _NODE, _ROOT = b"\x00", b"\x01", b"\x02"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a work; its leaf commits to ``data``; only a dialogue has ``messages``."""

    index: int
    data: bytes
    messages: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        """Return the chunk as text (for a dialogue, its canonical JSON)."""
        return self.data.decode()


@dataclass(frozen=True, slots=True)
class ChunkProof:
    """Proves that chunk ``index`` of ``count`` is below a root; ``siblings`` start at the leaf."""

    index: int
    count: int
    siblings: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A parsed work."""

    kind: WorkKind
    chunks: tuple[Chunk, ...]

    @property
    def merkle_root(self) -> Hash32:
        """Return the root over all chunks."""
        return merkle_root([chunk.data for chunk in self.chunks])

    def commitment(self, creator: Address, salt: bytes) -> Hash32:
        """Return the commitment that ContentRegistry stores for this work."""
        return commitment(creator, salt, self.merkle_root)

    def proofs(self) -> tuple[ChunkProof, ...]:
        """Return the proof of every chunk, in order."""
        return merkle_proofs([chunk.data for chunk in self.chunks])


def parse_work(kind: str, raw: bytes) -> Work:
    """Return the work in ``raw``; ``kind`` is ``text`` or ``dialogue``. Raises InvalidWork."""
    if len(raw) > MAX_WORK_BYTES:
        raise InvalidWork(f"the work has {len(raw)} bytes, at most {MAX_WORK_BYTES} are allowed")
    if foreign := what_it_is(raw):
        raise InvalidWork(foreign)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidWork(not_utf8(raw, error)) from error
    if kind == "text":
        chunks = _text_chunks(text)
    elif kind == "dialogue":
        chunks = _dialogue_chunks(text)
    else:
        raise InvalidWork(f"{kind!r} is not a kind of work: say text or dialogue")
    if not chunks:
        raise InvalidWork("the work is empty: its file has no text")
    return Work(kind=cast(WorkKind, kind), chunks=tuple(chunks))


def check_commitment(work: Work, creator: Address, salt: bytes, committed: Hash32) -> None:
    """Raise CommitmentMismatch if the chain's commitment is not this work's."""
    if work.commitment(creator, salt) != committed:
        raise CommitmentMismatch(
            f"this file, creator {creator} and salt do not give the commitment on chain "
            f"(0x{committed.hex()}): use exactly the file and salt that were registered"
        )


# chunks


def tokens_of(work: Work, count: Callable[[str], int]) -> int:
    """Return a work's size in tokens, by which its share of royalties is computed.

    ``count`` returns the tokens of one text.
    """
    return sum(
        count(text)
        for chunk in work.chunks
        for text in ([m.content for m in chunk.messages] or [chunk.text])
    )


def _text_chunks(text: str) -> list[Chunk]:
    chunks: list[Chunk] = []
    paragraphs = _paragraphs(text.replace("\r\n", "\n").replace("\r", "\n"))
    for number, paragraph in enumerate(paragraphs, start=1):
        if not (words := paragraph.strip()):
            continue
        if why := _unreadable(words):
            raise InvalidWork(f"paragraph {number}: the text {why}")
        for piece in _cut(unicodedata.normalize("NFC", words)):
            _append(chunks, piece.encode())
    return chunks


def _append(chunks: list[Chunk], data: bytes, messages: tuple[Message, ...] = ()) -> None:
    if len(chunks) >= MAX_CHUNKS:
        raise InvalidWork(
            f"the work has too many chunks (paragraphs of a text, lines of a dialogue): at most "
            f"{MAX_CHUNKS} are allowed, divide it into several works"
        )
    chunks.append(Chunk(len(chunks), data, messages))


def _paragraphs(text: str) -> Iterator[str]:
    start = 0
    for gap in _PARAGRAPH_GAP.finditer(text):
        yield text[start : gap.start()]
        start = gap.end()
    yield text[start:]


def _unreadable(text: str) -> str | None:
    """Return what is wrong with a text that people will read; None if nothing is wrong."""
    if (unfit := _UNFIT.search(text)) is not None:
        letter = unfit[0]
        if letter >= "\ud800":
            return "holds half of a surrogate pair: save it as UTF-8"
        return f"holds the control character U+{ord(letter):04X}: remove it"
    if any(_most_marks(found[0]) > MAX_MARKS for found in _MARKS.finditer(text)):
        return f"has more than {MAX_MARKS} combining marks in a row: remove some"
    if all(letter in _FILLERS or unicodedata.category(letter) in _UNSEEN for letter in text):
        return "is empty: it has no visible characters"
    return None


def _most_marks(text: str) -> int:
    """Return how many combining marks follow each other in ``text`` at most."""
    rows = groupby(text, lambda letter: unicodedata.category(letter).startswith("M"))
    return max((sum(1 for _ in row) for marks, row in rows if marks), default=0)


def _cut(paragraph: str) -> Iterator[str]:
    """Yield the pieces of a paragraph, which has no white space at its ends."""
    start, end = 0, len(paragraph)
    while end - start > MAX_CHUNK_CHARS:
        at = paragraph.rfind(" ", start + 1, start + MAX_CHUNK_CHARS)
        at = at if at > 0 else start + MAX_CHUNK_CHARS
        yield paragraph[start:at].rstrip()
        rest = _NOT_WHITE.search(paragraph, at)
        start = rest.start() if rest is not None else end
    if start < end:
        yield paragraph[start:]


def _dialogue_chunks(text: str) -> list[Chunk]:
    chunks: list[Chunk] = []
    for number, found in enumerate(_LINE.finditer(text), start=1):
        line = found[1]
        if not line.strip():
            continue
        if len(line.encode()) > MAX_LINE_BYTES:
            raise InvalidWork(f"line {number} is longer than {MAX_LINE_BYTES} bytes: split it")
        messages = _messages(line, number)
        canonical = rfc8785.dumps(
            {"messages": [{"content": m.content, "role": m.role} for m in messages]}
        )
        _append(chunks, canonical, messages)
    return chunks


def _messages(line: str, number: int) -> tuple[Message, ...]:
    def refuse(why: str) -> InvalidWork:
        return InvalidWork(f"line {number}: {why}")

    try:
        entry: Any = load_json(line)
    except MemberTwice as error:
        raise refuse(f"{error}: keep one of them") from error
    except (ValueError, RecursionError) as error:
        raise refuse(
            'is not JSON: write one JSON object a line, or say kind = "text" if the work is prose'
        ) from error
    if isinstance(entry, list):
        raise refuse(
            'must be an object with the one member "messages", and is a list: write one object a '
            "line (JSON Lines), without a list around them"
        )
    if not isinstance(entry, dict) or set(entry) != {"messages"}:
        raise refuse('must be an object with the one member "messages"')
    found = entry["messages"]
    if not isinstance(found, list) or not 2 <= len(found) <= MAX_MESSAGES:
        raise refuse(f'"messages" must be a list of 2 to {MAX_MESSAGES} messages')
    messages = []
    for message in found:
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise refuse('a message has exactly "role" and "content"')
        content = message["content"]
        if not isinstance(content, str):
            raise refuse('"content" must be text that is not empty')
        if why := _unreadable(content):
            raise refuse(f'"content" {why}')
        messages.append(Message(message["role"], unicodedata.normalize("NFC", content)))
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise refuse("roles must be user and assistant in turn, after at most one system")
    return tuple(messages)


# the tree


def merkle_root(chunks: Sequence[bytes]) -> Hash32:
    """Return the Merkle root of ``chunks`` (at least one) in their order."""
    return _sealed(len(chunks), _levels(chunks)[-1][0])


def merkle_proofs(chunks: Sequence[bytes]) -> tuple[ChunkProof, ...]:
    """Return each chunk's proof; ``verify_chunk`` accepts it with the root of the same chunks."""
    levels = _levels(chunks)
    proofs = []
    for index in range(len(chunks)):
        siblings, position = [], index
        for level in levels[:-1]:
            other = position ^ 1
            if other < len(level):
                siblings.append(level[other])
            position //= 2
        proofs.append(ChunkProof(index, len(chunks), tuple(siblings)))
    return tuple(proofs)


def verify_chunk(root: Hash32, chunk: bytes, proof: ChunkProof) -> bool:
    """Return whether ``chunk`` is number ``proof.index`` of the ``proof.count`` under ``root``."""
    if not 0 <= proof.index < proof.count <= MAX_CHUNKS:
        return False
    node, position, width = Hash32(keccak(_LEAF + chunk)), proof.index, proof.count
    siblings = iter(proof.siblings)
    while width > 1:
        if position % 2 or position + 1 < width:
            sibling = next(siblings, None)
            if sibling is None:
                return False
            pair = sibling + node if position % 2 else node + sibling
            node = Hash32(keccak(_NODE + pair))
        position, width = position // 2, (width + 1) // 2
    return next(siblings, None) is None and _sealed(proof.count, node) == root


def commitment(creator: Address, salt: bytes, root: Hash32) -> Hash32:
    """Return ``keccak256(abi.encode(address creator, bytes32 salt, bytes32 root))``.

    Raises InvalidWork if the salt has not 32 bytes.
    """
    if len(salt) != 32:
        raise InvalidWork(f"the salt has {len(salt)} bytes: give 32 random bytes")
    return work_commitment(creator, Hash32(salt), root)


def _levels(chunks: Sequence[bytes]) -> list[list[Hash32]]:
    if not chunks:
        raise InvalidWork("a work without chunks has no Merkle root")
    levels = [[Hash32(keccak(_LEAF + chunk)) for chunk in chunks]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        level = [
            Hash32(keccak(_NODE + below[at] + below[at + 1])) for at in range(0, len(below) - 1, 2)
        ]
        levels.append(level + below[len(level) * 2 :])
    return levels


def _sealed(count: int, top: Hash32) -> Hash32:
    return Hash32(keccak(_ROOT + count.to_bytes(4, "big") + top))
