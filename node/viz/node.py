"""The composition root: every part of a running node, made once, joined once, ended in order.

Owns which class stands behind which Protocol, the loops and their end. Knows no rule of the market:
each line here hands a part to another. One TaskGroup holds all loops, each supervised: only a chain
that is not the books' own ends the node. Ends in order: no new requests, streams finish within the
grace, vouchers on disk, chain.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from eth_account.signers.local import LocalAccount

from viz.api.app import create_app, create_runner
from viz.api.context import ApiLimits, Blocks, NodeContext, NodeTerms
from viz.api.listening import listen, refuse_taken_port
from viz.basemodel.source import (
    DEFAULT_BASE,
    DEFAULT_BASE_DIGEST,
    LoadedBase,
    load_base,
    models_folder,
)
from viz.chain.contracts import Chain
from viz.chain.deploy import DEVELOPMENT_CHAINS
from viz.chain.deployment import load_deployment
from viz.chain.keys import load_key_file
from viz.chain.reach import check_when_reached
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.chain.watcher import Watcher
from viz.config import Config
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.chain import Deployment
from viz.domain.ports.transactions import Event
from viz.domain.pricing import Price
from viz.domain.units import Address, Hash32, hex_of
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ConfigError
from viz.secret import kept_secret
from viz.services.market.licensing import REGISTRATIONS, Licensing
from viz.services.market.publishing import Publishing
from viz.services.payments.channels import ChannelStore
from viz.services.payments.freshness import ChainAccess
from viz.services.payments.metering import MeterTools
from viz.services.payments.new_ledger import open_ledger
from viz.services.payments.quotes import Quotes
from viz.services.payments.receipts import bill_interrupted
from viz.services.payments.relay_budget import RESERVE_BPS, RelayPolicy
from viz.services.payments.sessions import SessionPolicy, Sessions
from viz.services.serving.admission import Serving
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.paid_stream import ServingPolicy
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService
from viz.services.settlement.reconciliation import Reconciliation
from viz.services.training.queue import TrainingQueue, seal_with
from viz.services.upkeep.clock_check import ClockCheck
from viz.services.upkeep.maintenance import Maintenance
from viz.services.upkeep.supervision import Supervisor
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.kubo import KuboBlobStore
from viz.training.run import Bounds

SUGGESTED_DEPOSIT_UNITS = 1_000_000
_log = structlog.get_logger()


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> int:
        return int(time.time())


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers: where, as whom, and the token that its operator acts with."""

    url: str
    address: Address
    deployment: Deployment
    operator_token_file: Path


Ready = Callable[[Node], Awaitable[None]]
Loop = Callable[[], Coroutine[Any, Any, None]]


async def run_node(config: Config, ready: Ready, *, new_ledger: bool = False) -> None:
    """Run a node until cancelled; ``ready`` is called once, when it answers.

    ``new_ledger`` begins one where there is none, whatever the chain has. Raises ConfigError,
    InvalidKeyFile, ChainUnreachable, ChainMismatch, BooksMismatch, StoreError, ModelUnavailable,
    StorageUnavailable: each says what to do, and nothing was changed.
    """
    _require_begun(config)
    refuse_taken_port(config.api.host, config.api.port)
    supervisor = Supervisor()
    async with _node(config, new_ledger=new_ledger) as (parts, loops, described):
        limits = ApiLimits(
            config.api.max_body_bytes,
            config.api.client_timeout_s,
            config.relay.questions_per_minute,
            config.api.trusted_proxies,
        )
        app = create_app(parts, limits)
        runner = create_runner(app, shutdown_timeout_s=config.api.shutdown_grace_s)
        await runner.setup()
        try:
            url = await listen(
                runner,
                config.api.host,
                config.api.port,
                max_connections=config.api.max_connections,
            )
            async with asyncio.TaskGroup() as group:
                for name, loop in loops.items():
                    group.create_task(supervisor.run(name, loop))
                await ready(described(url))
        finally:
            await runner.cleanup()


