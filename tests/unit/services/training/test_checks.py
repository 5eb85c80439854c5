"""Which license binds a run: the text whose hash is on chain, and how it is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import FREE_TERMS, FakeChain, address_of
from tests.fakes.licenses import preset

from viz.domain.license import ADAPTER_USES
from viz.domain.ports.chain import ContentState, TermsState
from viz.domain.units import ZERO_HASH, ContentId, Hash32, hex_of
from viz.errors import InvalidRequest, LicenseError, MemorisationLimitExceeded, NoLiveGrant
from viz.protocol.registration import parse_description
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.training.checks import UNREAD_LIMIT_TOKENS, TrainingCheck
from viz.services.training.result import require_memorisation_limit
from viz.services.work_records import draft, record_path
from viz.training.run import MINIMUM_PROBES, TrainingSettings

ONE = ContentId(1)
WORK = Path("examples/works/varn-point")
LICENSE = 'text = "You may not."\nmax_verbatim_tokens = '


class Chain(FakeChain):
    """A chain that knows the license of its one work."""

    license_hash: Hash32 = ZERO_HASH
    minimum_bps = 0

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        uses = int(ADAPTER_USES)
        terms = replace(FREE_TERMS.terms, uses=uses, min_royalty_bps=self.minimum_bps)
        return TermsState(terms, self.license_hash)


def place(folder: Path, license_table: str) -> tuple[TrainingCheck, dict[str, Any], Path]:
    """Return a check, a request for the one licensed work, and the work with its record."""
    top, _, _ = (WORK / "terms.toml").read_text().partition("[license]")
    description = parse_description(f"{top}[license]\n{license_table}", token_decimals=6)
    path = folder / "work.jsonl"
    path.write_bytes((WORK / "work.jsonl").read_bytes())
    made = draft(path, description, address_of(7))
    chain = Chain(b"\x11" * 32)
    chain.license_hash = description.license_hash
    chain.works[ONE] = ContentState(ONE, made.creator, made.creator, made.commitment, ZERO_HASH, 0)
    chain.granted.add(ONE)
    work = {
        "path": str(path),
        "contentId": 1,
        "kind": "dialogue",
        "creator": made.creator,
        "salt": hex_of(made.salt),
    }
    settings = {"probes": 0, "max_verbatim_tokens": 100_000}
    request = {"works": [work], "settings": settings}
    return TrainingCheck(chain, chain.address, 1), request, path


@pytest.mark.parametrize(
    ("stated", "limit", "probes"),
    [("48", 48, MINIMUM_PROBES), ("0", 1, MINIMUM_PROBES), ("", 100_000, 0)],
)
async def test_a_license_that_states_a_limit_is_measured(
    tmp_path: Path, stated: str, limit: int, probes: int
) -> None:
    """Protects creators: no setting loosens the limit or leaves its measurement out."""
    table = LICENSE + stated if stated else 'text = "Do."'
    check, request, _ = place(tmp_path, table)
    settings = (await check.check(request, licensed=True)).settings
    assert (settings.max_verbatim_tokens, settings.probes) == (limit, probes)


async def test_a_license_that_is_not_the_one_on_chain_does_not_count(tmp_path: Path) -> None:
    """Protects creators: a limit edited in the local record is found out by its hash."""
    check, request, path = place(tmp_path, LICENSE + "48")
    record = json.loads(record_path(path).read_text())
    record["license"]["max_verbatim_tokens"] = 100_000
    record_path(path).write_text(json.dumps(record))
    with pytest.raises(InvalidRequest, match="not the one on chain"):
        await check.check(request, licensed=True)


async def test_a_limit_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """Protects creators: a limit that cannot be held is not read as none."""
    check, request, _ = place(tmp_path, LICENSE + '"48"')
    with pytest.raises(InvalidRequest, match="cannot be held"):
        await check.check(request, licensed=True)


async def test_where_the_license_is_not_at_hand_the_default_limit_holds(tmp_path: Path) -> None:
    """Protects creators: leaving the record out does not lift the limit that it may state."""
    check, request, path = place(tmp_path, LICENSE + "48")
    record_path(path).unlink()
    settings = (await check.check(request, licensed=True)).settings
    assert settings.max_verbatim_tokens == UNREAD_LIMIT_TOKENS
    assert settings.probes == MINIMUM_PROBES


@pytest.mark.parametrize(
    ("there_are", "probed", "refused"),
    [
        (
            {"wholeRows": 40, "passages": 40},
            {"probes": 15, "passages": 16},
            "15 rows instead of 16",
        ),
        (
            {"wholeRows": 40, "passages": 9},
            {"probes": 16, "passages": 8},
            "8 passages instead of 9",
        ),
        ({"wholeRows": 9, "passages": 0}, {"probes": 9, "passages": 0}, None),
    ],
)
def test_a_probe_of_too_little_is_no_measurement(
    there_are: dict[str, int], probed: dict[str, int], refused: str | None
) -> None:
    """Protects the limit from a run that did not look: there is no manifest without the probe."""
    found = {**probed, "longest_tokens": 3, "extracted": 0}
    metrics = {**there_are, "memorisation": {"adapter": found, "base": found}}
    if refused is None:
        require_memorisation_limit(TrainingSettings(), metrics)
    else:
        with pytest.raises(MemorisationLimitExceeded, match=refused):
            require_memorisation_limit(TrainingSettings(), metrics)


@pytest.mark.parametrize(("preset_name", "limit"), [("commercial", 64), ("no-excerpt", 24)])
async def test_a_license_document_s_limit_binds(
    tmp_path: Path, preset_name: str, limit: int
) -> None:
    """The longest run that a document allows is the limit of the run, as with a [license]."""
    document = preset(preset_name)
    check, request, path = place(tmp_path, 'text = "..."')
    record = json.loads(record_path(path).read_text())
    record["license"], record["licenseHash"] = document.to_json(), hex_of(document.license_hash)
    record_path(path).write_text(json.dumps(record))
    chain = check._reader
    assert isinstance(chain, Chain)
    chain.license_hash = document.license_hash
    checked = await check.check(request, licensed=True)
    assert checked.settings.max_verbatim_tokens == limit


async def test_a_withdrawn_work_is_not_to_be_licensed(tmp_path: Path) -> None:
    """The advice to acquire a grant could not be followed: nobody gets one any more."""
    check, request, _ = place(tmp_path, 'text = "Do."')
    chain = cast(Chain, check._reader)
    chain.granted.clear()
    with pytest.raises(NoLiveGrant, match="acquire one with `viz content license 1`"):
        await check.check(request, licensed=True)
    chain.works[ONE] = replace(chain.works[ONE], withdrawn_at=1_800_000_000)
    with pytest.raises(NoLiveGrant, match=r"withdrawn, 2027-01-15 .* for ever") as caught:
        await check.check(request, licensed=True)
    assert "viz content license" not in caught.value.detail
    unused: Any = None
    works = LicensedWorks(
        chain, unused, unused, unused, unused,
        peers=unused, node=chain.address, directory=tmp_path / "works",
    )  # fmt: skip
    with pytest.raises(NoLiveGrant, match=r"withdrawn, 2027-01-15 .* for ever"):
        await works.path(ONE)


@pytest.mark.parametrize("licensed", [True, False])
async def test_a_royalty_below_the_licenses_is_refused_before_the_training(
    tmp_path: Path, licensed: bool
) -> None:
    """Nobody trains for hours to learn that the chain refuses the adapter; nor plans it so."""
    check, request, _ = place(tmp_path, 'text = "Do."')
    cast(Chain, check._reader).minimum_bps = 800
    await check.check(request, licensed=licensed)  # not published: the license asks nothing
    wish = {"royaltyBps": 799, "trainerBps": 1_000}
    with pytest.raises(LicenseError, match=r"work 1 must get at least 8 %.*--royalty-bps"):
        await check.check({**request, "publish": wish}, licensed=licensed)
    await check.check({**request, "publish": wish | {"royaltyBps": 800}}, licensed=licensed)
