"""The tree's encoding is read back exactly, and hostile blocks end in one error class."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from viz.errors import BlobCorrupt
from viz.storage.cid import RAW, cid_of, to_text
from viz.storage.unixfs import Child, decode_node, encode_node

CHILDREN = st.lists(
    st.builds(
        Child,
        st.binary(max_size=8).map(lambda data: cid_of(RAW, data)),
        st.integers(1, 2**40),
        st.integers(1, 2**40),
    ),
    min_size=1,
    max_size=200,
)


@given(CHILDREN)
def test_a_node_is_read_back_as_it_was_written(children: list[Child]) -> None:
    """Reading follows the same tree that writing laid out."""
    node = decode_node(encode_node(children))
    assert node.file_bytes == sum(child.file_bytes for child in children)
    assert node.children == tuple((to_text(child.cid), child.file_bytes) for child in children)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_node_or_corrupt(block: bytes) -> None:
    """A hostile gateway chooses these bytes freely: no other exception may escape."""
    with contextlib.suppress(BlobCorrupt):
        decode_node(block)


@given(CHILDREN, st.data())
def test_a_damaged_node_is_a_node_or_corrupt(children: list[Child], data: st.DataObject) -> None:
    """Near-valid bytes reach deeper into the parser than random ones."""
    block = bytearray(encode_node(children))
    position = data.draw(st.integers(0, len(block) - 1))
    block[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(block)))
    with contextlib.suppress(BlobCorrupt):
        decode_node(bytes(block[:cut]))
