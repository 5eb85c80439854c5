"""Give the handlers the node's services, and tell them who sends a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiohttp import web

from viz.api.client_address import X_FORWARDED_FOR, IpNetwork, client_of
from viz.api.rate_limit import Looks, RateLimit
from viz.domain.engines import Engines
from viz.domain.ports.blobs import BlockStore
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import AccessRecord, Ledger
from viz.domain.typed_data import channel_id
from viz.domain.units import AdapterId, Address, Units, hex_of
from viz.errors import InvalidRequest
from viz.protocol.credential import bearer_of_header
from viz.services.adapters.publishing import Publishing
from viz.services.custody.custodian import Custodian
from viz.services.licensing.creator_relay import CreatorRelay
from viz.services.licensing.grants import Grants
from viz.services.licensing.license_documents import LicenseDocuments
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.market.announcing import Announcing
from viz.services.market.discovery import Discovery
from viz.services.market.listings import Listings
from viz.services.payments.channel_close import ChannelClose
from viz.services.payments.deposit_relay import DepositRelay
from viz.services.payments.receipt_periods import ReceiptPeriods
from viz.services.payments.sessions import Sessions
from viz.services.payments.vouchers import Vouchers
from viz.services.serving.admission import Admission
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.offering import Offering
from viz.services.settlement.claim_loop import ClaimService
from viz.services.settlement.payouts import Payouts
from viz.services.settlement.reconciliation import Reconciliation
from viz.services.training.provenance import ProvenanceDocuments
from viz.services.training.publisher import RunPublisher
from viz.services.training.queue import TrainingQueue
from viz.services.upkeep.clock_check import ClockCheck
from viz.services.upkeep.supervision import Supervisor
from viz.services.withdrawal.custody_end import CustodyEnding
from viz.services.withdrawal.destruction import WorkDestruction
from viz.services.withdrawal.notices import Notices


@dataclass(frozen=True, slots=True)
class NodeTerms:
    """The deposit that the node suggests to buyers, and the operator's token.

    Keys for this node are sealed to ``age_recipient``.
    """

    suggested_deposit_units: Units
    operator_token: str = field(repr=False)
    age_recipient: str


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Limit what one client may use.

    A client has ``client_timeout_s`` to send its headers, the same time to send its body, and the
    same time to read each piece of the answer. A connection may be idle as long between two
    requests.
    """

    max_body_bytes: int = 2 * 1024 * 1024
    client_timeout_s: float = 60.0
    questions_per_minute: int = 600
    trusted_proxies: tuple[IpNetwork, ...] = ()
    forwarded_header: str = X_FORWARDED_FOR


@dataclass(frozen=True, slots=True)
class NodeContext:
    """Hold the services and backends that the handlers use."""

    sessions: Sessions
    vouchers: Vouchers
    deposit_relay: DepositRelay
    channel_close: ChannelClose
    serving: Admission
    catalogue: Catalogue
    ledger: Ledger
    chain: ChainReader
    engines: Engines
    blobs: BlockStore
    creator_relay: CreatorRelay
    grants: Grants
    license_documents: LicenseDocuments
    listings: Listings
    discovery: Discovery
    announcing: Announcing
    custodian: Custodian
    custody_ending: CustodyEnding
    licensed_works: LicensedWorks
    destruction: WorkDestruction
    publishing: Publishing
    offering: Offering
    settlement: ClaimService
    payouts: Payouts
    clock: Clock
    terms: NodeTerms
    reconciliation: Reconciliation
    trainings: TrainingQueue
    publisher: RunPublisher
    clock_check: ClockCheck
    supervisor: Supervisor
    provenance: ProvenanceDocuments
    receipt_periods: ReceiptPeriods
    notices: Notices


