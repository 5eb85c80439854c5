"""Names are Kubo's names, and nothing else passes for one."""

import random

import pytest

from viz.errors import BlobCorrupt, InvalidRequest
from viz.storage.cid import DAG_PB, RAW, cid_of, codec_of, to_binary, to_text, verify
from viz.storage.unixfs import CHUNK_BYTES, MAX_LINKS, root_of

# What Kubo 0.39.0 printed for `ipfs add --cid-version=1` of random.Random(size).randbytes(size).
KUBO = {
    0: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    1: "bafkreiekgmp53zydf4z2ohq3fysx3aawny2i4ah4wf4rj5el3nl2drrqa4",
    CHUNK_BYTES - 1: "bafkreih2hom5mdt3hxznampdzj6ksv6o36vafqqctcrkoz5rfhpw3eodwu",
    CHUNK_BYTES: "bafkreih2bk74eu5axngebs6vftmmkcaqboysjjy726xzy5hksnqmfgw5fy",
    CHUNK_BYTES + 1: "bafybeidbbs6ocod3v27jtr4uhvc6n55y3gbrtur3bvjsnraudtbxkozi2y",
    CHUNK_BYTES * MAX_LINKS: "bafybeih3ebhydpblov22wbakszm4spvku7hbo3oa5gdhgoh7gnub26mtx4",
    CHUNK_BYTES * MAX_LINKS + 1: "bafybeidsyc3rx6lmbjml2fg4ucagkjh3kse6tbphoyyhms46fqhmu6ujbi",
    CHUNK_BYTES * (2 * MAX_LINKS + 1) + 1: (
        "bafybeie5ewtqwjp2e4jzyb7fiqbspl7vawjql5n5uydi6ffeb5z5vco4na"
    ),
}


@pytest.mark.parametrize("size", KUBO)
def test_a_blob_has_the_name_that_kubo_gives_it(size: int) -> None:
    """An adapter stored by one backend is found by another and by any IPFS client."""
    assert root_of(random.Random(size).randbytes(size)) == KUBO[size]


def test_text_and_binary_names_are_one_to_one() -> None:
    """Names are compared as text, so there may be only one spelling."""
    name = to_text(cid_of(DAG_PB, b"node"))
    assert to_text(to_binary(name)) == name
    assert codec_of(name) == DAG_PB
    assert codec_of(to_text(cid_of(RAW, b""))) == RAW


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "../../etc/passwd",
        "QmWATWQ7fVPP2EFGu71UkfnqhYXDYH566qy47CnJDgvs8u",
        KUBO[0].upper(),
        KUBO[0][:-1],
        KUBO[0] + "a",
        KUBO[0][:-1] + "v",
        "z" + KUBO[0][1:],
        KUBO[0][:20] + "1" + KUBO[0][21:],
        KUBO[0][:20] + "é" + KUBO[0][21:],
        to_text(b"\x01\x71\x12\x20" + bytes(32)),
        to_text(b"\x01\x55\x13\x20" + bytes(32)),
        to_text(b"\x02\x55\x12\x20" + bytes(32)),
    ],
)
def test_anything_else_is_refused_as_input(text: str) -> None:
    """A name from a request becomes a file path and a URL: only canonical CIDs may."""
    with pytest.raises(InvalidRequest):
        to_binary(text)


def test_a_block_with_other_bytes_is_refused() -> None:
    """The one check that every backend's bytes go through."""
    name = to_text(cid_of(RAW, b"right"))
    verify(name, b"right")
    with pytest.raises(BlobCorrupt, match=name):
        verify(name, b"wrong")
