"""Open the backends of a running node, and convert its configuration for the services.

Only this module, and ``viz.started_engines`` for the engines, choose the class for each Protocol
and read the whole configuration: every other part gets just the values that it needs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.basemodel.preparation import ReportProgress
from viz.basemodel.source import models_folder
from viz.chain.contracts import Chain
from viz.chain.deployment import load_deployment
from viz.chain.keys import load_key_file
from viz.chain.reach import check_when_reached
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.chain.watcher import Watcher
from viz.clock import SystemClock
from viz.composition.services import Services
from viz.composition.settings import (
    Backends,
    NetworkSettings,
    ServiceSettings,
    TrainingQueueSettings,
)
from viz.domain.notices import NoticeRule
from viz.domain.ports.blobs import DeniableStore
from viz.domain.ports.chain import DEVELOPMENT_CHAINS, Deployment
from viz.domain.ports.settlement_ledger import Store
from viz.domain.ports.transactions import Event
from viz.domain.pricing import Price
from viz.domain.units import Address, Hash32, hex_of
from viz.errors import ConfigError
from viz.outbound import Outbound
from viz.private import remove_unfinished
from viz.services.custody.custodian import CustodyPolicy
from viz.services.licensing.creator_relay import REGISTRATIONS
from viz.services.payments.deposit_relay import DepositPolicy
from viz.services.payments.new_ledger import open_ledger
from viz.services.payments.relay_budget import RESERVE_BPS, RelayPolicy
from viz.services.payments.sessions import SessionPolicy
from viz.services.serving.paid_stream import ServingPolicy
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService
from viz.services.training.destroying import DestructionSettings
from viz.settings.config import Config
from viz.settings.secret import kept
from viz.started_engines import base_prices, start_engines
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.key_folder import KeyFolder
from viz.storage.sealing import new_identity
from viz.storage.sources import SourcedBlobs
from viz.training.run import Bounds

if TYPE_CHECKING:
    from viz.storage.kubo import KuboBlobStore

# The file of the identity that keys are wrapped for; the directory has its recipient.
AGE_KEY_FILE: Final = Path("age.key")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OpenBackends:
    """The backends of a running node, and the parts of them that have no Protocol."""

    backends: Backends
    rpc: Rpc
    deployment: Deployment
    ledger: Store
    confirmations: int
    development: bool

    def watcher(self, services: Services) -> Watcher:
        """Return the watcher that reports close requests to the claim loop."""
        return Watcher(
            self.rpc,
            self.deployment,
            self.ledger,
            _log_events,
            close_requested=_close_listener(services.claims),
            confirmations=self.confirmations,
        )


@asynccontextmanager
async def open_backends(
    config: Config, *, new_ledger: bool, report: ReportProgress
) -> AsyncIterator[OpenBackends]:
    """Open key, chain, ledger, blobs and engine, in this order; close them in the reverse order.

    The cheap checks come first, so that a wrong setting is reported before a model is loaded.
    ``report`` is called with the finished part of the base model's one-time preparation. Raises
    ConfigError, InvalidKeyFile, ChainUnreachable, ChainMismatch, BooksMismatch, StoreError,
    ModelUnavailable, StorageUnavailable.
    """
    async with AsyncExitStack() as ends:
        account = await asyncio.to_thread(_account, config)
        deployment = load_deployment(config.at(config.chain.deployment))
        rpc = Rpc(config.chain.rpc_url, timeout_s=config.chain.timeout_s)
        ends.push_async_callback(rpc.close)
        await check_when_reached(rpc, deployment, wait_s=config.chain.wait_s)
        development = deployment.chain_id in DEVELOPMENT_CHAINS
        depth = config.chain.depth(deployment.chain_id, development=development)
        chain = Chain(rpc, deployment, confirmations=depth)
        if not development:
            config.prices.require_worth_relaying(deployment.token_decimals)
        config.settlement.require_in_time(await chain.settlement.close_delay_s())
        place, identity = config.at(Path("ledger.sqlite")), _identity(deployment, account)
        ledger = await open_ledger(
            place,
            identity,
            chain.settlement,
            new=new_ledger,
            sent=lambda: rpc.mined_count(Address(identity["node"])),
        )
        ends.push_async_callback(ledger.close)
        # The ledger is this process's alone, so nobody else writes there.
        await asyncio.to_thread(_remove_unfinished, config)
        blobs = await _blobs(config)
        ends.push_async_callback(blobs.close)
        peers = Outbound(private_addresses=config.network.private_addresses)
        ends.push_async_callback(peers.close)
        engines = await start_engines(config, report, ends)
        sender = Sender(
            rpc, account, deployment, journal=ledger, max_fee_wei=config.chain.max_fee_wei
        )
        backends = Backends(
            ledger,
            chain,
            sender,
            engines,
            blobs,
            KeyFolder(config.at(Path("keys"))),
            SourcedBlobs(blobs, peers, config.at(Path("incoming"))),
            peers,
            SystemClock(),
            bytes(account.key),
            kept(config.at(AGE_KEY_FILE), new_identity),
        )
        yield OpenBackends(backends, rpc, deployment, ledger, depth, development)


def service_settings(config: Config, *, development: bool) -> ServiceSettings:
    """Return the services' part of the configuration; on a ``development`` chain gas is free."""
    coin_units = 0 if development else config.settlement.coin_price_units
    prices, relay = config.prices, config.relay
    return ServiceSettings(
        sessions=SessionPolicy(config.api.origin),
        deposits=DepositPolicy(
            prices.minimum_deposit_units,
            relays=RelayPolicy(
                relay.per_hour,
                relay.per_payer_per_hour,
                gas_per_hour=relay.gas_per_hour,
                wei_per_hour=relay.wei_per_hour,
                reserve_bps=RESERVE_BPS,
                coin_units=coin_units,
            ),
        ),
        serving=ServingPolicy(voucher_grace_s=prices.voucher_grace_s),
        claims=ClaimPolicy(
            config.settlement.claim_at_units,
            config.settlement.claim_age_s,
            config.settlement.interval_s,
            coin_units=coin_units,
        ),
        registrations=registration_policy(config, development=development),
        list_price=Price(prices.prompt_units_per_million, prices.completion_units_per_million),
        base_prices=base_prices(config),
        credit_window_units=prices.credit_window_units,
        quote_valid_s=prices.quote_valid_s,
        compare_interval_s=config.settlement.compare_interval_s,
        adapters_dir=config.at(Path("adapters")),
        licenses_dir=config.at(config.storage.license_documents),
        works_dir=config.at(Path("works")),
        sealed_dir=config.at(Path("sealed")),
        receipts_dir=config.at(Path("receipts")),
        manifests_dir=config.at(Path("manifests")),
        custody=CustodyPolicy(config.storage.custody_bytes, config.storage.custody_bytes_per_owner),
        destruction=DestructionSettings(
            data_dir=config.data_dir,
            trainings_dir=config.at(Path("trainings")).absolute(),
            certificates_dir=config.at(Path("certificates")),
            named_files=config.withdrawal.destroy_named_files,
        ),
        max_blob_bytes=config.storage.max_blob_bytes,
        training=TrainingQueueSettings(
            directory=config.at(Path("trainings")).absolute(),
            cache_dir=models_folder(config.data_dir),
            threads=config.training.threads or os.cpu_count() or 1,
            device=config.training.device,
            bounds=Bounds(config.training.max_memory_mib << 20, config.training.max_time_s),
            least_percent=(
                config.training.least_right_percent,
                config.training.least_kept_percent,
            ),
        ),
        network=NetworkSettings(
            config.api.origin,
            config.api.public_url.rstrip("/"),
            config.network.private_addresses,
            config.network.discover_s,
        ),
        development=development,
        notices=NoticeRule(config.notices.personal_data_s, config.notices.answer_s),
    )


