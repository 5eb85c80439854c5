"""Open sessions, take vouchers, relay deposits, and close channels.

``viz.domain.node_channel`` checks vouchers, ``viz.services.payments.deposits`` checks deposits.
Invariants:

- A voucher is acknowledged after it is on disk, together with all that was delivered until then.
- An access token is issued for a signed Session that names this node, this origin and an unused
  challenge of this node. Only its hash is stored.
- Gas is spent on a deposit only after its signatures were verified, or the chain's simulation
  accepted them. For strangers there is a budget.
- A voucher makes the node read no channel but its own from the chain, at most once a second.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import structlog

from viz.domain.closing import accept_final, require_covered
from viz.domain.eip712 import Domain, is_signed_by, recover, settlement_domain, sign
from viz.domain.node_channel import (
    NodeChannel,
    VoucherOffer,
    accept_voucher,
    begin_close,
    is_covered,
    require_few_ahead,
    require_selling,
    require_signed_for,
)
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import AccessLedger, AccessRecord, ChannelRecord
from viz.domain.ports.services import Claimer, KnownAdapters
from viz.domain.ports.transactions import Call, ChainWriter, Outcome
from viz.domain.typed_data import Close, Session
from viz.domain.units import ZERO_ADDRESS, Address, Hash32, Units
from viz.errors import (
    AccessTokenInvalid,
    ChainError,
    ChannelUnknown,
    InvalidRequest,
    InvalidSignature,
    LineBelowBest,
    StaleVoucher,
    WrongDomain,
)
from viz.protocol.credential import CloseRequest, Deposit
from viz.protocol.messages import AccessToken, ChannelView, CloseAnswer, SessionProof
from viz.services.payments.access_tokens import AccessTokens
from viz.services.payments.active_channel import ActiveChannel, ChannelUpdate
from viz.services.payments.channel_view import view_of
from viz.services.payments.channels import ChannelStore
from viz.services.payments.deposits import Deposits
from viz.services.payments.paid_signers import PaidSigners
from viz.services.payments.relay_budget import Earner, RelayBudget, RelayPolicy, is_wallet

# Anybody can copy a signed Close from the chain and send it again, to end a channel that was opened
# again. So nothing is sold until it expires. It is valid long enough for a block to take it.
CLOSE_VALID_S: Final = 300
# A buyer who closes sends no more vouchers, so its running answers end within the wait for one.
CLOSE_WAIT_S: Final = 30.0
CHALLENGE_VALID_S: Final = 300
CONFIRM_POLL_S: Final = 0.5
_SALT_BYTES: Final = 16
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """Set the node's ``origin``, which buyers sign, and the limits of sessions and deposits."""

    origin: str
    minimum_deposit_units: Units
    access_token_s: int = 3_600
    confirm_wait_s: float = 30.0
    relays: RelayPolicy = field(default_factory=RelayPolicy)
    fee_wei: Callable[[], Awaitable[int]] | None = None
    require_clock: Callable[[], None] = lambda: None


