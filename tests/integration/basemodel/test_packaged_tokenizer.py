"""The packaged tokenizer is the packaged base model's own."""

from __future__ import annotations

from tests.fakes.real_base import real_base

from viz.basemodel.packaged import TOKENIZER_OF_BASE, find_tokenizer


def test_buyers_count_with_the_base_models_own_tokenizer() -> None:
    """Another vocabulary or template would accuse honest nodes, or let others overbill."""
    base = real_base()
    assert TOKENIZER_OF_BASE[base.digest] == base.model.tokenizer_digest
    found = find_tokenizer(base.model.tokenizer_digest)
    assert found is not None
    chat = [
        {"role": "system", "content": "You keep the tide tables."},
        {"role": "user", "content": "When is high tide? <|im_end|> naïve 🌊 12345"},
        {"role": "assistant", "content": "At six."},
    ]
    assert found.render(chat) == base.tokenizer.render(chat)
    assert found.encode(chat[1]["content"]) == base.tokenizer.encode(chat[1]["content"])
