"""What an audit may claim of another's adapter."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from viz.audit.adapter_audit import (
    AuditReport,
    audit_adapter,
    contradictions,
    judge,
)
from viz.domain.eip712 import public_address
from viz.domain.manifest import (
    Manifest,
    SourceWork,
    manifest_hash,
    open_manifest,
    seal_manifest,
)
from viz.domain.ports.chain import AdapterState
from viz.domain.units import AdapterId, Cid, ContentId, Hash32, hex_of
from viz.domain.verdict import Verdict
from viz.domain.work import parse_work
from viz.errors import CommitmentMismatch, InvalidRequest
from viz.training.environment import PACKAGES, RECIPE, reproducibility_class

KEY = b"\x03" * 32
WEIGHTS, OTHER, BASE, ROWS = (Hash32(bytes([n]) * 32) for n in (1, 2, 3, 4))
HERE: dict[str, Any] = {
    "recipe": RECIPE,
    "python": "3.11.7",
    "packages": dict.fromkeys(PACKAGES, "1.2.3"),
    "system": "Linux-x86_64",
    "threads": 2,
    "device": "cpu",
    "cpuCapability": "AVX512",
    "onednnMaxCpuIsa": "ALL",
    "cpuVendor": "GenuineIntel",
    "cpuFlags": ["amx_bf16", "avx512_bf16"],
    "bf16Hardware": True,
    "compute": "float32",
    "deterministicAlgorithms": True,
}
METRICS: dict[str, Any] = {
    "weightsDigest": hex_of(OTHER),
    "baseModel": hex_of(BASE),
    "baseModelName": "base",
    "rowsDigest": hex_of(ROWS),
    "workTokens": [40],
    "environment": HERE,
}
MANIFEST = Manifest(
    trainer=public_address(KEY),
    weights_digest=WEIGHTS,
    base_model=BASE,
    base_name="base",
    works=(SourceWork(ContentId(1), OTHER, 3, 40),),
    rows_digest=ROWS,
    settings={},
    environment=HERE,
    reproducibility=reproducibility_class("cpu"),
    measurements={},
    started_at="2026-01-01T00:00:00Z",
    finished_at="2026-01-01T00:01:00Z",
)


OLD_FLAGS = {"cpuFlags": ["avx2"], "bf16Hardware": False, "compute": "float32"}
NEWER_TORCH = {"packages": HERE["packages"] | {"torch": "9.0.1+cpu"}}


def _judged(there: dict[str, Any], found: Hash32 = OTHER, **manifest: Any) -> AuditReport:
    claimed = replace(MANIFEST, **{"environment": there, **manifest})
    signed = open_manifest(seal_manifest(claimed, KEY))
    return judge(signed, METRICS | {"weightsDigest": hex_of(found)})


@pytest.mark.parametrize(
    "there",
    [
        HERE | {"cpuVendor": "AuthenticAMD"},
        HERE | OLD_FLAGS,
        HERE | NEWER_TORCH,
        HERE | {"python": "3.12.0rc1"},
        HERE | {"recipe": RECIPE - 1},
    ],
    ids=["AMD for Intel", "no bf16", "torch", "python", "older recipe"],
)
def test_another_environment_excuses_other_bytes(there: dict[str, Any]) -> None:
    """Protects an honest trainer from an auditor's other processor or versions."""
    report = _judged(there)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.differences and not report.remarks
    older = there["recipe"] != RECIPE
    same = Verdict.INCONCLUSIVE if older else Verdict.REPRODUCED
    assert _judged(there, WEIGHTS).verdict is same


def test_other_rules_of_sentences_excuse_other_rows() -> None:
    """Protects an honest trainer whose version of a library cut the text elsewhere."""
    packages = HERE["packages"] | {"sentencex": "9.0.1"}
    other = _judged(HERE | {"packages": packages}, rows_digest=OTHER)
    assert other.verdict is Verdict.INCONCLUSIVE and not other.rows_match
    same = _judged(HERE | {"packages": packages}, WEIGHTS, rows_digest=OTHER)
    assert same.verdict is Verdict.DIFFERENT, "the same bytes came from the same rows"
    assert _judged(HERE, rows_digest=OTHER).verdict is Verdict.DIFFERENT


CARD: dict[str, Any] = {
    "recall": {"asked": 9, "base": 0, "adapter": 5},
    "general": {"base": 3, "kept": 3},
    "memorisation": {"adapter": {"longest_tokens": 4}},
    "defaultTemperature": 0.0,
}


