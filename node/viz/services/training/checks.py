"""Check a request to train before anything runs: grants, the registered files, licenses, royalties.

Owns the order of these checks, the license's limit on repetition, and the answer of a dry run.
Invariants:

- A work is read for training only after the chain showed a live grant that permits it.
- A file passes only if it is the registered one.
- The license that binds is always the text whose hash the chain has, and no other.
- A run that is to be published starts only with rates that AdapterRegistry accepts for its grants.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from viz.domain.license import ADAPTER_USES
from viz.domain.manifest import SourceWork, shares_by_tokens
from viz.domain.missing_grant import no_live_grant
from viz.domain.ports.chain import ChainReader, ContentState, GrantState, TermsState
from viz.domain.ports.engine import BaseModel
from viz.domain.questions import Question
from viz.domain.shares import require_royalties
from viz.domain.units import (
    ZERO_HASH,
    Address,
    ContentId,
    Hash32,
    Units,
    hex_of,
    parse_address,
    parse_hash,
)
from viz.domain.work import Work, check_commitment, tokens_of
from viz.errors import ChainUnreachable, InvalidRequest, NoLiveGrant
from viz.protocol.license_document.reading import verbatim_tokens
from viz.protocol.wire import license_hash_of
from viz.services.training.request import base_of, inputs_of, questions_of, read_input, settings_of
from viz.services.training.resources import TrainingResources
from viz.services.training.wish import PublicationWish, wish_in
from viz.services.work_records import load_record, record_path
from viz.training.devices import defaults_on
from viz.training.memory import Memory
from viz.training.run import TrainingSettings, WorkInput

if TYPE_CHECKING:
    from viz.training.estimate import Estimate

# The limit to keep if a license's text is not available, because it may state one.
UNREAD_LIMIT_TOKENS: Final = TrainingSettings().max_verbatim_tokens
_log = structlog.get_logger()
# Returns the tokens of a text under the base model with a digest.
CountTokens = Callable[[Hash32, str], int]


def count_bytes(_: Hash32, text: str) -> int:
    """Stand in for a token count where no base model is served."""
    return len(text.encode())


@dataclass(frozen=True, slots=True)
class Checked:
    """Hold a request's works and settings after all checks passed.

    ``memory`` is what the run is estimated to need, None where the base is not known.
    """

    inputs: tuple[WorkInput, ...]
    works: tuple[Work, ...]
    settings: TrainingSettings
    questions: tuple[Question, ...] = ()
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Hold the answer of a dry run; ``fees_units`` are the current prices of missing grants."""

    estimate: Estimate
    settings: TrainingSettings
    fees_units: Mapping[ContentId, Units]
    memory: Memory | None = None