@asynccontextmanager
async def _node(
    config: Config, *, new_ledger: bool
) -> AsyncIterator[tuple[NodeContext, dict[str, Loop], Callable[[str], Node]]]:
    async with AsyncExitStack() as ends:
        account = await asyncio.to_thread(_account, config)
        deployment = load_deployment(config.at(config.chain.deployment))
        rpc = Rpc(config.chain.rpc_url, timeout_s=config.chain.timeout_s)
        ends.push_async_callback(rpc.close)
        await check_when_reached(rpc, deployment, wait_s=config.chain.wait_s)
        development = deployment.chain_id in DEVELOPMENT_CHAINS
        depth = config.chain.depth(deployment.chain_id, development=development)
        chain = Chain(rpc, deployment, confirmations=depth)
        config.settlement.require_in_time(await chain.settlement.close_delay_s())
        place, books_of = config.at(Path("ledger.sqlite")), _identity(deployment, account)
        ledger = await open_ledger(place, books_of, chain.settlement, new=new_ledger)
        ends.push_async_callback(ledger.close)
        blobs = await _blobs(config)
        ends.push_async_callback(blobs.close)
        base = await asyncio.to_thread(_base, config)
        engine = await EmbeddedEngine.start(base, _engine_settings(config))
        ends.push_async_callback(engine.close)

        clock, key = SystemClock(), bytes(account.key)
        sender = Sender(
            rpc, account, deployment, journal=ledger, max_fee_wei=config.chain.max_fee_wei
        )
        domain = settlement_domain(deployment.chain_id, deployment.settlement)
        price = Price(
            config.prices.prompt_units_per_million, config.prices.completion_units_per_million
        )
        access = ChainAccess(clock)
        books = ChannelStore(ledger, chain, clock, sender.address, access=access)
        catalogue = Catalogue(
            ledger, chain, engine, clock, node=sender.address, list_price=price, access=access
        )
        settlement = ClaimService(
            chain,
            sender,
            ledger,
            clock,
            ClaimPolicy(
                config.settlement.claim_at_units,
                config.settlement.claim_age_s,
                config.settlement.interval_s,
                coin_units=0 if development else config.settlement.coin_price_units,
            ),
            fee_wei=chain.fee_wei,
            claim_by=catalogue.claim_by,
        )
        books.tell_closing(settlement.close_requested)
        clock_check = ClockCheck(
            rpc.next_block_time_s, chain.chain_time, clock, development=development
        )
        sessions = Sessions(
            books,
            ledger,
            chain,
            sender,
            claimer=settlement,
            adapters=catalogue,
            clock=clock,
            key=key,
            policy=SessionPolicy(
                config.api.origin,
                config.prices.minimum_deposit_units,
                relays=RelayPolicy(
                    config.relay.per_hour,
                    config.relay.per_payer_per_hour,
                    gas_per_hour=config.relay.gas_per_hour,
                    wei_per_hour=config.relay.wei_per_hour,
                    reserve_bps=RESERVE_BPS,
                    coin_units=0 if development else config.settlement.coin_price_units,
                ),
                fee_wei=chain.fee_wei,
                require_clock=clock_check.require,
            ),
        )
        tools = MeterTools(
            books,
            clock,
            domain,
            sender.address,
            key,
            engine.count_tokens,
            config.prices.credit_window_units,
        )
        await bill_interrupted(tools, ledger)
        serving = Serving(
            books,
            catalogue,
            engine,
            chain,
            quotes=Quotes(
                domain,
                sender.address,
                key,
                clock,
                tokenizer_digest=engine.model.tokenizer_digest,
                valid_s=config.prices.quote_valid_s,
            ),
            tools=tools,
            clock=clock,
            policy=ServingPolicy(voucher_grace_s=config.prices.voucher_grace_s),
        )
        licensing = Licensing(
            chain,
            sender,
            clock,
            relays=registration_policy(config, development=development),
            fee_wei=chain.fee_wei,
        )
        watchdog = Reconciliation(
            ledger,
            chain,
            clock,
            sender.address,
            interval_s=config.settlement.compare_interval_s,
            closing=settlement.close_requested,
        )
        books.distrust(watchdog.mismatches)
        publishing = Publishing(
            chain,
            sender,
            blobs,
            config.at(Path("adapters")),
            engine=engine,
            max_blob_bytes=config.storage.max_blob_bytes,
        )
        training = TrainingQueue(
            chain,
            ledger,
            clock,
            sender.address,
            seal_with(key),
            directory=config.at(Path("trainings")).absolute(),
            base_model=config.engine.base_model,
            cache_dir=models_folder(config.data_dir),
            threads=config.training.threads or os.cpu_count() or 1,
            bounds=Bounds(config.training.max_memory_mib << 20, config.training.max_time_s),
            least_percent=(
                config.training.least_right_percent,
                config.training.least_kept_percent,
            ),
        )
        await catalogue.restore(publishing.weights)
        sessions.remember(await ledger.channels())
        parts = NodeContext(
            sessions=sessions,
            serving=serving,
            catalogue=catalogue,
            ledger=ledger,
            chain=chain,
            engine=engine,
            blobs=blobs,
            licensing=licensing,
            publishing=publishing,
            settlement=settlement,
            clock=clock,
            shop=NodeTerms(
                realm=config.api.origin,
                suggested_deposit_units=SUGGESTED_DEPOSIT_UNITS,
                minimum_deposit_units=config.prices.minimum_deposit_units,
                operator_token=_operator_token(config),
            ),
            trainings=training,
            watchdog=watchdog,
            clock_check=clock_check,
        )
        watcher = Watcher(
            rpc,
            deployment,
            ledger,
            _heard,
            close_requested=_closer(settlement),
            confirmations=depth,
        )

        def described(url: str) -> Node:
            return Node(url, sender.address, deployment, config.at(Path("operator.token")))

        housekeeping = Maintenance(ledger, clock)
        loops: dict[str, Loop] = {
            "books": books.run,
            "settlement": settlement.run,
            "watcher": watcher.run,
            "training": training.run,
            "housekeeping": housekeeping.run,
            "watchdog": watchdog.run,
            "clock": clock_check.run,
        }
        yield parts, loops, described