class Sessions:
    """Handle the access tokens, deposits, vouchers and closes of one node."""

    def __init__(
        self,
        channels: ChannelStore,
        ledger: AccessLedger,
        chain: ChainReader,
        writer: ChainWriter,
        *,
        claimer: Claimer,
        adapters: KnownAdapters,
        clock: Clock,
        key: bytes,
        policy: SessionPolicy,
        chain_time: Callable[[], Awaitable[int]],
    ) -> None:
        self._channels = channels
        self._chain = chain
        self._writer = writer
        self._claimer = claimer
        self._clock = clock
        self._key = key
        self._policy = policy
        self._chain_time = chain_time
        self._adapters = adapters
        deployment = chain.deployment
        self.domain: Domain = settlement_domain(deployment.chain_id, deployment.settlement)
        self.node: Address = writer.address
        self._challenge_key = secrets.token_bytes(32)
        self._tokens = AccessTokens(ledger, clock, self._has_channel)
        self._paid = PaidSigners()
        self._budget = RelayBudget(clock, policy.relays, policy.fee_wei)
        self._deposits = Deposits(
            chain, self.domain, self.node, policy.minimum_deposit_units, self._budget.cost_units
        )
        self._relaying: set[tuple[Address, Address]] = set()

    @property
    def origin(self) -> str:
        """The URL at which buyers reach this node, and which they sign."""
        return self._policy.origin

    # access tokens

    def challenge(self, signer: Address) -> Session:
        """Return the Session for ``signer`` to sign; the access token expires with it."""
        expiry_s = self._clock.now_s() + self._policy.access_token_s
        salt = secrets.token_bytes(_SALT_BYTES)
        return Session(
            self.node, self._policy.origin, self._challenge_of(salt, signer, expiry_s), expiry_s
        )

    async def open_session(self, proof: SessionProof) -> AccessToken:
        """Return a new access token for the signer of a Session.

        Raises WrongDomain, AccessTokenInvalid, InvalidSignature.
        """
        session, signer = proof.session, proof.signer
        if session.node != self.node or session.origin != self._policy.origin:
            raise WrongDomain(
                f"the session is for {session.node} at {session.origin}; this is {self.node} at "
                f"{self._policy.origin}"
            )
        ours = self._challenge_of(session.challenge[:_SALT_BYTES], signer, session.expiry_s)
        if not hmac.compare_digest(ours, session.challenge):
            raise AccessTokenInvalid("the challenge is not one of this node: ask for a new one")
        until_s = session.expiry_s - self._policy.access_token_s + CHALLENGE_VALID_S
        if min(session.expiry_s, until_s) <= self._clock.now_s():
            raise AccessTokenInvalid("the session has expired: ask for a new challenge")
        if recover(self.domain.digest(session), proof.signature) != signer:
            raise InvalidSignature(f"the session is not signed by {signer}")
        token = await self._tokens.issue(
            session.challenge, signer, session.expiry_s, challenge_until_s=until_s
        )
        return AccessToken(token, session.expiry_s)

    async def authenticate(self, token: str) -> AccessRecord:
        """Return the access that the token gives; raise AccessTokenInvalid."""
        return await self._tokens.of(token)

    def payer_behind(self, claim: VoucherOffer | SessionProof) -> Address | None:
        """Return the signer of a voucher or session if it has paid before and signed this one.

        Else return None. Anybody can name a signer who has paid, so only a valid signature exempts
        a request from the rate limit.
        """
        if not self.has_paid(claim.signer):
            return None
        if isinstance(claim, SessionProof):
            digest, signature = self.domain.digest(claim.session), claim.signature
        else:
            digest, signature = (
                self.domain.digest(claim.row.voucher(self.node)),
                claim.row.signature,
            )
        return claim.signer if is_signed_by(digest, signature, claim.signer) else None

    def holds(self, token: str) -> bool:
        """Return whether the token is in memory, so that looking it up reads no ledger."""
        return self._tokens.holds(token)

    # A challenge is a MAC, so that the node remembers nothing of one before it is answered.
    def _challenge_of(self, salt: bytes, signer: Address, expiry_s: int) -> Hash32:
        said = b"|".join((salt, signer.encode(), str(expiry_s).encode()))
        mac = hmac.new(self._challenge_key, said, sha256).digest()
        return Hash32(salt + mac[: 32 - _SALT_BYTES])

    # channels

    async def view(self, signer: Address, *, private: bool) -> ChannelView:
        """Return the view of a channel; promised and delivered amounts only if ``private``."""
        return view_of((await self._channels.get(signer)).channel, private=private)

    async def voucher(self, offer: VoucherOffer) -> ChannelView:
        """Check a voucher, make it durable, and return the channel; see ``accept_voucher``.

        Raises InvalidRequest, and every error of ``accept_voucher``.
        """
        self._check_domain(offer.chain_id, offer.contract, offer.node)
        opened = await self._channels.get(offer.signer)
        # A new deposit may cover the voucher. The signature comes first: strangers must not be able
        # to make the node read the chain.
        if self._lacks_money(opened, offer) and self._clock.now_s() > opened.seen_s:
            digest = self.domain.digest(offer.row.voucher(self.node))
            if is_signed_by(digest, offer.row.signature, offer.signer):
                opened = await self._channels.get(offer.signer, fresh=True)

        def change(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
            known, now_s = self._adapters.known, opened.chain_s
            after = accept_voucher(channel, self.domain, offer, known_adapters=known, now_s=now_s)
            require_few_ahead(channel, offer)
            return ChannelUpdate(after)

        channel = (await self._channels.commit(opened, "voucher", change)).channel
        self._paid.add(offer.signer)
        return view_of(channel, private=True)

    async def voucher_on_request(self, offer: VoucherOffer, signer: Address) -> None:
        """Accept the voucher in the header of a request of ``signer``; raise as ``voucher`` does.

        Requests may overtake each other. So a voucher that pays no more than the best one is
        ignored, not refused, and the request is judged by the best voucher.
        """
        if offer.signer != signer:
            raise WrongDomain(f"the voucher is of {offer.signer}, the access token of {signer}")
        try:
            await self.voucher(offer)
        except (LineBelowBest, StaleVoucher):
            # Both are raised after the signature was checked.
            if not is_covered((await self._channels.get(signer)).channel, offer):
                raise

    def has_paid(self, signer: Address) -> bool:
        """Return whether ``signer`` is one of the last who sent a valid voucher."""
        return signer in self._paid

    def remember(self, records: Iterable[ChannelRecord]) -> None:
        """Count the signers whose vouchers are in the ledger as buyers who have paid."""
        self._paid.remember(records)

    async def has_money(self, signer: Address) -> bool:
        """Return whether ``signer`` has paid or has a deposit here; may read the chain."""
        return self.has_paid(signer) or (await self._channels.get(signer)).channel.deposit_units > 0

    def _has_channel(self, signer: Address) -> bool:
        return self.has_paid(signer) or self._channels.shows_open(signer)

    def _lacks_money(self, opened: ActiveChannel, offer: VoucherOffer) -> bool:
        channel = opened.channel
        return channel.payer == ZERO_ADDRESS or offer.row.end_units > channel.limit_units

    async def deposit(self, deposit: Deposit) -> ChannelView:
        """Relay an opening or a top-up; return the channel once it is confirmed, or after a wait.

        Raises WrongDomain, ClockWrong, InvalidRequest, InvalidSignature, ChannelClosing, RelayBusy,
        FeeTooHigh, TransactionFailed, OutcomeUnknown.
        """
        self._check_domain(deposit.chain_id, deposit.contract, deposit.node)
        self._policy.require_clock()
        call = await self._deposits.call_of(deposit)
        relaying = deposit.signer, deposit.payer  # so a stranger's deposit blocks only itself
        if relaying in self._relaying:
            raise InvalidRequest("a deposit for this channel is being relayed: wait for it")
        self._relaying.add(relaying)
        try:
            opened = await self._channels.get(deposit.signer, fresh=True)
            # While a signed Close is valid, the money could not be spent and might go back.
            require_selling(opened.channel, opened.chain_s)
            before = opened.channel.limit_units
            payer = deposit.payer
            wallet = await is_wallet(self._chain, payer, deposit.authorization)
            earner = self._earner(opened.channel) if payer == opened.channel.payer else None
            sent = await self._budget.send(self._writer, payer, call, earner=earner, wallet=wallet)
            sent.require_settled("the deposit")
        finally:
            self._relaying.discard(relaying)
        return view_of(await self._confirmed(deposit.signer, before), private=False)

    async def minimum_deposit_units(self) -> Units:
        """Return the minimum deposit that buyers are told; raise ChainError."""
        return await self._deposits.least_units()

    def _earner(self, channel: NodeChannel) -> Earner:
        """Return what the channel earned: the settled total, or what was delivered and signed."""
        delivered_units = min(channel.end_units, channel.total_spent_units)
        earned_units = max(channel.settled_units, delivered_units)
        return Earner(channel.signer, earned_units, self._policy.minimum_deposit_units)

    async def _confirmed(self, signer: Address, above_units: Units) -> NodeChannel:
        """Return the channel once a deposit is confirmed, or as it is after ``confirm_wait_s``."""
        channel = (await self._channels.get(signer, fresh=True)).channel
        try:
            async with asyncio.timeout(self._policy.confirm_wait_s):
                while channel.payer == ZERO_ADDRESS or channel.limit_units <= above_units:
                    await asyncio.sleep(CONFIRM_POLL_S)
                    channel = (await self._channels.get(signer, fresh=True)).channel
        except TimeoutError:
            _log.info("a deposit is not confirmed yet", signer=signer)
        return channel

    async def close(self, wanted: CloseRequest) -> CloseAnswer:
        """Close a channel at its payer's signed request: stop selling, claim, sign Close, submit.

        A final voucher is for what was billed, without what was signed ahead. It replaces the best
        voucher in the commit that ends the sales, before anything is claimed. So if the node is
        killed in between, it can still claim what it is owed. The Close is submitted if the channel
        earned that cost. Else the answer has only the node's signature, which anybody can submit.
        Raises WrongDomain, InvalidRequest (also if nothing is left to return), InvalidSignature,
        ChannelUnknown, ChannelBusy (answers are running), PaymentRequired (less is signed than was
        delivered), StaleVoucher, ChainError.
        """
        request = wanted.request
        self._check_domain(wanted.chain_id, wanted.contract, request.node)
        opened = await self._channels.get(request.signer, fresh=True)
        if opened.channel.payer == ZERO_ADDRESS:
            raise ChannelUnknown("there is no such channel to this node")
        if not opened.channel.deposit_units:
            raise InvalidRequest("nothing is left in this channel: there is nothing to close")
        now_s = await self._chain_time()
        if request.deadline_s < now_s:
            raise InvalidRequest(f"the close request expired; the chain's time is {now_s}")
        if not is_signed_by(self.domain.digest(request), wanted.signature, opened.channel.payer):
            raise InvalidSignature(f"the close is not signed by the payer {opened.channel.payer}")
        await self._end_sales(opened, wanted, now_s + CLOSE_VALID_S)
        opened.notify()
        self._claimer.close_requested(request.signer)
        # Claim before signing: the Close states a settled total, and returns all the rest.
        if opened.channel.best is not None or opened.channel.frozen:
            await self._claimer.claim(request.signer)
        opened = await self._channels.get(request.signer, fresh=True)
        end_units = opened.channel.end_units
        # The newest block is enough: the contract takes a Close only at exactly this settled total,
        # so one that is signed on a claim that a reorganisation removes cannot be used.
        seen = await self._chain.channel(request.signer, self.node, confirmed=False)
        if seen is None or seen.settled_units != end_units:
            raise ChainError("the last claim is not on chain yet: ask again in a moment")
        until_s = await self._chain_time() + CLOSE_VALID_S
        await self._channels.commit(
            opened, "sign-close", lambda channel, _: ChannelUpdate(begin_close(channel, until_s))
        )
        close = Close(request.signer, self.node, end_units, until_s)
        signature = sign(self._key, self.domain.digest(close))
        args = (close.signer, close.node, close.settled_units, close.deadline_s, signature)
        call = Call("Settlement", "closeNow", args)
        payer = opened.channel.payer
        sent = await self._budget.close(self._writer, payer, request.signer, end_units, call)
        await self._channels.get(request.signer, fresh=True)
        done = sent.hash if sent is not None and sent.outcome is Outcome.SETTLED else b""
        return CloseAnswer(close, signature, done)

    async def _end_sales(self, opened: ActiveChannel, wanted: CloseRequest, until_s: int) -> None:
        final = None
        if wanted.final is not None:
            final = VoucherOffer(
                wanted.chain_id, wanted.contract, opened.channel.signer, self.node, wanted.final
            )
            await self._idle(opened)

        def change(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
            if final is not None:
                channel = accept_final(channel, self.domain, final)
            require_covered(channel)
            return ChannelUpdate(begin_close(channel, until_s))

        await self._channels.commit(opened, "close", change)

    async def _idle(self, opened: ActiveChannel) -> None:
        """Wait up to ``CLOSE_WAIT_S`` until no answer is running; ``accept_final`` checks that."""
        moved = asyncio.Event()
        opened.waiting.add(moved.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WAIT_S):
                    while any(opened.channel.reserved.values()):
                        moved.clear()
                        await moved.wait()
        finally:
            opened.waiting.discard(moved.set)

    def _check_domain(self, chain_id: int, contract: Address, node: Address) -> None:
        require_signed_for(
            self.domain, self.node, chain_id=chain_id, contract=contract, named_node=node
        )

    async def token_domain(self) -> tuple[str, str]:
        """Return the name and version of the token's EIP-712 domain."""
        return (found := await self._deposits.token_domain()).name, found.version