@pytest.mark.parametrize(
    "claimed",
    [
        CARD | {"recall": {"asked": 9, "base": 0, "adapter": 9}},
        CARD | {"memorisation": {"adapter": {"longest_tokens": None}}},
        CARD | {"general": {"base": 3, "kept": "all"}},
        {name: value for name, value in CARD.items() if name != "recall"},
        {},
    ],
    ids=["boast", "not measured", "unreadable", "a part left out", "none"],
)
def test_a_card_that_the_weights_do_not_keep_convicts(claimed: dict[str, Any]) -> None:
    """Protects buyers: the same weights answer the same questions alike, and a card sells them."""
    metrics = METRICS | CARD | {"weightsDigest": hex_of(WEIGHTS)}
    assert judge(replace(MANIFEST, measurements=CARD), metrics).verdict is Verdict.REPRODUCED
    report = judge(replace(MANIFEST, measurements=claimed), metrics)
    assert report.verdict is Verdict.DIFFERENT
    assert ["report card" in remark for remark in report.remarks] == [True]
    # Another machine may round an answer otherwise, so it does not convict. It is no success.
    elsewhere = replace(MANIFEST, measurements=claimed, environment=HERE | NEWER_TORCH)
    report = judge(elsewhere, metrics)
    assert report.verdict is Verdict.INCONCLUSIVE and report.remarks


MEASURED: dict[str, Any] = CARD | {
    "heldOut": {"before": {"loss": 6.25}, "after": {"loss": 1.2103, "perplexity": 3.35}},
    "memorisation": {"adapter": {"longest_tokens": 4, "extracted": 2}},
    "general": {"asked": 64, "base": 3, "kept": 3, "adapter": 5},
    "recall": CARD["recall"] | {"examples": {"right": [], "wrong": [{"answer": "whale oil"}]}},
    "rows": 250,
    "steps": 8,
    "bestStep": 8,
}


@pytest.mark.parametrize(
    ("claimed", "named"),
    [
        ({"heldOut": {"before": {"loss": 6.25}, "after": {"loss": 0.01}}}, "heldOut"),
        ({"memorisation": {"adapter": {"longest_tokens": 4, "extracted": 0}}}, "memorisation"),
        ({"general": MEASURED["general"] | {"adapter": 64}}, "general"),
        ({"recall": CARD["recall"] | {"examples": {"right": [], "wrong": []}}}, "recall"),
        ({"recall": MEASURED["recall"] | {"asked": "9"}}, "recall"),
        ({"steps": True}, "steps"),
        ({"benchmarks": {"MMLU": 99}}, "'benchmarks'"),
        ({"rows": None}, "rows"),
    ],
)
def test_every_measurement_is_a_claim(claimed: dict[str, Any], named: str) -> None:
    """A loss, an example or an invented benchmark sells an adapter as its card does."""
    metrics = METRICS | MEASURED | {"weightsDigest": hex_of(WEIGHTS)}
    rounded = MEASURED | {"heldOut": {**MEASURED["heldOut"], "before": {"loss": 6.25 + 1e-9}}}
    for true in (MEASURED, rounded):
        report = judge(replace(MANIFEST, measurements=true), metrics)
        assert report.verdict is Verdict.REPRODUCED and not report.remarks
    report = judge(replace(MANIFEST, measurements=MEASURED | claimed), metrics)
    assert report.verdict is Verdict.DIFFERENT
    assert report.remarks == (f"these weights gave other measurements in this audit: {named}",)
    without = {name: value for name, value in MEASURED.items() if name != "heldOut"}
    assert judge(replace(MANIFEST, measurements=without), metrics).verdict is Verdict.DIFFERENT
    elsewhere = replace(MANIFEST, measurements=MEASURED | claimed, environment=HERE | NEWER_TORCH)
    report = judge(elsewhere, metrics)
    assert report.verdict is Verdict.INCONCLUSIVE and report.remarks


