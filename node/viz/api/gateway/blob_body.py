"""Prepare the body of a gateway's answer, and yield it piece by piece.

Owns the content of a file, a part of it and a CAR, and their length, which is known before the
first byte is sent. Invariants: memory holds only the file's inner blocks and one leaf, however long
the body is; the store verifies every block; a block with another length than its parent says ends
the body.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from viz.api.gateway.representation import Representation
from viz.api.negotiation import span_of
from viz.domain.ports.blobs import BlockStore
from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobTooLarge
from viz.storage.car import car_header, section_head
from viz.storage.cid import to_binary
from viz.storage.walk import FileBlock, blocks_of_span, size_of

MAX_BODY_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlobBody:
    """The blocks of an answer in their order, and its length in bytes."""

    head: bytes
    blocks: tuple[FileBlock, ...]
    span: range | None
    length: int
    part_of: int | None = None

    @property
    def content_range(self) -> str | None:
        """The value of Content-Range; None if the body is the whole."""
        if self.span is None or self.part_of is None:
            return None
        return f"bytes {self.span.start}-{self.span.stop - 1}/{self.part_of}"


async def file_body(blobs: BlockStore, cid: Cid, span_header: str | None) -> BlobBody:
    """Return a body of the file's bytes, or of those that the Range header asks for.

    Raises RangeNotSatisfiable, BlobTooLarge and the store's errors.
    """
    root = await blobs.block(cid)
    size = size_of(cid, root)
    part = span_of(span_header, size)
    span = range(size) if part is None else part
    if len(span) > MAX_BODY_BYTES:
        raise BlobTooLarge(
            f"{cid} has {size} bytes: ask for at most {MAX_BODY_BYTES} at once by Range, or read "
            "it block by block with ?format=raw"
        )
    blocks = await blocks_of_span(blobs.block, cid, root, span)
    return BlobBody(b"", tuple(blocks), span, len(span), None if part is None else size)


async def car_body(blobs: BlockStore, cid: Cid, form: Representation) -> BlobBody:
    """Return a CAR of the blocks that ``form`` asks for.

    Raises InvalidRequest for entity-bytes after the end, BlobTooLarge and the store's errors.
    """
    root = await blobs.block(cid)
    found = [FileBlock(cid, len(root), 0, root)]
    if form.scope != "block":
        size = size_of(cid, root)
        span = range(size) if form.entity is None else form.entity.of(size)
        if len(span) > MAX_BODY_BYTES:
            raise BlobTooLarge(
                f"{cid} has {size} bytes: ask for at most {MAX_BODY_BYTES} at once with "
                "entity-bytes=FROM:TO, or read it block by block with ?format=raw"
            )
        if span or not size:
            found = await blocks_of_span(blobs.block, cid, root, span)
    if not form.duplicates:
        found = list({each.cid: each for each in found}.values())
    head = car_header(to_binary(cid))
    length = len(head) + sum(len(_head_of(each)) + each.size for each in found)
    return BlobBody(head, tuple(found), None, length)


async def pieces(blobs: BlockStore, body: BlobBody) -> AsyncGenerator[bytes, None]:
    """Yield the body; raise the store's errors, possibly after the first pieces."""
    if body.head:
        yield body.head
    for each in body.blocks:
        if body.span is not None and each.data is not None:
            continue
        data = await blobs.block(each.cid) if each.data is None else each.data
        if len(data) != each.size:
            raise BlobCorrupt(f"{each.cid} has {len(data)} bytes; its parent says {each.size}")
        if body.span is None:
            yield _head_of(each) + data
        else:
            start = max(0, body.span.start - each.offset)
            yield data[start : body.span.stop - each.offset]


def _head_of(block: FileBlock) -> bytes:
    return section_head(to_binary(block.cid), block.size)