PARTS: Final = web.AppKey("parts", NodeContext)
LIMITS: Final = web.AppKey("limits", ApiLimits)
QUESTIONS: Final = web.AppKey("questions", RateLimit)
"""Questions that the node asks its chain for somebody.

Payments and logins have budgets of their own, so that one client who asks a lot cannot keep others
from paying or from signing in behind the same address.
"""
PAYMENTS: Final = web.AppKey("payments", RateLimit)
LOGINS: Final = web.AppKey("logins", RateLimit)
LOOKS: Final = web.AppKey("looks", Looks)
RUNNING: Final = web.AppKey("running", set[tuple[bytes, str]])
"""Idempotency keys whose first request is under way, each with its access token's hash."""
UNBUFFERED_BYTES: Final = 16 * 1024
"""Less than what a connection buffers before a writer has to wait (64 KiB in asyncio)."""
MAX_DIGITS: Final = 15
REQUEST_ID: Final = web.RequestKey("request_id", str)
STOPPING: Final = web.AppKey("stopping", asyncio.Event)


def parts_of(request: web.Request) -> NodeContext:
    """Return the node's services and backends."""
    return request.app[PARTS]


async def send(
    request: web.Request, response: web.StreamResponse, data: bytes, *, last: bool = False
) -> None:
    """Write a piece of an answer; raise ConnectionResetError if the client is gone.

    A client that reads nothing for ``client_timeout_s`` is cut off. Otherwise it could keep its
    place in the engine as long as it likes.
    """
    transport = request.transport
    if (
        transport is not None
        and type(response) is web.StreamResponse  # other responses write their own body
        and len(data) <= UNBUFFERED_BYTES
        and not transport.get_write_buffer_size()
        and response.prepared
    ):
        # Everything written before has reached the kernel, and this piece does not fill the
        # buffer, so that the write cannot block and needs no timer.
        await (response.write_eof(data) if last else response.write(data))
        return
    try:
        async with asyncio.timeout(request.app[LIMITS].client_timeout_s):
            await (response.write_eof(data) if last else response.write(data))
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None


async def access_of(request: web.Request) -> AccessRecord:
    """Return the access that the request's token gives.

    Raises AccessTokenInvalid, TooManyQuestions.
    """
    token = bearer_of_header(request.headers.get("Authorization", ""))
    sessions = parts_of(request).sessions
    if not sessions.holds(token):
        # Count it: anybody can invent tokens, and each one costs a read of the ledger.
        request.app[LOGINS].admit(client_of(request))
    access = await sessions.authenticate(token)
    ask_chain(request, access.signer)
    return access


def ask_chain(
    request: web.Request,
    signer: Address | None = None,
    *,
    budget: web.AppKey[RateLimit] = QUESTIONS,
    weight: int = 1,
) -> None:
    """Count a request that makes the node ask its chain; raise TooManyQuestions.

    A request that reads much of the chain counts as ``weight`` requests.

    A ``signer`` who has sent a voucher is not counted. A signature alone is not enough, because
    anybody can make keys.
    """
    if signer is None or not parts_of(request).vouchers.has_paid(signer):
        request.app[budget].admit(client_of(request), weight)


def name_channel(request: web.Request, signer: Address) -> None:
    """Add the channel's id to every later log line of this request."""
    channel = hex_of(channel_id(signer, parts_of(request).sessions.node))
    structlog.contextvars.bind_contextvars(channel=channel)


def number_of(request: web.Request, name: str, maximum: int = 2**32 - 1) -> int:
    """Read a number from the path; raise InvalidRequest if there is none within ``maximum``."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= 20) or int(text) > maximum:
        raise InvalidRequest(f"{text[:40]!r} is not a number of 0 to {maximum}")
    return int(text)


def asked_number(request: web.Request, name: str, default: int) -> int:
    """Read a number from the query; raise InvalidRequest if it is not a number."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise InvalidRequest(f"{name!r} must be a whole number of at most {MAX_DIGITS} digits")
    return int(text)


def adapter_of(request: web.Request) -> AdapterId:
    """Return the adapter that the path names."""
    return AdapterId(number_of(request, "adapter_id"))
