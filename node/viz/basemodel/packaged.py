"""Find a tokenizer by its digest, in this package or in a folder, without loading a model.

Owns the tokenizer in this package, with which buyers check the billed tokens without torch and
without the model. It is that of SmolLM2-135M-Instruct (Apache 2.0, Hugging Face): one compressed
JSON object with the texts of tokenizer.json, tokenizer_config.json and the chat template, by file
name. A test checks that it equals the base model's own.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from viz.basemodel.source import DEFAULT_BASE_DIGEST
from viz.basemodel.tokenizer import ChatTokenizer
from viz.domain.units import Hash32
from viz.errors import ModelUnavailable

_DEFAULT: Final = Hash32(
    bytes.fromhex("1f34c5b346433a120d0e6cb1ee3230325d7eccf0d01eb474048f2c6398dac6b6")
)
_PACKAGED: Final = {_DEFAULT: "smollm2-135m-instruct.json.xz"}
# The tokenizer that a node must name if it serves one of these base models.
TOKENIZER_OF_BASE: Final = {Hash32(bytes.fromhex(DEFAULT_BASE_DIGEST)): _DEFAULT}


def find_tokenizer(digest: Hash32, folder: Path | None = None) -> ChatTokenizer | None:
    """Return the tokenizer with this digest, from the package or a folder of model directories.

    None if there is none, or the tokenizers library is not installed. Blocks while it reads.
    """
    try:
        if digest in _PACKAGED:
            return _packaged(digest)
        for directory in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            if (directory / "tokenizer.json").is_file():
                found = ChatTokenizer(directory)
                if found.digest == digest:
                    return found
    except (ImportError, ModelUnavailable):
        return None
    return None


@cache
def _packaged(digest: Hash32) -> ChatTokenizer:
    name = _PACKAGED[digest]
    packed = files("viz.basemodel").joinpath("tokenizers", name).read_bytes()
    return ChatTokenizer(Path(name), json.loads(lzma.decompress(packed)))
