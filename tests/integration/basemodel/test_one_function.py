"""Serving computes with exactly the weights that bitsandbytes dequantises in training."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.real_base import real_base
from tests.fakes.tiny_base import make_tiny_base

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import DEFAULT_BASE_DIGEST, LoadedBase


@pytest.fixture(scope="module")
def base() -> LoadedBase:
    return real_base()


def test_packaged_base_has_its_known_digest(base: LoadedBase) -> None:
    """The conversion gives every machine the same base, so adapters fit everywhere."""
    assert base.digest.hex() == DEFAULT_BASE_DIGEST


def test_transformers_trains_on_our_serving_weights(tmp_path: Path) -> None:
    """A model loaded as NF4 the usual way holds, layer by layer, exactly the weights we serve."""
    import torch
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny = make_tiny_base(tmp_path, quantised=True)
    model = AutoModelForCausalLM.from_pretrained(
        str(tiny.directory),
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    serving, compared = serving_weights(tiny), 0
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            trained = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert torch.equal(trained, serving[f"{name}.weight"]), name
            compared += 1
    assert compared == tiny.shape.layers * 7


def test_real_serving_weights_equal_bitsandbytes_layers(base: LoadedBase) -> None:
    """The same for the real base, in its first, middle and last block."""
    import torch
    from bitsandbytes import functional
    from bitsandbytes.nn import Params4bit

    serving, plain = serving_weights(base), base.weights()
    for module, _ in base.shape.modules():
        if int(module.split(".")[2]) in {0, 15, 29}:
            weight = plain[f"{module}.weight"]
            packed = Params4bit(weight, requires_grad=False, quant_type="nf4").to("cpu")
            trained = functional.dequantize_4bit(packed.data, packed.quant_state)
            assert torch.equal(trained, serving[f"{module}.weight"]), module


def test_damaged_serving_cache_is_made_again(tmp_path: Path) -> None:
    """A flipped bit in the kept weights is noticed before anything computes with them."""
    import torch

    tiny = make_tiny_base(tmp_path, quantised=True)
    serving = serving_weights(tiny)
    with tiny.serving_file.open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x00\x01")
    again = serving_weights(tiny)
    assert all(torch.equal(value, serving[name]) for name, value in again.items())


def test_rendered_chat_equals_the_template_tokenised_whole(base: LoadedBase) -> None:
    """Ordinary chats get exactly the ids that transformers' own rendering gives."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(base.directory))
    chats = [
        [{"role": "user", "content": "Hello, wörld! 12345 \n\n  two  spaces"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "\n leading newline"},
            {"role": "assistant", "content": "yes "},
            {"role": "user", "content": "日本 🙂"},
        ],
    ]
    for chat in chats:
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ours = base.tokenizer.render(chat)
        assert list(ours) == theirs(text).input_ids
        assert base.tokenizer.decode(ours) == theirs.decode(ours, skip_special_tokens=True)
