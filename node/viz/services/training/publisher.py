"""Publish the adapters of finished runs: at the operator's command, or as the run's request asks.

Owns the order: register, then record this in the run's row, then put on offer. Invariants:

- A run is published once, whether or not a command waits for it, and whenever the node was killed:
  ``Publishing`` finds a registration that was sent before.
- Faults that may end by themselves, or that the operator ends outside the run (a chain or a store
  that does not answer, expensive gas, missing confirmations, an account without coin, an endpoint's
  cap on gas) are retried; every other refusal is stored in the run's row, for `viz training show`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from viz.domain.card import card_of
from viz.domain.manifest import manifest_hash, open_manifest, shares_by_tokens
from viz.domain.ports.ledger import TrainingLedger, TrainingRecord
from viz.domain.units import AdapterId, hex_of
from viz.errors import (
    ChainError,
    ChainMismatch,
    InsufficientFunds,
    InvalidRequest,
    StorageUnavailable,
    StoreError,
    TooMuchGas,
    TransactionFailed,
    UnknownAdapter,
    VizError,
)
from viz.services.adapters.publishing import Publication, Publishing
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.offering import Offering
from viz.services.training.queue import MANIFEST_FILE, TrainingQueue
from viz.services.training.result import require_taught
from viz.services.training.wish import (
    PUBLICATION,
    WISH,
    PublicationWish,
    awaits_publication,
    wish_of,
)

RETRY_S: Final = 15.0
_log = structlog.get_logger()


class RunPublisher:
    """Publishes the adapters of one node's runs."""

    def __init__(
        self,
        trainings: TrainingQueue,
        ledger: TrainingLedger,
        publishing: Publishing,
        offering: Offering,
        catalogue: Catalogue,
        *,
        directory: Path,
        least_percent: tuple[int, int],
        retry_s: float = RETRY_S,
    ) -> None:
        """Take ``directory``, with one folder for each run.

        ``least_percent``: the thresholds for a sale, in percent: right answers, and general
        questions that the adapter still answers right.
        """
        self._trainings, self._ledger = trainings, ledger
        self._publishing, self._offering, self._catalogue = publishing, offering, catalogue
        self._directory, self._least_percent = directory, least_percent
        self._retry_s = retry_s
        # One at a time: a command and the loop may want the same run.
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Publish finished runs whose requests ask for it, until cancelled."""
        while True:
            self._trainings.done.clear()
            waiting = False
            for record in await self._ledger.trainings():
                if awaits_publication(record):
                    waiting = not await self._fulfil(record.training_id) or waiting
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._retry_s if waiting else None):
                    await self._trainings.done.wait()

    async def publish(self, training_id: str, wish: PublicationWish) -> Mapping[str, Any]:
        """Register a run's adapter and put it on offer; return its publication, as JSON values.

        If the registration is not confirmed yet, or the adapter cannot be loaded, ``offer`` is
        None, and ``detail`` says what to do. Raises InvalidRequest if the run has no result,
        AdapterNotTaught, and whatever ``Publishing.publish`` raises.
        """
        async with self._lock:
            return await self._publish(await self._trainings.record(training_id), wish)

    async def _fulfil(self, training_id: str) -> bool:
        """Publish a run as its request asks; return False if it must be tried again."""
        try:
            async with self._lock:
                record = await self._trainings.record(training_id)
                if not awaits_publication(record):  # a command has published it in the meantime
                    return True
                wish = wish_of(record.request[WISH])
                found = record.result.get(PUBLICATION, {})
                if "adapter_id" in found:
                    told = await self._offer(training_id, wish, dict(found))
                else:
                    told = await self._publish(record, wish)
        except ChainMismatch:
            raise
        except Exception as error:  # noqa: BLE001  one run's fault must not hold up the others
            told = _refused(training_id, error)
            with contextlib.suppress(StoreError):  # it is tried again: the wish is still stored
                record = await self._trainings.record(training_id)
                if awaits_publication(record) and told != record.result.get(PUBLICATION):
                    await self._trainings.published(training_id, told)
        return told["state"] in ("published", "refused")

    async def _publish(self, record: TrainingRecord, wish: PublicationWish) -> dict[str, Any]:
        """Register a run's adapter and put it on offer; the lock is held."""
        publication = publication_of(
            record, wish, directory=self._directory, least_percent=self._least_percent
        )
        made = await self._publishing.publish(publication)
        told = {
            "state": "registered",
            "adapter_id": int(made.adapter_id),
            "cid": made.cid,
            "weights_digest": hex_of(made.weights_digest),
            "transaction": hex_of(made.transaction.hash),
            "offer": None,
        }
        return await self._offer(record.training_id, wish, told)

    async def _offer(
        self, training_id: str, wish: PublicationWish, told: dict[str, Any]
    ) -> dict[str, Any]:
        """Put a registered adapter on offer, and store the result in the run's row."""
        adapter_id = AdapterId(told["adapter_id"])
        try:
            await self._trainings.published(training_id, told)
            offer = await self._offering.put_on_offer(adapter_id, wish.terms)
            if wish.succeeds is not None:
                await self._catalogue.succeed(wish.succeeds, adapter_id)
            told = {**told, "state": "published", "offer": offer.to_json()}
            told.pop("detail", None)
        except Exception as error:  # noqa: BLE001  it is paid for: the operator must learn the id
            passes = _passes(error) or isinstance(error, UnknownAdapter)
            state = "registered" if passes else "published"
            told = {**told, "state": state, "detail": _not_on_offer(adapter_id, error)}
        try:
            await self._trainings.published(training_id, told)
        except VizError as error:  # the same: the loop puts it on offer again
            _log.error("a publication is not stored", training=training_id, reason=error.detail)
        return told