def test_an_older_recipe_is_never_a_reproduction() -> None:
    """It switches off what is compared, and anybody can claim it: the same bytes prove no more."""
    metrics = METRICS | CARD | {"weightsDigest": hex_of(WEIGHTS)}
    older = replace(MANIFEST, environment=HERE | {"recipe": RECIPE - 1})
    for card in ({}, CARD, CARD | {"heldOut": {"after": {"loss": 0.001}}}):
        report = judge(replace(older, measurements=card), metrics)
        assert report.verdict is Verdict.INCONCLUSIVE and report.differences
    boast = CARD | {"recall": {"asked": 9, "base": 0, "adapter": 9}}
    report = judge(replace(older, measurements=boast), metrics)
    assert report.verdict is Verdict.INCONCLUSIVE and report.remarks


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (HERE | {"moonPhase": "full"}, "'moonPhase', which is not a part"),
        (HERE | {"packages": HERE["packages"] | {"left-pad": "1.0.0"}}, "'packages.left-pad'"),
        (HERE | {"packages": "all of them"}, "'packages', which is not a part"),
        ({k: v for k, v in HERE.items() if k != "cpuVendor"}, "does not tell cpuVendor"),
        (HERE | {"packages": {}}, "does not tell packages.torch"),
        (HERE | {"python": ["3.9"]}, "python is nothing of the kind"),
        (HERE | {"python": "99.99.99"}, "python is nothing of the kind"),
        (HERE | {"cpuVendor": "FakeVendor"}, "cpuVendor is nothing of the kind"),
        (HERE | {"onednnMaxCpuIsa": "x"}, "onednnMaxCpuIsa is nothing of the kind"),
        (HERE | {"cpuCapability": "AVX9"}, "cpuCapability is nothing of the kind"),
        ({k: v for k, v in HERE.items() if k != "recipe"}, "does not tell recipe"),
        (HERE | {"recipe": RECIPE + 1}, "no version of this program has recipe"),
        (HERE | {"recipe": -1}, "no version of this program has recipe"),
        (HERE | {"recipe": True}, "recipe is nothing of the kind"),
        (HERE | {"recipe": "3"}, "recipe is nothing of the kind"),
        ({}, "does not tell recipe"),
        (HERE | {"cpuVendor": ""}, "cpuVendor is nothing of the kind"),
        (HERE | {"cpuFlags": ["avx512_bf16", "warp9"]}, "cpuFlags is nothing of the kind"),
        (HERE | {"deterministicAlgorithms": False}, "deterministicAlgorithms is nothing"),
        (HERE | {"threads": 64}, "threads is 64, the settings' 2"),
        (HERE | {"device": "cuda:0"}, "device is 'cuda:0', the settings' 'cpu'"),
        (HERE | {"gpu": "H200"}, "'gpu', which is not a part"),
        (HERE | {"bf16Hardware": False}, "not what cpuFlags say"),
        (HERE | {"compute": "bfloat16"}, "compute is bfloat16"),
    ],
)
def test_what_a_trainer_invents_excuses_nothing(there: dict[str, Any], says: str) -> None:
    """Protects buyers and creators: the accused's own words must not end the audit."""
    report = _judged(there)
    assert report.verdict is Verdict.DIFFERENT, report
    assert any(says in remark for remark in report.remarks), report.remarks
    # A remark is told beside an honest excuse, and does not undo it.
    elsewhere = _judged({**there, "system": "Linux-aarch64"})
    assert elsewhere.verdict is Verdict.INCONCLUSIVE and elsewhere.remarks
    # The weights are the same; what else the manifest says is nothing that a run writes.
    assert _judged(there, WEIGHTS).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("claimed", "says"),
    [
        ({"base_name": "Llama-3-70B-Instruct"}, "a name follows from no digest"),
        ({"started_at": "2099-13-45T99:00:00Z"}, "is no time"),
        ({"finished_at": "yesterday"}, "is no time"),
        ({"finished_at": "2025-12-31T00:00:00Z"}, "ended before it began"),
        ({"reproducibility": "bitwise-everywhere"}, "is not this version's"),
    ],
)
def test_a_claim_that_was_not_checked_is_never_reproduced(
    claimed: dict[str, Any], says: str
) -> None:
    """Protects readers of the manifest: a success says that all of it is true."""
    report = _judged(HERE, WEIGHTS, **claimed)
    assert report.verdict is Verdict.INCONCLUSIVE and says in report.remarks[0], report
    assert _judged(HERE, WEIGHTS).verdict is Verdict.REPRODUCED


def test_other_bytes_where_all_is_alike_convict() -> None:
    report = _judged(HERE)
    assert report.verdict is Verdict.DIFFERENT and not report.remarks and not report.differences
    assert _judged(HERE, reproducibility="by luck").verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("there", [HERE, HERE | {"cpuVendor": "AuthenticAMD"}])
