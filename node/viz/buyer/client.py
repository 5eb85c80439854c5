"""Buy from one node: connect, open a channel without gas, ask, pay, verify, close.

Owns the life of a channel on the buyer's side. The wallet's key is passed in where it is needed (to
deposit and to close) and is not kept. The channel's own key signs everything else. If the caller
passes a ``ChainReader``, adapters are checked against that chain, and the deposit, its payer and
the settled total are read there. If not, no chain is read.

Invariants: a deposit goes only to a node that uses the contracts that the caller trusts; a session
is signed only for the origin that was dialled; after a receipt that does not verify, nothing more
is asked of the node or signed for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.answers.context import AnswerContext
from viz.buyer.channels.closing import close_together, shows_closed
from viz.buyer.channels.session import BuyerSession
from viz.buyer.channels.sync import ChannelSync
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.names import Names
from viz.buyer.ledger.spending import Spending
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.counting import Counters, TokenCount
from viz.buyer.terms.counting_pins import CountingPins
from viz.buyer.terms.known_node import KnownNode
from viz.buyer.terms.prices import Prices, limits_in
from viz.buyer.terms.quotes import KeptQuotes
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.buyer.wallet.balance import require_balance
from viz.buyer.wallet.signing import (
    PendingDeposit,
    checked_chain_time_s,
    require_depositable,
    require_no_signed_close,
    signed_close,
)
from viz.buyer.wallet.wallet import Wallet, wallet_of
from viz.client.node_client import NodeClient
from viz.clock import SystemClock
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.display import amount
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.ports.clock import Clock
from viz.domain.typed_data import RequestClose
from viz.domain.units import BASE_MODEL, Address, Units
from viz.errors import (
    BooksMismatch,
    InvalidRequest,
    InvalidSignature,
    NodeNotTrusted,
    NodeUnreachable,
    TransactionFailed,
    UnknownModel,
    VizError,
)
from viz.protocol.messages import AccessToken, AdapterOffer, CloseAnswer, NodeInfo
from viz.protocol.payment import CHAT_PATH
from viz.services.market.node_claims import check_node

CONFIRM_TRIES: Final = 60
REFUSED_TRIES: Final = 3
CONFIRM_WAIT_S: Final = 1.0


class BuyerClient:
    """One buyer at one node. Made by ``connect``; ``aclose`` frees the channel's directory."""

    def __init__(
        self,
        api: NodeClient,
        info: NodeInfo,
        ledger: BuyerLedger,
        deployment: Deployment,
        limits: Limits,
        *,
        clock: Clock,
        counters: Counters,
        chain: ChainReader | None,
    ) -> None:
        self._ledger = ledger
        self._deployment = deployment
        self.chain = chain
        """The chain that the buyer reads itself; None if it reads none."""
        self._clock = clock
        self.api = api
        self._pins = CountingPins(ledger)
        self.node = KnownNode(
            api, info, deployment, counters=counters, chain=chain, pins=self._pins
        )
        self.limits = limits
        domain = settlement_domain(deployment.chain_id, deployment.settlement)
        self.access = BuyerSession(api, info.node, ledger.session_key, domain)
        self.quotes = KeptQuotes(deployment, clock)
        self._names = Names(ledger)
        self._prices = Prices(ledger, deployment)
        self.spending = Spending(ledger, clock)
        self.voucher_signer = VoucherSigner(
            api, ledger, deployment, limits, reads_chain=chain is not None
        )
        self._sync = ChannelSync(api, self.access, self.voucher_signer, chain)

    @classmethod
    async def connect(
        cls,
        http: aiohttp.ClientSession,
        url: str,
        *,
        home: Path,
        password: str,
        expected: Deployment,
        limits: Limits | None = None,
        clock: Clock | None = None,
        count_tokens: TokenCount | None = None,
        chain: ChainReader | None = None,
        origin: str | None = None,
        scrypt_n: int | None = None,
    ) -> Self:
        """Return a client of the node at ``url``; check that the node uses the expected contracts.

        The first connection makes the session key and stores it below ``home``, encrypted with
        ``password``. ``origin`` is given only if the node is dialled through a tunnel. Tokens are
        counted again with the tokenizer that the node names, if it is packaged here or is in
        ``tokenizers`` below ``home``. If not, they are counted with ``count_tokens``.
        Raises NodeUnreachable, NodeNotTrusted, InvalidKeyFile, ConfigError, BooksMismatch.
        """
        api = NodeClient(http, url, origin)
        info = await api.info()
        check_node(info, expected)
        ledger = await asyncio.to_thread(
            BuyerLedger.open, home, expected, info.node, password, scrypt_n=scrypt_n
        )
        return cls(
            api,
            info,
            ledger,
            expected,
            limits or limits_in(expected),
            clock=clock or SystemClock(),
            counters=Counters(home / "tokenizers", count_tokens),
            chain=chain,
        )

    async def aclose(self) -> None:
        """Let another process use the channel; what was signed stays in the ledger."""
        self._ledger.close()

    @property
    def channel(self) -> BuyerChannel:
        """What was deposited, signed and billed on the channel."""
        return self.voucher_signer.channel

    @property
    def signer(self) -> Address:
        """The address of the channel's session key."""
        return self.channel.signer

    @property
    def deployment(self) -> Deployment:
        """The contracts that this buyer trusts; they give the token, its decimals and symbol."""
        return self._deployment

    @property
    def directory(self) -> Path:
        """The folder that holds the channel's files."""
        return self._ledger.directory

    @property
    def token_decimals(self) -> int:
        """How many decimals the deposit's token has, as the trusted deployment states."""
        return self._deployment.token_decimals

    # what the node sells

    @property
    def info(self) -> NodeInfo:
        """The node's latest description of itself."""
        return self.node.info

    async def refresh_info(self) -> NodeInfo:
        """Read the node's description again (new adapters, prices, chain time)."""
        return await self.node.refresh()

    async def offer_of(self, model: str) -> AdapterOffer:
        """Return the offer with this id or name; raise UnknownModel, NodeNotTrusted."""
        return await self.node.offer_of(model)

    def usual_offer(self) -> AdapterOffer:
        """Return the offer for a request that names no model; raise UnknownModel if none is clear.

        This is the only model that was paid for before, else the only adapter on offer, else the
        only base model. It never depends on the order in which the node lists its models.
        """
        offers = self.info.adapters
        before = [offer for offer in offers if self._prices.were_agreed(offer)]
        adapters = [offer for offer in offers if offer.adapter_id != BASE_MODEL]
        bases = [offer for offer in offers if offer.adapter_id == BASE_MODEL]
        for found in (before, adapters, bases):
            if len(found) == 1:
                return found[0]
        raise UnknownModel("name a model: `viz buyer models` lists them", param="model")

    # the channel

    async def open_channel(self, payer: bytes | Wallet, deposit_units: Units) -> BuyerChannel:
        """Deposit into the channel without gas (EIP-3009, relayed) and wait until it is confirmed.

        ``payer`` is the wallet's key, or the wallet if its key is in another process.
        The channel is opened, or topped up if it is open. The same call again after an error sends
        the same deposit, so that two of them cannot arrive. Raises BalanceTooLow, ChannelClosing
        and InvalidRequest before anything is signed. After it, raises the node's refusals, and
        NodeUnreachable if the deposit is not confirmed in time; both say what the signature does.
        """
        wallet = wallet_of(payer)
        info = await self.refresh_info()
        self.require_trust()
        await self._sync.observe_chain()
        await self.sync()
        require_depositable(self.channel, wallet.address)
        if deposit_units < info.minimum_deposit_units:
            # Check before signing: a deposit that the node has may still arrive, and blocks others.
            raise InvalidRequest(
                f"this node takes deposits of at least "
                f"{amount(info.minimum_deposit_units, self._deployment)}: nothing was signed"
            )
        if self.chain is not None and (
            head := await self.chain.channel(self.signer, info.node, confirmed=False)
        ):
            require_depositable(replace(self.channel, close_at_s=head.close_at), wallet.address)
        now_s = await self._chain_time_s(info)
        pending = await PendingDeposit.kept(
            self._ledger,
            wallet.address,
            deposit_units,
            self._deployment,
            now_s=now_s,
            chain=self.chain,
        )
        again = pending is not None
        if pending is None:
            # The node may state an older reading of the time, if its chain is slow.
            chain_s = await self.chain.chain_time() if self.chain else now_s
            require_no_signed_close(self.closed_until_s, chain_s)
            await require_balance(
                wallet.address, deposit_units, self._deployment, api=self.api, chain=self.chain
            )
            pending = await PendingDeposit.sign(
                self._ledger, wallet, deposit_units, info, self._deployment, now_s=now_s
            )
        try:
            return await self._send(pending, again=again)
        except VizError as error:
            raise pending.after(error, self._deployment) from error

    async def _send(self, pending: PendingDeposit, *, again: bool) -> BuyerChannel:
        """Send a signed deposit and wait until it is confirmed; ``again``: it was sent before."""
        refusal = None
        if not await pending.is_confirmed(self.channel, self.chain):
            try:
                self.voucher_signer.note(await self.api.deposit(pending.deposit))
            except TransactionFailed as error:
                if not again:
                    raise
                refusal = error  # perhaps because the first try has succeeded after all
        for _ in range(CONFIRM_TRIES if refusal is None else REFUSED_TRIES):
            if await pending.is_confirmed(self.channel, self.chain):
                await self._sync.observe_chain()  # the nonce is used, so this includes the deposit
                pending.forget(self._ledger, self.chain)
                return self.channel
            await asyncio.sleep(CONFIRM_WAIT_S)
            await self.sync()
        raise refusal or NodeUnreachable("the deposit was sent and is not confirmed yet")

    async def _chain_time_s(self, info: NodeInfo) -> int:
        own_s = await self.chain.chain_time() if self.chain else self._clock.now_s()
        return checked_chain_time_s(info, own_s, from_chain=self.chain is not None)

    @property
    def closed_until_s(self) -> int:
        """Until when a Close that the node signed is valid, as it last said; 0: none."""
        return self._sync.closed_until_s

    async def sync(self) -> None:
        """Read the channel, and every receipt that is not in the ledger yet.

        Raises NodeNotTrusted, InvalidSignature, BooksMismatch.
        """
        await self._sync.sync()

    async def look(self) -> str:
        """Read the channel as ``sync`` does; do not raise if something does not verify.

        Returns why the channel cannot be used if the ledgers and the chain disagree, else nothing.
        """
        try:
            with suppress(NodeNotTrusted, InvalidSignature):
                await self.sync()
        except BooksMismatch as error:
            return error.detail
        return ""

    async def close_channel(self, payer: bytes | Wallet) -> CloseAnswer:
        """Close the channel at once with the node's consent; the rest goes back to the payer.

        The node is asked to close at what it billed (docs/adr/0011), but may close at what was
        signed. The answer states the total. A ledger that is older than the node's or the chain's,
        or a node's that is older than this one, hinders no close.
        Raises NodeNotTrusted if the node's Close does not verify, and the node's refusals. To leave
        a node that does not answer, use ``viz.buyer.channels.unilateral_close``.
        """
        await self.look()
        request, signature = await self.request_close(payer)
        return await close_together(
            self.api,
            self.voucher_signer,
            self._deployment,
            request,
            signature,
            now_s=await self._chain_time_s(self.info),
            chain=self.chain,
        )

    async def sees_closed(self) -> bool | None:
        """Say whether the buyer's own chain shows the channel closed; None if it reads no chain.

        Waits until the newest block shows it, at most as long as a transaction takes.
        """
        if self.chain is None:
            return None
        return await shows_closed(self.chain, self.signer, self.info.node)

    async def request_close(self, payer: bytes | Wallet) -> tuple[RequestClose, bytes]:
        """Return the payer's signed RequestClose, which anyone may relay to Settlement."""
        info = await self.refresh_info()
        return await signed_close(
            wallet_of(payer),
            self._ledger.session_key,
            info,
            self._deployment,
            now_s=await self._chain_time_s(info),
        )

    # asking

    def ask(
        self, body: dict[str, Any], path: str = CHAT_PATH, *, limits: Limits | None = None
    ) -> PaidAnswer:
        """Return a paid answer to an OpenAI request; use it with ``async with`` and ``async for``.

        The node always streams, whatever ``body`` says. ``limits`` replace the client's for this
        answer. Raises NodeNotTrusted, and InvalidRequest if ``body`` names no model. Entering
        raises UnknownModel, PriceAboveCap, ChannelUnknown, DepositExceeded, NodeNotTrusted, and the
        node's refusals.
        """
        self.require_trust()
        if not isinstance(body.get("model"), str):
            raise InvalidRequest("name a model: /v1/models lists them")
        context = AnswerContext(
            api=self.api,
            node=self.node,
            access=self.access,
            sync=self._sync,
            voucher_signer=self.voucher_signer,
            deployment=self._deployment,
            limits=limits or self.limits,
            quotes=self.quotes,
            names=self._names,
            prices=self._prices,
            spending=self.spending,
        )
        return PaidAnswer(context, path, {**body, "stream": True})

    def distrust(self, fault: str) -> None:
        """Ask nothing more of this node and sign nothing more for it, until it is forgiven."""
        self.voucher_signer.distrust(fault)

    def forgive(self, forgiven_units: Units = 0) -> None:
        """Trust the node again, and pay up to ``forgiven_units`` of bills beyond what arrived.

        The node's tokenizer is recorded again too, even if this buyer cannot count with it.
        """
        self.voucher_signer.forgive(forgiven_units)
        self._pins.forget()

    def require_trust(self) -> None:
        """Raise NodeNotTrusted if the node is no longer trusted."""
        self.voucher_signer.require_trust()

    async def token(self) -> AccessToken:
        """Return the access token; sign a new session if there is none."""
        return await self.access.token()
