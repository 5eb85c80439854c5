"""The tokenizer that buyers count with is the one that its digest names, and needs no model."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.tiny_base import _write_tokenizer

from viz.basemodel.packaged import TOKENIZER_OF_BASE, find_tokenizer
from viz.basemodel.source import DEFAULT_BASE_DIGEST
from viz.basemodel.tokenizer import ChatTokenizer
from viz.domain.units import ZERO_HASH, Hash32


def test_the_packaged_tokenizer_is_what_its_digest_says() -> None:
    """A file that was changed would count otherwise than the nodes it is compared with."""
    (digest,) = TOKENIZER_OF_BASE.values()
    found = find_tokenizer(digest)
    assert found is not None and found.digest == digest
    assert find_tokenizer(digest) is found, "it is read once a process"
    # Counted by transformers' own tokenizer of the model, from its template.
    assert len(found.render([{"role": "user", "content": "When is high tide?"}])) == 35
    assert found.count("high tide at six") == 4


def test_the_default_base_is_known_by_its_tokenizer() -> None:
    """A node that serves the default base may name no other tokenizer."""
    assert Hash32(bytes.fromhex(DEFAULT_BASE_DIGEST)) in TOKENIZER_OF_BASE


def test_another_tokenizer_is_found_by_digest_in_a_folder(tmp_path: Path) -> None:
    """Whoever buys from another base's nodes adds its tokenizer; damaged ones are passed over."""
    assert find_tokenizer(ZERO_HASH, tmp_path / "none") is None
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "readme.txt").write_text("no tokenizer")
    _write_tokenizer(tmp_path / "b")
    digest = ChatTokenizer(tmp_path / "b").digest
    found = find_tokenizer(digest, tmp_path)
    assert found is not None and found.digest == digest
    assert find_tokenizer(ZERO_HASH, tmp_path) is None
    (tmp_path / "b" / "tokenizer.json").write_text("{")
    assert find_tokenizer(digest, tmp_path) is None