@pytest.mark.parametrize(
    "lie",
    [{"rows_digest": OTHER}, {"works": (SourceWork(ContentId(1), OTHER, 3, 41),)}],
    ids=["rows", "sizes"],
)
def test_what_no_environment_changes_convicts_on_every_machine(
    there: dict[str, Any], lie: dict[str, Any]
) -> None:
    """Rows and the sizes that shares are computed from follow from the works alone."""
    for found in (OTHER, WEIGHTS):
        report = _judged(there, found, **lie)
        assert report.verdict is Verdict.DIFFERENT
        assert report.remarks[0].startswith("the works ")


def test_an_older_recipe_with_other_sizes_is_never_a_reproduction() -> None:
    """Royalty shares follow from the sizes: equal bytes do not make false ones true."""
    works = (SourceWork(ContentId(1), OTHER, 3, 1),)
    report = _judged(HERE | {"recipe": RECIPE - 1}, WEIGHTS, works=works)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.remarks


STATE = AdapterState(
    AdapterId(1),
    MANIFEST.trainer,
    BASE,
    WEIGHTS,
    Cid("bafy"),
    OTHER,
    3_000,
    1_000,
    0,
    ((ContentId(1), 10_000),),
)


@pytest.mark.parametrize(
    ("change", "commitment", "says"),
    [
        ({"trainer": public_address(b"\x08" * 32)}, OTHER, "registered the adapter"),
        ({"base_model": ROWS}, OTHER, "another base model"),
        ({"shares": ((ContentId(2), 10_000),)}, OTHER, "the chain pays 10000 bps for work 2"),
        ({}, ROWS, "another commitment"),
    ],
    ids=["trainer", "base", "shares", "commitment"],
)
def test_a_manifest_that_contradicts_the_chain_convicts(
    change: dict[str, Any], commitment: Hash32, says: str
) -> None:
    """Creators are paid by the chain's shares: an audit blesses no manifest that names others."""
    signed = open_manifest(seal_manifest(MANIFEST, KEY))
    assert contradictions(signed, STATE, {ContentId(1): OTHER}) == []
    (found,) = contradictions(signed, replace(STATE, **change), {ContentId(1): commitment})
    assert says in found
    report = judge(signed, METRICS | {"weightsDigest": hex_of(WEIGHTS)}, [found])
    assert report.verdict is Verdict.DIFFERENT


async def untrained(
    folder: Path,
    sealed: bytes,
    works: Sequence[Mapping[str, Any]] = (),
    commitment: Hash32 = OTHER,
    **state: Any,
) -> AuditReport:
    """Audit what the chain names, on a machine that cannot train."""
    registered = replace(STATE, **{"manifest_hash": manifest_hash(sealed), **state})
    return await audit_adapter(
        sealed,
        works,
        directory=folder / "run",
        base_model="none",
        cache_dir=folder,
        registered=registered,
        commitments={ContentId(1): commitment},
    )


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"weights_digest": OTHER}, "about weights 0x0202"),
        ({"base_model": ROWS}, "another base model"),
        ({"works": (SourceWork(ContentId(1), ROWS, 3, 40),)}, "names the commitment 0x0404"),
        ({"works": (SourceWork(ContentId(2), OTHER, 3, 40),)}, "10000 bps for work 2, and the"),
        ({"works": ()}, "no tokens at all"),
    ],
    ids=["weights", "base", "commitment", "another work", "no work"],
)
async def test_a_false_manifest_that_the_chain_names_convicts_before_anything_runs(
    tmp_path: Path, lie: dict[str, Any], says: str
) -> None:
    """The trainer registered it: it is no mistake of the auditor's, whose hour is protected too."""
    report = await untrained(tmp_path, seal_manifest(replace(MANIFEST, **lie), KEY))
    assert (report.verdict, report.found, report.rows_match) == (Verdict.DIFFERENT, None, None)
    assert says in report.remarks[0], report.remarks
    assert report.to_json()["foundWeights"] is None
    assert not (tmp_path / "run").exists()


