"""What the handlers talk to, and how they reach it.

Owns the names of the application's parts and the reading of a request's credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from aiohttp import web

from viz.api.client_address import Network, client_of
from viz.api.rate_limit import Looks, RateLimit
from viz.domain.ports.blobs import BlobStore
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import Engine
from viz.domain.ports.ledger import AccessRecord, Ledger, TrainingRecord
from viz.domain.typed_data import channel_id
from viz.domain.units import AdapterId, Address, Cid, Units, hex_of
from viz.errors import InvalidRequest
from viz.protocol.credential import bearer_of_header
from viz.services.market.licensing import Licensing
from viz.services.market.publishing import Publication, Publishing
from viz.services.payments.sessions import Sessions
from viz.services.serving.admission import Serving
from viz.services.serving.catalogue import Catalogue
from viz.services.settlement.claim_loop import ClaimService
from viz.services.settlement.reconciliation import Reconciliation
from viz.services.upkeep.clock_check import ClockCheck


class Blocks(BlobStore, Protocol):
    """A blob store that also gives out single verified blocks, and a blob chunk by chunk."""

    async def block(self, cid: Cid) -> bytes: ...

    def chunks(self, root: Cid, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield verified chunks of at most 256 KiB, in order; what fails may fail in the midst."""
        ...


class Trainings(Protocol):
    """Whoever runs trainings; requests and progress are plain JSON values."""

    async def start(self, request: Mapping[str, Any]) -> TrainingRecord:
        """Check the request and queue the run. Raises InvalidRequest, NoLiveGrant."""
        ...

    async def cancel(self, training_id: str) -> TrainingRecord: ...

    async def record(self, training_id: str) -> TrainingRecord:
        """Return a run. Raises InvalidRequest."""
        ...

    async def plan(self, request: Mapping[str, Any]) -> Any:
        """Say what the request would cost, as a value. Raises InvalidRequest, InvalidWork."""
        ...

    def publication(
        self, record: TrainingRecord, *, royalty_bps: int, trainer_bps: int, anyway: bool = False
    ) -> Publication:
        """Return what a run that is done registers. Raises InvalidRequest, AdapterNotTaught."""
        ...

    def events(self, training_id: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield progress until the run has ended; the last event has ``state``."""
        ...


@dataclass(frozen=True, slots=True)
class NodeTerms:
    """What the node says of itself. ``operator_token`` is a secret."""

    realm: str
    suggested_deposit_units: Units
    minimum_deposit_units: Units
    operator_token: str

    def __repr__(self) -> str:
        return f"Shop(realm={self.realm!r})"


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """The bounds of one request.

    A client has ``client_timeout_s`` for its headers, again for its body, and again for every
    piece of the answer that it lets wait; a connection may idle as long between two requests.
    """

    max_body_bytes: int = 2 * 1024 * 1024
    client_timeout_s: float = 60.0
    questions_per_minute: int = 600
    trusted_proxies: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeContext:
    """Everything that the handlers use."""

    sessions: Sessions
    serving: Serving
    catalogue: Catalogue
    ledger: Ledger
    chain: ChainReader
    engine: Engine
    blobs: Blocks
    licensing: Licensing
    publishing: Publishing
    settlement: ClaimService
    clock: Clock
    shop: NodeTerms
    watchdog: Reconciliation
    trainings: Trainings | None = None
    clock_check: ClockCheck | None = None


PARTS: Final = web.AppKey("parts", NodeContext)
LIMITS: Final = web.AppKey("limits", ApiLimits)
QUESTIONS: Final = web.AppKey("questions", RateLimit)
"""Looks at the chain; whoever looks a lot must not keep others from paying or from signing in."""
PAYMENTS: Final = web.AppKey("payments", RateLimit)
LOGINS: Final = web.AppKey("logins", RateLimit)
LOOKS: Final = web.AppKey("looks", Looks)
RUNNING: Final = web.AppKey("running", set[tuple[bytes, str]])
"""Idempotency keys whose first request is under way, each with its access token's hash."""
REQUEST_ID: Final = web.RequestKey("request_id", str)
STOPPING: Final = web.AppKey("stopping", asyncio.Event)


def parts_of(request: web.Request) -> NodeContext:
    """Return the application's parts."""
    return request.app[PARTS]


async def send(
    request: web.Request, response: web.StreamResponse, data: bytes, *, last: bool = False
) -> None:
    """Write a piece of an answer; raise ConnectionResetError when the other side is gone.

    Who does not read for ``client_timeout_s`` is gone as well: its connection is cut off, for it
    would hold its place in the engine as long as it likes.
    """
    try:
        async with asyncio.timeout(request.app[LIMITS].client_timeout_s):
            await (response.write_eof(data) if last else response.write(data))
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the other side does not read") from None


async def access_of(request: web.Request) -> AccessRecord:
    """Return who sends the request; raise AccessTokenInvalid, TooManyQuestions."""
    token = bearer_of_header(request.headers.get("Authorization", ""))
    sessions = parts_of(request).sessions
    if not sessions.holds(token):
        # Anybody can invent tokens, and each would be looked up in the ledger.
        request.app[LOGINS].admit(client_of(request))
    access = await sessions.authenticate(token)
    ask_chain(request, access.signer)
    return access


def ask_chain(
    request: web.Request,
    signer: Address | None = None,
    *,
    budget: web.AppKey[RateLimit] = QUESTIONS,
) -> None:
    """Count a request that makes the node ask its chain; raise TooManyQuestions.

    Not that of a ``signer`` whose voucher was taken: anybody can make keys, and sign.
    """
    if signer is None or not parts_of(request).sessions.has_paid(signer):
        request.app[budget].admit(client_of(request))


def name_channel(request: web.Request, signer: Address) -> None:
    """Put the channel's id into every log line of this request from here on."""
    channel = hex_of(channel_id(signer, parts_of(request).sessions.node))
    structlog.contextvars.bind_contextvars(channel=channel)


def number_of(request: web.Request, name: str, maximum: int = 2**32 - 1) -> int:
    """Return a number from the path; raise InvalidRequest."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= 20) or int(text) > maximum:
        raise InvalidRequest(f"{text[:40]!r} is not a number of 0 to {maximum}")
    return int(text)


def adapter_of(request: web.Request) -> AdapterId:
    """Return the adapter that the path names."""
    return AdapterId(number_of(request, "adapter_id"))
