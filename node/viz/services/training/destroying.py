"""Build the ``WorkDestruction`` of a node from everything that stores data of works.

This is the only place that lists the holders. A part of the node that stores bytes or keys of works
must be listed here, or it would keep them after a withdrawal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viz.domain.eip712 import Domain
from viz.domain.ports.blobs import DeniableStore
from viz.domain.ports.custody import KeyStore
from viz.domain.ports.settlement_ledger import Store
from viz.domain.units import Address
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.training.holdings import TrainingHoldings
from viz.services.withdrawal.adapter_holdings import AdapterHoldings
from viz.services.withdrawal.destruction import WorkDestruction
from viz.services.withdrawal.listing_holdings import ListingHoldings
from viz.services.withdrawal.work_holdings import WorkHoldingsHere


@dataclass(frozen=True, slots=True)
class DestructionSettings:
    """The folders of works and certificates, and the operator's choice.

    ``data_dir`` is the node's data folder. ``named_files``: also destroy work files outside it that
    trainings named.
    """

    data_dir: Path
    trainings_dir: Path
    certificates_dir: Path
    named_files: bool


def build_destruction(
    settings: DestructionSettings,
    ledger: Store,
    blobs: DeniableStore,
    keys: KeyStore,
    works: LicensedWorks,
    *,
    adapters: AdapterHoldings,
    key: bytes,
    domain: Domain,
    node: Address,
) -> WorkDestruction:
    """Return the node's destruction; certificates are signed with ``key`` in ``domain``."""
    # Runs before opened works: a run's record takes a work's id from the record beside its file.
    holders = (
        adapters,
        TrainingHoldings(ledger, adapters, settings.trainings_dir, settings.data_dir),
        WorkHoldingsHere(ledger, blobs, keys, works),
        ListingHoldings(ledger),
    )
    return WorkDestruction(
        holders,
        settings.certificates_dir,
        settings.data_dir,
        key=key,
        domain=domain,
        node=node,
        named_files=settings.named_files,
    )