async def test_chunks_that_the_committed_work_has_not_convict(tmp_path: Path) -> None:
    """The work is the one that the chain commits to, so the manifest is what is wrong."""
    path = tmp_path / "work.txt"
    path.write_text("The lamp is lit at dusk.\n\nThe tide turns at noon.\n")
    work, salt, creator = parse_work("text", path.read_bytes()), OTHER, public_address(b"\x09" * 32)
    committed = work.commitment(creator, salt)
    works = [{"path": str(path), "contentId": 1, "kind": "text", "creator": creator,
              "salt": hex_of(salt)}]  # fmt: skip
    named = SourceWork(ContentId(1), committed, len(work.chunks) + 1, 40)
    sealed = seal_manifest(replace(MANIFEST, works=(named,)), KEY)
    report = await audit_adapter(
        sealed,
        works,
        directory=tmp_path / "run",
        base_model="none",
        cache_dir=tmp_path,
        registered=replace(STATE, manifest_hash=manifest_hash(sealed)),
        commitments={ContentId(1): committed},
    )
    assert report.verdict is Verdict.DIFFERENT
    assert f"the work that the chain commits to has {len(work.chunks)}" in report.remarks[0]
    path.write_text("Another text.\n")
    with pytest.raises(CommitmentMismatch):
        await audit_adapter(
            sealed, works, directory=tmp_path / "run", base_model="none", cache_dir=tmp_path,
            registered=replace(STATE, manifest_hash=manifest_hash(sealed)),
            commitments={ContentId(1): committed},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "measured", "says"),
    [
        ({"magic": 1}, {}, "'magic' is not a training setting"),
        ({"steps": "8"}, {}, "steps"),
        ({"rank": 0}, {}, "rank"),
        ({"steps": 10**9}, {}, "steps"),
        ({}, {"questions": hex_of(OTHER)}, "committed questions that hash to"),
    ],
)
async def test_a_registered_manifest_that_cannot_be_repeated_is_inconclusive(
    tmp_path: Path, settings: dict[str, Any], measured: dict[str, Any], says: str
) -> None:
    """The chain names it, and the auditor did not write it: it is no input error of theirs, by
    which a trainer would escape every script that audits."""
    path = tmp_path / "work.txt"
    path.write_text("The lamp is lit at dusk.\n\nThe tide turns at noon.\n")
    work, salt, creator = parse_work("text", path.read_bytes()), OTHER, public_address(b"\x09" * 32)
    named = SourceWork(ContentId(1), work.commitment(creator, salt), len(work.chunks), 40)
    given = {"path": str(path), "contentId": 1, "kind": "text", "creator": creator}
    odd = replace(MANIFEST, works=(named,), settings=settings, measurements=measured)
    report = await untrained(
        tmp_path,
        seal_manifest(odd, KEY),
        [given | {"salt": hex_of(salt)}],
        commitment=named.commitment,
    )
    assert report.verdict is Verdict.INCONCLUSIVE and says in report.remarks[0], report
    assert not (tmp_path / "run").exists()


async def test_what_the_chain_names_and_is_no_manifest_is_never_a_success(tmp_path: Path) -> None:
    """A false signature convicts; what this version cannot read proves nothing. Another file than
    the chain's is the auditor's mistake, and the message says how to get the right one."""
    sealed = seal_manifest(MANIFEST, KEY)
    other = json.loads(seal_manifest(replace(MANIFEST, base_name="x"), KEY))["signatures"]
    forged = json.dumps({**json.loads(sealed), "signatures": other}).encode()
    assert (await untrained(tmp_path, forged)).verdict is Verdict.DIFFERENT
    another = replace(MANIFEST, trainer=public_address(b"\x08" * 32))
    signed = json.loads(seal_manifest(another, b"\x08" * 32))
    theirs = base64.b64encode(rfc8785.dumps(MANIFEST.statement())).decode()
    report = await untrained(tmp_path, json.dumps(signed | {"payload": theirs}).encode())
    assert report.verdict is Verdict.DIFFERENT and "as its trainer" in report.remarks[0]
    for more in ({"note": 1}, {"signatures": [json.loads(sealed)["signatures"][0] | {"x": 1}]}):
        report = await untrained(tmp_path, json.dumps(json.loads(sealed) | more).encode())
        assert report.verdict is Verdict.INCONCLUSIVE and "holds members" in report.remarks[0]
    report = await untrained(tmp_path, b"{}")
    assert report.verdict is Verdict.INCONCLUSIVE and "the chain names" in report.remarks[0]
    with pytest.raises(InvalidRequest, match="viz adapter provenance 1 --format manifest"):
        await untrained(tmp_path, sealed, manifest_hash=OTHER)