async def _heard(events: Sequence[Event]) -> None:
    """Log them. Nothing of an event is kept, so a reorganisation has nothing to roll back but the
    cursor: whatever counts is read anew from the confirmed chain."""
    for event in events:
        _log.debug("chain event", of=event.contract, name=event.name, block=event.block_number)


def _closer(settlement: ClaimService) -> Callable[[Event], Awaitable[None]]:
    async def close_requested(event: Event) -> None:
        await settlement.channel_closing(Hash32(event.args["channelId"]))

    return close_requested


def registration_policy(config: Config, *, development: bool) -> RelayPolicy | None:
    """Return the bounds of relayed registrations; None where this node sends none."""
    wanted = config.relay.registrations
    if not (development if wanted == "auto" else wanted):
        return None
    return replace(
        REGISTRATIONS,
        per_minute=config.relay.registrations_per_minute,
        gas_per_hour=config.relay.gas_per_hour,
        wei_per_hour=config.relay.wei_per_hour,
    )


def _require_begun(config: Config) -> None:
    """Raise ConfigError that says how to begin, where the data directory holds no node at all."""
    key, deployment = config.at(config.chain.key_file), config.at(config.chain.deployment)
    if not key.exists() and not deployment.exists():
        raise ConfigError(
            f"there is no node in {config.data_dir}: `viz up` makes one with a chain of its own; "
            f"for a chain that is there, make its key with `viz key new {key}` and put the "
            f"deployment at {deployment} (`viz trust URL` keeps another node's)"
        )


def _account(config: Config) -> LocalAccount:
    password = config.key_password.get_secret_value()
    if not password:
        raise ConfigError(
            "the node's key needs its password: set VIZ_KEY_PASSWORD or VIZ_KEY_PASSWORD_FILE"
        )
    return load_key_file(config.at(config.chain.key_file), password)


def _identity(deployment: Deployment, account: LocalAccount) -> dict[str, str]:
    return {
        "node": account.address,
        "chain": str(deployment.chain_id),
        "genesis": hex_of(deployment.genesis),
        "settlement": deployment.settlement,
    }


async def _blobs(config: Config) -> Blocks:
    if config.storage.backend == "embedded":
        return EmbeddedBlobStore(config.at(Path("blobs")))
    store = KuboBlobStore(config.storage.kubo_api, timeout_s=config.storage.timeout_s)
    _log.info("blobs in kubo", version=await store.version(), api=config.storage.kubo_api)
    return store


def _base(config: Config) -> LoadedBase:
    """Return the base model that the operator accepts; raise ModelUnavailable for another."""
    source, pinned = config.engine.base_model, config.engine.base_digest
    if not pinned and source == DEFAULT_BASE:
        pinned = DEFAULT_BASE_DIGEST
    accepted = frozenset({Hash32(bytes.fromhex(pinned.removeprefix("0x")))} if pinned else ())
    return load_base(source, cache_dir=models_folder(config.data_dir), allowed=accepted)


def _engine_settings(config: Config) -> EngineSettings:
    return EngineSettings(
        max_streams=config.engine.max_streams,
        context_tokens=config.engine.context_tokens,
        resident_adapters=config.engine.resident_adapters,
        memory_bytes=config.engine.max_memory_mib << 20,
        grace_s=config.engine.grace_s,
        threads=config.engine.threads,
        compute=config.engine.compute,
        compile=config.engine.compile,
    )


def _operator_token(config: Config) -> str:
    """Return what the operator's commands authenticate with; made once, readable by its owner."""
    return kept_secret(config.at(Path("operator.token")), random_bytes=32)