def registration_policy(config: Config, *, development: bool) -> RelayPolicy | None:
    """Return the bounds of relayed registrations; None if this node relays none."""
    wanted = config.relay.registrations
    if not (development if wanted == "auto" else wanted):
        return None
    return replace(
        REGISTRATIONS,
        per_minute=config.relay.registrations_per_minute,
        gas_per_hour=config.relay.gas_per_hour,
        wei_per_hour=config.relay.wei_per_hour,
    )


async def _log_events(events: Sequence[Event]) -> None:
    """Log the events, without storing them.

    So a reorganisation has to roll back only the watcher's cursor: everything that matters is read
    again from the confirmed chain.
    """
    for event in events:
        _log.debug("chain event", of=event.contract, name=event.name, block=event.block_number)


def _close_listener(claims: ClaimService) -> Callable[[Event], Awaitable[None]]:
    async def close_requested(event: Event) -> None:
        await claims.channel_closing(Hash32(event.args["channelId"]))

    return close_requested


def _account(config: Config) -> LocalAccount:
    password = config.key_password.get_secret_value()
    if not password:
        raise ConfigError(
            "the node's key needs its password: set VIZ_KEY_PASSWORD or VIZ_KEY_PASSWORD_FILE"
        )
    return load_key_file(config.at(config.chain.key_file), password)


def _identity(deployment: Deployment, account: LocalAccount) -> dict[str, str]:
    """Return the ledger's identity, so that a ledger of another node or chain is refused."""
    return {
        "node": account.address,
        "chain": str(deployment.chain_id),
        "genesis": hex_of(deployment.genesis),
        "settlement": deployment.settlement,
    }


def open_blobs(config: Config) -> EmbeddedBlobStore | KuboBlobStore:
    """Open the blob store that the configuration names, without its deny list.

    Raises ConfigError, StorageUnavailable.
    """
    storage = config.storage
    if storage.backend == "embedded":
        return EmbeddedBlobStore(
            config.at(Path("blobs")),
            max_bytes=storage.max_bytes,
            lock_timeout_s=storage.timeout_s,
        )
    try:
        from viz.storage.kubo import KuboBlobStore
    except ImportError as error:
        raise ConfigError(
            f'storage.backend "kubo" needs {error.name}, which the core install does not have: '
            'install the extra "node", or set "embedded"'
        ) from error
    return KuboBlobStore(storage.kubo_api, timeout_s=storage.timeout_s)


async def _blobs(config: Config) -> DeniableStore:
    denied, store = DenyList(config.at(Path("withdrawn.deny"))), open_blobs(config)
    if not isinstance(store, EmbeddedBlobStore):
        version = await store.version()
        _log.info("blobs in kubo", version=version, api=config.storage.kubo_api)
    return DenyingBlobStore(store, denied)


def _remove_unfinished(config: Config) -> None:
    """Remove what an earlier process was writing when it was killed: it may be a work in plain."""
    for name in ("sealed", "works", "adapters", "keys"):
        folder = config.at(Path(name))
        try:
            remove_unfinished(folder)
        except OSError as error:
            _log.warning("unfinished files stay", folder=str(folder), reason=error.strerror)
