"""Tokenizers in the form of SentencePiece's BPE with byte fallback, trained on a page of text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.fakes.tiny_base import TEMPLATE

CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "</think>", "\n\n")
# Where the file puts a space: Gemma's form, that of Mistral and newer Llamas, and Llama 2's.
FORMS = ("nowhere", "first", "always")
_DECODER: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@cache
def _trained() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return pieces and merges; no piece spans two words, as SentencePiece trains by default."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    page = Path("README.md").read_text("utf-8") + " user assistant system café 日本 " * 3
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    tokenizer.train_from_iterator(page.split("\n"), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = tuple((left, right) for left, right in model["merges"])
    return tuple(sorted(model["vocab"], key=model["vocab"].__getitem__)), merges


def write_sentencepiece(
    folder: Path, form: str = "nowhere", *, template: str | None = TEMPLATE, **spec: Any
) -> Path:
    """Write tokenizer.json and tokenizer_config.json; ``spec`` replaces members of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces, merges = _trained()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = dict.fromkeys([*CONTROL, *ADDED, *bytes_, *pieces])
    vocabulary = {token: place for place, token in enumerate(tokens)}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    bos = {"id": "<s>", "ids": [vocabulary["<s>"]], "tokens": ["<s>"]}
    opening = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    told: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocabulary[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in CONTROL,
            }
            for token in (*CONTROL, *ADDED)
        ],
        "normalizer": {
            "nowhere": _REPLACE,
            "first": None,
            "always": {
                "type": "Sequence",
                "normalizers": [{"type": "Prepend", "prepend": "▁"}, _REPLACE],
            },
        }[form],
        "pre_tokenizer": _METASPACE if form == "first" else None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [opening, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [opening, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": bos},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": _DECODER + ([] if form == "nowhere" else strip),
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges],
        },
    }
    for name, value in spec.items():
        told[name] = {**told[name], **value} if name == "model" else value
    (folder / "tokenizer.json").write_text(json.dumps(told, ensure_ascii=False))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        **({} if template is None else {"chat_template": template}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