def publication_of(
    record: TrainingRecord,
    wish: PublicationWish,
    *,
    directory: Path,
    least_percent: tuple[int, int],
) -> Publication:
    """Return the input of ``Publishing.publish``; shares follow the works' sizes in tokens.

    Raises InvalidRequest if the run has no result, AdapterNotTaught if its report card is below the
    thresholds and the wish does not say ``anyway``.
    """
    if record.state != "done":
        raise InvalidRequest(f"training {record.training_id} is {record.state}, not done")
    folder = directory / record.training_id
    try:
        envelope = (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"the files of training {record.training_id} cannot be read ({error.strerror}): "
            "train again"
        ) from error
    manifest = open_manifest(envelope)
    if not wish.anyway:
        require_taught(card_of(manifest.measurements), *least_percent)
    made = Publication(
        weights=folder / "adapter.safetensors",
        base_model=manifest.base_model,
        manifest_hash=manifest_hash(envelope),
        royalty_bps=wish.royalty_bps,
        trainer_bps=wish.trainer_bps,
        shares=shares_by_tokens(manifest.works),
    )
    return made if wish.shares is None else replace(made, shares=wish.shares)


def _passes(error: Exception) -> bool:
    """Return whether an error may end by itself, or by what the operator does outside the run."""
    if isinstance(error, TransactionFailed):
        return isinstance(error, TooMuchGas | InsufficientFunds)
    return isinstance(error, ChainError | StorageUnavailable | StoreError)


def _refused(training_id: str, error: Exception) -> dict[str, Any]:
    """Return the publication of a run that is not registered, with what to do."""
    if not isinstance(error, VizError):
        _log.error("a run is not published", training=training_id, exc_info=error)
        detail, code = "an unexpected error, which is in the node's log", VizError.code
    else:
        detail, code = error.detail, error.code
    if isinstance(error, TooMuchGas):
        detail += (
            ". Nothing is lost, and it is tried again: name an endpoint that allows more gas in "
            "chain.rpc_url and restart the node. To stop trying: `viz training cancel "
            f"{training_id}`; `viz adapter register {training_id}` publishes it later. If the "
            "limit is the chain's own, no endpoint helps: cancel, and train on fewer works"
        )
    if _passes(error):
        return {"state": "waiting", "code": code, "detail": detail}
    _log.warning("a run is not published", training=training_id, code=code)
    return {"state": "refused", "code": code, "detail": detail}


def _not_on_offer(adapter_id: AdapterId, error: Exception) -> str:
    """Say what the operator must do to put a registered adapter on offer."""
    activate = f"`viz adapter activate {adapter_id}`"
    if isinstance(error, UnknownAdapter):
        return (
            f"adapter {adapter_id} is registered and not confirmed yet: put it on offer later with "
            f"{activate}"
        )
    if isinstance(error, VizError):
        reason = error.detail
    else:
        reason = "an unexpected error, which is in the log"
        _log.error("a registered adapter is not on offer", adapter=adapter_id, exc_info=error)
    return (
        f"adapter {adapter_id} is registered and could not be put on offer ({reason}): do not "
        f"register it again, put it on offer with {activate}"
    )
