"""Define what a node's services are built from: its backends and the operator's settings.

``viz.backends`` fills both; the HTTP tests fill them with fakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from viz.domain.engines import Engines
from viz.domain.notices import NoticeRule
from viz.domain.ports.blobs import DeniableStore
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.custody import BlobSources, KeyStore
from viz.domain.ports.peers import PeerHttp
from viz.domain.ports.settlement_ledger import Store
from viz.domain.ports.transactions import ChainWriter
from viz.domain.pricing import Price
from viz.domain.units import Hash32, Units
from viz.services.custody.custodian import CustodyPolicy
from viz.services.payments.deposit_relay import DepositPolicy
from viz.services.payments.relay_budget import RelayPolicy
from viz.services.payments.sessions import SessionPolicy
from viz.services.serving.paid_stream import ServingPolicy
from viz.services.settlement.claim_loop import ClaimPolicy
from viz.services.training.destroying import DestructionSettings
from viz.training.run import Bounds

SUGGESTED_DEPOSIT_UNITS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Backends:
    """The services' connections to the outside.

    ``key`` is the node's private key; keys of sealed blobs for this node are wrapped for
    ``age_identity``.
    """

    ledger: Store
    chain: ChainReader
    writer: ChainWriter
    engines: Engines
    blobs: DeniableStore
    keys: KeyStore
    sources: BlobSources
    peers: PeerHttp
    clock: Clock
    key: bytes = field(repr=False)
    age_identity: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrainingQueueSettings:
    """The directory of training runs, that of base models, and the runs' bounds.

    ``least_percent`` is the two percentages that an adapter must reach to be sold: of questions
    answered right, and of general questions still answered right.
    """

    directory: Path
    cache_dir: Path
    threads: int
    device: str
    bounds: Bounds
    least_percent: tuple[int, int]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How others reach this node, and which addresses it asks.

    ``origin`` is what buyers sign for. ``public_url`` is announced at the start if it is not empty.
    ``discover_s`` is the seconds between two rounds over the directory.
    """

    origin: str
    public_url: str = ""
    private_addresses: bool = False
    discover_s: float = 300.0


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The operator's terms and bounds, as the services need them.

    ``base_prices`` are the list prices of base models that have other ones than ``list_price``.
    ``registrations`` is None if the node relays no registrations. ``adapters_dir`` holds the plain
    weights of active adapters, ``licenses_dir`` the license documents to serve, ``works_dir`` the
    opened licensed works, ``sealed_dir`` sealed blobs during upload and download, ``receipts_dir``
    the published periods of receipts, ``manifests_dir`` the manifests of adapters that were trained
    elsewhere. ``development``: a local chain, whose time can be moved.
    """

    sessions: SessionPolicy
    deposits: DepositPolicy
    serving: ServingPolicy
    claims: ClaimPolicy
    registrations: RelayPolicy | None
    list_price: Price
    base_prices: Mapping[Hash32, Price]
    credit_window_units: Units
    quote_valid_s: int
    compare_interval_s: float
    adapters_dir: Path
    licenses_dir: Path
    works_dir: Path
    sealed_dir: Path
    receipts_dir: Path
    manifests_dir: Path
    custody: CustodyPolicy
    destruction: DestructionSettings
    max_blob_bytes: int
    training: TrainingQueueSettings
    network: NetworkSettings
    notices: NoticeRule
    development: bool
