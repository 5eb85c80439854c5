"""Run a node: open its backends, build its services, serve HTTP, and stop everything in order.

One TaskGroup runs all loops, each under a supervisor: only a chain that is not the ledger's ends
the node. The node stops in this order: it refuses new requests, running streams finish within the
grace time, their bills are written, then ledger and chain are closed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from viz.api.app import create_app, create_runner
from viz.api.connections.listening import listen, listen_for_operator, refuse_taken_port
from viz.api.context import ApiLimits, NodeTerms
from viz.backends import open_backends, service_settings
from viz.basemodel.preparation import ReportProgress
from viz.composition.services import build_services, loops, node_context, restore
from viz.composition.settings import SUGGESTED_DEPOSIT_UNITS
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address
from viz.errors import ConfigError
from viz.settings.config import Config
from viz.settings.secret import kept_secret
from viz.storage.sealing import recipient_of

RECURSION_LIMIT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Node:
    """A running node: its address, its URL, and the operator's token."""

    url: str
    address: Address
    deployment: Deployment
    operator_token_file: Path


Ready = Callable[[Node], Awaitable[None]]


async def run_node(
    config: Config,
    ready: Ready,
    *,
    new_ledger: bool = False,
    report: ReportProgress = lambda done: None,
) -> None:
    """Run a node until cancelled; ``ready`` is called once, when the node answers.

    ``report`` is called with the finished part, 0 to 1, of the base model's preparation, which is
    done once on a machine. ``new_ledger`` creates a ledger if there is none, without asking the
    chain whether there should be one. Raises ConfigError, InvalidKeyFile, ChainUnreachable,
    ChainMismatch, BooksMismatch, StoreError, ModelUnavailable, StorageUnavailable. Each says what
    to do, and nothing was changed.
    """
    _require_begun(config)
    refuse_taken_port(config.api.host, config.api.port)
    token_file = config.at(Path("operator.token"))
    async with open_backends(config, new_ledger=new_ledger, report=report) as opened:
        bound_recursion()  # by now every library is loaded
        backends = opened.backends
        services = build_services(
            backends, service_settings(config, development=opened.development)
        )
        await restore(backends, services)
        terms = NodeTerms(
            suggested_deposit_units=SUGGESTED_DEPOSIT_UNITS,
            operator_token=kept_secret(token_file, random_bytes=32),
            age_recipient=recipient_of(backends.age_identity),
        )
        app = create_app(node_context(backends, services, terms), _limits(config))
        runner = create_runner(app, shutdown_timeout_s=config.api.shutdown_grace_s)
        running = {**loops(services), "watcher": opened.watcher(services).run}
        await runner.setup()
        try:
            url = await listen(
                runner,
                config.api.host,
                config.api.port,
                max_connections=config.api.max_connections,
            )
            await listen_for_operator(runner, config.data_dir)
            async with asyncio.TaskGroup() as group:
                for name, loop in running.items():
                    group.create_task(services.supervisor.run(name, loop))
                await ready(Node(url, backends.writer.address, opened.deployment, token_file))
        finally:
            await runner.cleanup()


def bound_recursion() -> None:
    """Set the interpreter's recursion limit back to Python's default.

    py_ecc, which web3 imports, raises it to 100,000. The C stack overflows long before that, so a
    deep recursion would end the process instead of raising RecursionError.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)


def _limits(config: Config) -> ApiLimits:
    return ApiLimits(
        config.api.max_body_bytes,
        config.api.client_timeout_s,
        config.relay.questions_per_minute,
        config.api.trusted_proxies,
        config.api.forwarded_header,
    )


def _require_begun(config: Config) -> None:
    """Raise ConfigError that says how to create a node, if the data directory has none."""
    key, deployment = config.at(config.chain.key_file), config.at(config.chain.deployment)
    if not key.exists() and not deployment.exists():
        raise ConfigError(
            f"there is no node in {config.data_dir}: `viz up` makes one with a chain of its own; "
            f"for a chain that is there, make its key with `viz key new {key}` and put the "
            f"deployment at {deployment} (`viz trust URL` keeps another node's)"
        )