class TrainingCheck:
    """Check the requests of one trainer against the chain."""

    def __init__(
        self,
        reader: ChainReader,
        trainer: Address,
        threads: int,
        bases: Sequence[BaseModel] = (),
        resources: TrainingResources | None = None,
        *,
        count_tokens: CountTokens = count_bytes,
    ) -> None:
        """``bases`` may be trained on; without one a reference's size is assumed.

        ``count_tokens`` gives the size of a text under a base, by which royalties are shared.
        """
        self._count_tokens = count_tokens
        self._reader, self._trainer, self._threads = reader, trainer, threads
        self._bases, self._resources = bases, resources or TrainingResources()

    async def plan(self, request: Mapping[str, Any]) -> TrainingPlan:
        """Check the works and return what training them would cost; this needs no grant.

        Raises InvalidRequest, InvalidWork, CommitmentMismatch.
        """
        base = self._base_of(request)
        checked = await self.check(request, licensed=False)
        fees: dict[ContentId, Units] = {}
        for each in checked.inputs:
            content_id = ContentId(each.content_id)
            grant = await self._reader.grant(content_id, self._trainer)
            if grant is None or not grant.live:
                content = await self._content(content_id)
                offered = await self._terms(content.terms_hash)
                fees[content_id] = offered.terms.training_fee_units
        # Imported here: they need libraries of the training's.
        from viz.training.estimate import estimate
        from viz.training.pace import pace_of

        pace = await asyncio.to_thread(
            pace_of, base, checked.settings.threads, checked.settings.device
        )
        estimated = await asyncio.to_thread(
            estimate, checked.works, checked.settings, len(checked.questions), pace
        )
        return TrainingPlan(estimated, checked.settings, fees, checked.memory)

    async def check(
        self, request: Mapping[str, Any], *, licensed: bool, cuda_index: int | None = None
    ) -> Checked:
        """Return the checked works of a request, and its settings.

        ``cuda_index`` is the device that the run has got, if it has one. Raises
        CommitmentMismatch, InvalidRequest (also where memory is too small), InvalidWork, with
        ``licensed`` NoLiveGrant, and if the adapter is to be published LicenseError for a royalty
        that is too low.
        """
        wish = wish_in(request)
        inputs = await asyncio.to_thread(inputs_of, request)
        grants = [await self._grant(ContentId(given.content_id), licensed) for given in inputs]
        checked: list[WorkInput] = []
        works: list[Work] = []
        limits: list[int | None] = []
        minimums: dict[ContentId, int] = {}
        for given, grant in zip(inputs, grants, strict=True):
            content = await self._content(ContentId(given.content_id))
            work = await asyncio.to_thread(read_input, given)
            salt = parse_hash(given.salt)
            check_commitment(work, parse_address(given.creator), salt, content.commitment)
            agreed = await self._terms((grant or content).terms_hash)
            minimums[content.content_id] = agreed.terms.min_royalty_bps
            limits.append(await asyncio.to_thread(verbatim_limit, given.path, agreed.license_hash))
            checked.append(replace(given, commitment=hex_of(content.commitment)))
            works.append(work)
        base = self._base_of(request)
        if wish is not None:
            await asyncio.to_thread(self._require_royalties, wish, checked, works, minimums, base)
        device = await asyncio.to_thread(self._resources.device_of, request)
        defaults = {"threads": self._threads, **defaults_on(device)}
        settings = await asyncio.to_thread(settings_of, request, works, limits, defaults)
        settings, memory = await asyncio.to_thread(
            self._resources.fit,
            works,
            settings,
            request.get("settings") or {},
            base_model="" if base is None else base.source,
            cuda_index=cuda_index,
        )
        questions = await asyncio.to_thread(questions_of, checked)
        return Checked(tuple(checked), tuple(works), settings, questions, memory)

    def _require_royalties(
        self,
        wish: PublicationWish,
        inputs: Sequence[WorkInput],
        works: Sequence[Work],
        minimums: Mapping[ContentId, int],
        base: BaseModel | None,
    ) -> None:
        """Raise LicenseError if the wish gives a work less than its license asks. Blocks."""
        shares = wish.shares
        if shares is None:
            digest = ZERO_HASH if base is None else base.digest
            shares = shares_by_tokens(
                [
                    SourceWork(
                        ContentId(given.content_id),
                        parse_hash(given.commitment),
                        len(work.chunks),
                        tokens_of(work, functools.partial(self._count_tokens, digest)),
                    )
                    for given, work in zip(inputs, works, strict=True)
                ]
            )
        require_royalties(wish.royalty_bps, wish.trainer_bps, shares, minimums)

    def _base_of(self, request: Mapping[str, Any]) -> BaseModel | None:
        return base_of(request, self._bases) if self._bases else None

    async def _grant(self, content_id: ContentId, needed: bool) -> GrantState | None:
        """Return the live grant to a work, or None.

        If it is ``needed``, raise NoLiveGrant when there is none or it does not permit an adapter,
        and InvalidRequest for a work that the chain does not have.
        """
        grant = await self._reader.grant(content_id, self._trainer)
        if grant is None or not grant.live:
            if not needed:
                return None
            content = await self._content(content_id)
            raise no_live_grant(content_id, self._trainer, content.withdrawn_at)
        granted = await self._terms(grant.terms_hash)
        if needed and not granted.terms.permits(ADAPTER_USES):
            raise NoLiveGrant(
                f"the grant to work {content_id} does not permit an adapter to be trained, "
                "embodied and served",
                contents=[int(content_id)],
            )
        return grant

    async def _content(self, content_id: ContentId) -> ContentState:
        content = await self._reader.content(content_id)
        if content is None:
            raise InvalidRequest(f"there is no work {content_id} on chain: check the id")
        return content

    async def _terms(self, terms_hash: Hash32) -> TermsState:
        """Return the terms that a work or a grant names.

        Both can name registered terms only. So if the endpoint does not know them, it is at fault:
        raise ChainUnreachable.
        """
        found = await self._reader.terms(terms_hash)
        if found is None:
            raise ChainUnreachable(
                f"the chain's endpoint knows no terms {hex_of(terms_hash)}, which a work on it "
                "names: try again, or use another endpoint (chain.rpc_url)"
            )
        return found


def verbatim_limit(path: Path, license_hash: Hash32) -> int | None:
    """Return how many tokens of a work its license lets an adapter repeat; None: it sets no limit.

    The license's text is in the registration record beside the work, and must have the hash that
    the chain has. Without a record, the result is ``UNREAD_LIMIT_TOKENS``. Raises InvalidRequest
    for another license, and for a limit that is not a number.
    """
    record = load_record(path)
    if record is None:
        _log.warning(
            "a license is not at hand: the limit that holds is the default one",
            work=path.name,
            license_hash=hex_of(license_hash),
            limit_tokens=UNREAD_LIMIT_TOKENS,
        )
        return UNREAD_LIMIT_TOKENS
    if license_hash_of(record.license) != license_hash:
        raise InvalidRequest(
            f"the license in {record_path(path).name} is not the one on chain, which hashes to "
            f"{hex_of(license_hash)}: get the record with its text from the creator"
        )
    limit = verbatim_tokens(record.license)
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InvalidRequest(
            f"the license in {record_path(path).name} states a limit that cannot be held: "
            f"max_verbatim_tokens is {str(limit)[:40]!r}"
        )
    return limit
