"""Split a file into blocks and decode them: UnixFS over dag-pb, in the layout of ``ipfs add``.

Owns the chunk size, the balanced tree and the two protobuf messages, byte for byte as Kubo writes
them for ``--cid-version=1`` (raw leaves, 256 KiB chunks, at most 174 links a node). Does no I/O.
Invariant: children come before their parent, so a stored root implies a complete file. Source: the
dag-pb and UnixFS specifications of IPFS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, InvalidRequest
from viz.storage.cid import DAG_PB, RAW, cid_of, to_binary, to_text

CHUNK_BYTES: Final = 262_144
MAX_LINKS: Final = 174
# The largest block that IPFS implementations exchange; Viz's own blocks are much smaller.
MAX_BLOCK_BYTES: Final = 2 * 1024 * 1024
_TYPE_FILE: Final = 2


@dataclass(frozen=True, slots=True)
class IpfsBlock:
    """One block and its CID."""

    cid: Cid
    data: bytes


@dataclass(frozen=True, slots=True)
class Child:
    """A subtree: its binary CID, its bytes of the file, and the bytes of all its blocks."""

    cid: bytes
    file_bytes: int
    tree_bytes: int


@dataclass(frozen=True, slots=True)
class FileNode:
    """A decoded inner node: its bytes of the file, and for each child the CID and its bytes."""

    file_bytes: int
    children: tuple[tuple[Cid, int], ...]


class TreeBuilder:
    """Converts a stream of chunks to the blocks of a balanced tree; keeps one node a level.

    ``feed`` and ``finish`` yield children before their parent. After ``finish``, ``root`` is the
    file's CID.
    """

    def __init__(self) -> None:
        self._levels: list[list[Child]] = [[]]
        self._root: Cid | None = None

    @property
    def root(self) -> Cid:
        """The file's CID, available after ``finish``; raise RuntimeError before it."""
        if self._root is None:
            raise RuntimeError("the tree is not finished")
        return self._root

    def feed(self, chunk: bytes) -> Iterator[IpfsBlock]:
        """Add the next chunk; every chunk except the last must have CHUNK_BYTES."""
        name = cid_of(RAW, chunk)
        yield IpfsBlock(to_text(name), chunk)
        yield from self._add(0, Child(name, len(chunk), len(chunk)))

    def finish(self) -> Iterator[IpfsBlock]:
        """Close the tree; an empty file is one empty leaf."""
        if self._levels == [[]]:
            yield from self.feed(b"")
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            if self._levels[level]:
                yield from self._close(level)
            level += 1
        self._root = to_text(self._levels[level][0].cid)

    def _add(self, level: int, child: Child) -> Iterator[IpfsBlock]:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(child)
        if len(self._levels[level]) == MAX_LINKS:
            yield from self._close(level)

    def _close(self, level: int) -> Iterator[IpfsBlock]:
        children, self._levels[level] = self._levels[level], []
        data = encode_node(children)
        name = cid_of(DAG_PB, data)
        yield IpfsBlock(to_text(name), data)
        file_bytes = sum(child.file_bytes for child in children)
        tree_bytes = len(data) + sum(child.tree_bytes for child in children)
        yield from self._add(level + 1, Child(name, file_bytes, tree_bytes))


def blocks_of(chunks: Iterable[bytes]) -> Iterator[IpfsBlock]:
    """Yield the blocks of a file given as chunks of CHUNK_BYTES; the root comes last."""
    builder = TreeBuilder()
    for chunk in chunks:
        yield from builder.feed(chunk)
    yield from builder.finish()


def split(data: bytes) -> Iterator[bytes]:
    """Yield chunks of CHUNK_BYTES of these bytes."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def root_of(data: bytes) -> Cid:
    """Return the CID that ``ipfs add --cid-version=1`` gives these bytes."""
    return root_of_chunks(split(data))


def root_of_chunks(chunks: Iterable[bytes]) -> Cid:
    """Return the CID of a file given as chunks of CHUNK_BYTES; holds one block at a time."""
    (root,) = deque(blocks_of(chunks), maxlen=1)
    return root.cid


def encode_node(children: Iterable[Child]) -> bytes:
    """Return the dag-pb block of an inner file node: links first, then the UnixFS message."""
    links, sizes, total = b"", b"", 0
    for child in children:
        link = _bytes_field(1, child.cid) + _bytes_field(2, b"") + _int_field(3, child.tree_bytes)
        links += _bytes_field(2, link)
        sizes += _int_field(4, child.file_bytes)
        total += child.file_bytes
    return links + _bytes_field(1, _int_field(1, _TYPE_FILE) + _int_field(3, total) + sizes)


def decode_node(block: bytes) -> FileNode:
    """Return the node; raise BlobCorrupt if it is no file node or its sizes contradict each other.

    Every child must have at least one byte, so the work of a walk is bounded by the file's size.
    """
    names: list[Cid] = []
    message: bytes | None = None
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes):
            names.append(_link_target(value))
        elif number == 1 and isinstance(value, bytes) and message is None:
            message = value
        else:
            raise BlobCorrupt("an inner block is not a dag-pb node")
    kind, inline, total, sizes = -1, b"", 0, []
    for number, value in _fields(message or b""):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes):
            inline = value
        elif number == 3 and isinstance(value, int):
            total = value
        elif number == 4 and isinstance(value, int):
            sizes.append(value)
    if kind != _TYPE_FILE or inline or not names:
        raise BlobCorrupt("the blob is not a plain file with raw leaves")
    if len(sizes) != len(names) or sum(sizes) != total or min(sizes) < 1:
        raise BlobCorrupt("an inner block states sizes of its parts that contradict each other")
    return FileNode(total, tuple(zip(names, sizes, strict=True)))


def _link_target(link: bytes) -> Cid:
    for number, value in _fields(link):
        if number == 1 and isinstance(value, bytes):
            name = to_text(value)
            try:
                to_binary(name)
            except InvalidRequest as error:
                raise BlobCorrupt(f"an inner block links to something else: {error}") from error
            return name
    raise BlobCorrupt("an inner block has a link without a target")


def varint(value: int) -> bytes:
    """Return an unsigned number in protobuf's and multiformats' variable length (LEB128)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        value, position = _read_varint(message, position)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2 and position + value <= len(message):
            yield tag >> 3, message[position : position + value]
            position += value
        else:
            raise BlobCorrupt("an inner block is not well-formed protobuf")


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(message):
            break
        byte = message[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise BlobCorrupt("an inner block is not well-formed protobuf")
