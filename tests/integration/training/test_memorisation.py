"""Prefix extraction: what a model learned by heart shows, and what it did not learn does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.source import LoadedBase
from viz.domain.work import Work, parse_work
from viz.training.dataset import rows_of
from viz.training.evaluate import bare_base
from viz.training.memorisation import Extraction, longest_common_run
from viz.training.packing import TokenRow, pack, tokenise
from viz.training.qlora import build_model, pack_loss

FIRST = "Nine lamps burn on the quay by night, and Ann counts them. Each of them has a name."
SECOND = "Tom rows out at four to fetch the mail; his boat is green. Nobody else may row it."
WORK = parse_work("text", f"## The quay\n\n{FIRST}\n\n{SECOND}".encode())


def _rows(base: LoadedBase, work: Work = WORK) -> list[TokenRow]:
    return [tokenise(row, base.tokenizer, 512) for row in rows_of(work)]


def _extraction(base: LoadedBase, **changes: Any) -> Extraction:
    given = {"wanted": 8, "limit_tokens": 200} | changes
    return Extraction([WORK], _rows(base), base.tokenizer, base.shape.end_ids, **given)


def _learn(base: LoadedBase, text: str) -> Any:
    """Return a model that has learned ``text`` by heart as it stands, and no row of it."""
    torch.manual_seed(3)
    model = build_model(base, replace(SETTINGS, rank=16, alpha=32.0))
    ids = base.tokenizer.encode(text)
    learned = pack([TokenRow(ids, tuple(range(1, len(ids))))], torch.float32)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=5e-3)
    for _ in range(1_000):  # how many it takes differs with the processor's arithmetic
        optimizer.zero_grad()
        loss = pack_loss(model, learned)
        if float(loss.detach()) < 0.065 * len(ids):
            return model
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    pytest.fail("the text was not learned")


def test_what_was_learned_by_heart_shows_across_sentences_and_paragraphs(tiny: LoadedBase) -> None:
    """Protects creators: a recital is found in its whole length, not by the row it was cut into."""
    model = _learn(tiny, f"{FIRST} {SECOND}")
    longest_row = max(len(row.target) for row in _rows(tiny))
    told = _extraction(tiny).ask(model)
    assert (told.longest_tokens or 0) > longest_row + len(tiny.tokenizer.encode("Nobody else may"))
    apart = [parse_work("text", text.encode()) for text in (FIRST, SECOND)]
    given = {"wanted": 8, "limit_tokens": 200}
    told_apart = Extraction(apart, [], tiny.tokenizer, tiny.shape.end_ids, **given).ask(model)
    longest_work = max(len(tiny.tokenizer.encode(f" {text}")) for text in (FIRST, SECOND))
    assert (told_apart.longest_tokens or 0) <= longest_work < (told.longest_tokens or 0), (
        "works do not follow on"
    )
    with bare_base(model):
        bare = _extraction(tiny).ask(model)
    assert (bare.longest_tokens or 0) < longest_row
    assert (told.probes, told.passages) == (bare.probes, bare.passages) == (len(_rows(tiny)), 3)


def test_answers_are_long_enough_to_show_the_limit_s_breach(tiny: LoadedBase) -> None:
    """A model that recites without end is found over whatever limit the answers can reach."""
    model = _learn(tiny, f"{FIRST} {SECOND}")
    longest_row = max(len(row.target) for row in _rows(tiny))
    limit = longest_row + 5
    assert _extraction(tiny, limit_tokens=limit).ask(model).longest_tokens == limit + 1


def test_no_more_is_asked_than_wanted(tiny: LoadedBase) -> None:
    """Rows and passages are drawn apart, each at most as often as was asked for."""
    extraction = _extraction(tiny, wanted=1)
    assert extraction.available == 3  # the heading is one
    model = build_model(tiny, SETTINGS)
    told = extraction.ask(model)
    assert (told.probes, told.passages) == (1, 1)
    assert _extraction(tiny, wanted=0).ask(model).longest_tokens is None, "nothing was measured"


@pytest.mark.parametrize(
    ("one", "other", "run"),
    [([], [1], 0), ([1, 2, 3], [9, 2, 3, 4], 2), ([1, 1, 1], [1, 1], 2), ([5], [6], 0)],
)
def test_longest_common_run(one: list[int], other: list[int], run: int) -> None:
    """Memorisation is measured in consecutive tokens, wherever they stand."""
    assert longest_common_run(one, np.array(other, dtype=np.int32)) == run
