"""A chain in memory: channels, claims and closes as Settlement judges them, nothing mined.

Checks what the contract checks (consents, authorizations, order of rows, deposits) with the
domain's own functions: what passes here fails on anvil only where contract and domain differ, and
the property tests hold those two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from viz.domain.claim_rows import RowStatus, SignedVoucher, unpack_rows
from viz.domain.eip712 import (
    Domain,
    is_signed_by,
    keccak,
    public_address,
    recover,
    settlement_domain,
)
from viz.domain.license import ALL_USES, Terms
from viz.domain.ports.chain import (
    AcquiredGrant,
    AdapterState,
    ChannelState,
    ContentState,
    Deployment,
    GrantState,
    Head,
    NodeEntry,
    ServingState,
    TermsState,
)
from viz.domain.ports.transactions import Call, Event, Outcome, Transaction
from viz.domain.typed_data import (
    OPEN_KIND,
    TOP_UP_KIND,
    Close,
    OpenChannel,
    ReceiveWithAuthorization,
    authorization_nonce,
)
from viz.domain.units import (
    ZERO_ADDRESS,
    ZERO_HASH,
    AdapterId,
    Address,
    Cid,
    ContentId,
    Hash32,
    Units,
    parse_address,
)
from viz.domain.usage import sum_of
from viz.errors import (
    ChainError,
    ChainUnreachable,
    FeeTooHigh,
    GasAboveLimit,
    TooMuchGas,
    TransactionFailed,
)

NOW_S = 1_800_000_000


def address_of(number: int) -> Address:
    return parse_address(f"0x{number:040x}")


DEPLOYMENT = Deployment(
    chain_id=31_337,
    genesis=Hash32(bytes(31) + b"\x07"),
    token=address_of(0x70),
    token_decimals=6,
    content_registry=address_of(0xC0),
    adapter_registry=address_of(0xA0),
    settlement=address_of(0x50),
    node_directory=address_of(0xD0),
    first_block=0,
    token_symbol="vUSD",
)
FREE_TERMS = TermsState(Terms(0, 0, 0, 0, 0, int(ALL_USES), False), ZERO_HASH)
TOKEN_DOMAIN = Domain("Viz Test USD", "1", DEPLOYMENT.chain_id, DEPLOYMENT.token)


@dataclass
class FakeClock:
    """A clock that moves when it is told to."""

    now: int = NOW_S

    def now_s(self) -> int:
        return self.now


@dataclass
class FakeChain:
    """ChainReader and ChainWriter of one key."""

    key: bytes
    clock: FakeClock = field(default_factory=FakeClock)
    channels: dict[tuple[Address, Address], ChannelState] = field(default_factory=dict)
    balances: dict[Address, Units] = field(default_factory=dict)
    adapter_states: dict[AdapterId, AdapterState] = field(default_factory=dict)
    unservable: dict[AdapterId, str] = field(default_factory=dict)
    ending: dict[AdapterId, int] = field(default_factory=dict)
    royalties: dict[AdapterId, Units] = field(default_factory=dict)
    works: dict[ContentId, ContentState] = field(default_factory=dict)
    approvals: set[tuple[ContentId, Address, Address]] = field(default_factory=set)
    coins_wei: dict[Address, int] = field(default_factory=dict)
    granted: set[ContentId] = field(default_factory=set)
    acquired: dict[ContentId, AcquiredGrant] = field(default_factory=dict)
    unconfirmed: set[AdapterId] = field(default_factory=set)
    used_nonces: set[tuple[Address, Hash32]] = field(default_factory=set)
    with_code: set[Address] = field(default_factory=set)
    wallet_signatures: set[tuple[Address, Hash32, bytes]] = field(default_factory=set)
    directory: dict[Address, NodeEntry] = field(default_factory=dict)
    sent: list[Call] = field(default_factory=list)
    settled: list[tuple[Call, Transaction]] = field(default_factory=list)
    reads: int = 0
    down: bool = False
    too_dear: bool = False
    # With what every transaction is refused; a cap on gas is met in its simulation.
    refuses: ChainError | None = None
    gas_needed: int = 100_000
    fees_raised: int = 0

    @property
    def address(self) -> Address:
        return public_address(self.key)

    @property
    def deployment(self) -> Deployment:
        return DEPLOYMENT

    @property
    def domain(self) -> Domain:
        return settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)

    # reading

    async def chain_time(self) -> int:
        self._ask()
        return self.clock.now

    async def next_block_time_s(self) -> int | None:
        return None

    async def fee_wei(self) -> int:
        return 0

    async def head(self) -> Head:
        self._ask()
        return Head(len(self.sent), self.clock.now)

    async def content(self, content_id: ContentId) -> ContentState | None:
        self._ask()
        return self.works.get(content_id)

    async def content_count(self) -> int:
        self._ask()
        return len(self.works)

    async def owners(self, content_ids: Sequence[ContentId]) -> tuple[Address, ...]:
        self._ask()
        return tuple(self.works[each].owner for each in content_ids)

    async def approved(self, content_id: ContentId, owner: Address, trainer: Address) -> bool:
        self._ask()
        return (content_id, owner, trainer) in self.approvals

    async def registration_nonce(self, creator: Address) -> int:
        self._ask()
        return 0

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        self._ask()
        return FREE_TERMS

    async def grant(self, content_id: ContentId, trainer: Address) -> GrantState | None:
        self._ask()
        if content_id not in self.granted:
            return None
        return GrantState(content_id, trainer, Hash32(bytes(32)), 0, True)

    async def withdrawn_works(self) -> frozenset[ContentId]:
        self._ask()
        return frozenset(name for name, work in self.works.items() if work.withdrawn_at)

    async def trainers_of(self, content_id: ContentId) -> tuple[Address, ...]:
        self._ask()
        return (self.address,) if content_id in self.granted else ()

    async def adapters_with(self, weights_digest: Hash32) -> tuple[AdapterId, ...]:
        self._ask()
        states = self.adapter_states.items()
        return tuple(name for name, state in states if state.weights_digest == weights_digest)

    async def adapter(
        self, adapter_id: AdapterId, *, confirmed: bool = True
    ) -> AdapterState | None:
        self._ask()
        if confirmed and adapter_id in self.unconfirmed:
            return None
        return self.adapter_states.get(adapter_id)

    async def acquired_grants(self, adapter: AdapterState) -> tuple[AcquiredGrant, ...]:
        self._ask()
        return tuple(
            replace(self.acquired[content_id], content_id=content_id)
            for content_id, _ in adapter.shares
            if content_id in self.acquired
        )

    async def enforceable(self, adapter_id: AdapterId, words: Sequence[int]) -> int | None:
        self._ask()
        return None

    async def servable(self, adapter_id: AdapterId, node: Address) -> ServingState:
        self._ask()
        if adapter_id not in self.adapter_states:
            return ServingState("it is not registered")
        until_s = self.ending.get(adapter_id)
        if until_s is not None and self.clock.now >= until_s:
            return ServingState("it is retired")
        return ServingState(self.unservable.get(adapter_id), until_s)

    async def channel(
        self, signer: Address, node: Address, *, confirmed: bool = True
    ) -> ChannelState | None:
        self._ask()
        return self.channels.get((signer, node))

    async def collectable(self, account: Address) -> Units:
        self._ask()
        return 0

    async def collected_to(self, account: Address) -> Address:
        self._ask()
        return account

    async def coin_wei(self, account: Address) -> int:
        self._ask()
        return self.coins_wei.get(account, 0)

    async def undistributed(self, adapter_id: AdapterId) -> Units:
        self._ask()
        return self.royalties.get(adapter_id, 0)

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        self._ask()
        return tuple(status for status, _ in self._judge(node, unpack_rows(rows)))

    async def token_balance(self, account: Address) -> Units:
        self._ask()
        return self.balances.get(account, 0)

    async def has_code(self, account: Address) -> bool:
        self._ask()
        return account in self.with_code

    async def is_wallet_signature(self, account: Address, digest: Hash32, signature: bytes) -> bool:
        self._ask()
        return (account, digest, signature) in self.wallet_signatures

    async def authorization_used(self, payer: Address, nonce: Hash32) -> bool:
        self._ask()
        return (payer, nonce) in self.used_nonces

    async def token_domain(self) -> tuple[str, str]:
        self._ask()
        return TOKEN_DOMAIN.name, TOKEN_DOMAIN.version

    async def node_entry(self, node: Address) -> NodeEntry | None:
        self._ask()
        return self.directory.get(node)

    async def node_entries(self, offset: int, limit: int) -> tuple[NodeEntry, ...]:
        self._ask()
        return tuple(self.directory.values())[offset : offset + limit]

    # writing

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        self._ask()
        if self.too_dear and not urgent:
            raise FeeTooHigh("gas costs more than this node pays")
        if self.refuses is not None:
            raise self.refuses
        if max_gas is not None and self.gas_needed > max_gas:
            raise GasAboveLimit(f"{call.function} would use {self.gas_needed} gas")
        events: tuple[Event, ...] = getattr(self, f"_{call.function}")(*call.args) or ()
        self.sent.append(call)
        name = keccak(repr((len(self.sent), call)).encode())
        made = Transaction(Outcome.MINED, name, len(self.sent), self.gas_needed, events=events)
        self.settled.append((call, made))
        return made

    async def simulate(self, call: Call) -> None:
        self._ask()
        if isinstance(self.refuses, TooMuchGas):
            raise self.refuses
        if call.function != "register":
            raise AssertionError(f"the fake chain does not simulate {call.function}")

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        return Transaction(Outcome.MINED, transaction_hash)

    async def earlier(self, call: Call, part: bytes) -> Sequence[Transaction]:
        self._ask()
        return [
            made
            for before, made in self.settled
            if before.function == call.function and part in before.args
        ]

    async def recover(self, *, urgent: bool = False) -> Sequence[Transaction]:
        return ()

    def _ask(self) -> None:
        self.reads += 1
        if self.down:
            raise ChainUnreachable("the RPC does not answer: check rpc_url")

    # the contract

    def _openWithAuthorization(
        self,
        payer: Address,
        signer: Address,
        node: Address,
        amount: Units,
        salt: Hash32,
        after: int,
        before: int,
        authorization: bytes,
        consent: bytes,
    ) -> None:
        if recover(self.domain.digest(OpenChannel(payer, node)), consent) != signer:
            raise TransactionFailed("InvalidSigner")
        self._deposit(OPEN_KIND, payer, signer, node, amount, salt, after, before, authorization)

    def _topUpWithAuthorization(
        self,
        payer: Address,
        signer: Address,
        node: Address,
        amount: Units,
        salt: Hash32,
        after: int,
        before: int,
        authorization: bytes,
    ) -> None:
        if (signer, node) not in self.channels:
            raise TransactionFailed("NoChannel")
        self._deposit(TOP_UP_KIND, payer, signer, node, amount, salt, after, before, authorization)

    def _deposit(
        self,
        kind: Hash32,
        payer: Address,
        signer: Address,
        node: Address,
        amount: Units,
        salt: Hash32,
        after: int,
        before: int,
        authorization: bytes,
    ) -> None:
        nonce = authorization_nonce(kind, signer, node, salt)
        said = ReceiveWithAuthorization(payer, DEPLOYMENT.settlement, amount, after, before, nonce)
        if not is_signed_by(TOKEN_DOMAIN.digest(said), authorization, payer):
            raise TransactionFailed("InvalidAuthorization")
        if (payer, nonce) in self.used_nonces or self.balances.get(payer, 0) < amount:
            raise TransactionFailed("AuthorizationUsed or balance too low")
        self.used_nonces.add((payer, nonce))
        was = self.channels.get((signer, node)) or ChannelState(signer, node, payer, 0, 0, 0)
        if was.payer != payer:
            raise TransactionFailed("WrongPayer")
        self.balances[payer] -= amount
        self.channels[signer, node] = replace(was, deposit_units=was.deposit_units + amount)

    def _judge(
        self, node: Address, rows: Sequence[SignedVoucher]
    ) -> list[tuple[RowStatus, ChannelState | None]]:
        found: list[tuple[RowStatus, ChannelState | None]] = []
        moved = dict(self.channels)
        for row in rows:
            signer = recover(self.domain.digest(row.voucher(node)), row.signature)
            channel = moved.get((signer, node))
            units = sum_of(row.lines)
            if channel is None or channel.payer == ZERO_ADDRESS:
                found.append((RowStatus.NO_CHANNEL, None))
            elif channel.settled_units != row.base_units:
                found.append((RowStatus.WRONG_BASE, None))
            elif channel.deposit_units < units:
                found.append((RowStatus.INSUFFICIENT_DEPOSIT, None))
            else:
                moved[signer, node] = after = replace(
                    channel,
                    deposit_units=channel.deposit_units - units,
                    settled_units=channel.settled_units + units,
                )
                found.append((RowStatus.GOOD, after))
        return found

    def _claim(self, rows: bytes) -> None:
        for status, after in self._judge(self.address, unpack_rows(rows)):
            if status is RowStatus.GOOD and after is not None:
                self.channels[after.signer, after.node] = after

    def _closeNow(
        self, signer: Address, node: Address, settled: Units, deadline: int, signature: bytes
    ) -> None:
        channel = self.channels[signer, node]
        close = Close(signer, node, settled, deadline)
        if settled != channel.settled_units or deadline < self.clock.now:
            raise TransactionFailed("StaleClose")
        if not is_signed_by(self.domain.digest(close), signature, node):
            raise TransactionFailed("InvalidSignature")
        self.balances[channel.payer] += channel.deposit_units
        self.channels[signer, node] = replace(channel, deposit_units=0, close_at=0)

    def _register(
        self, base: Hash32, digest: Hash32, cid: Cid, manifest: Hash32, *terms: Any
    ) -> tuple[Event, ...]:
        adapter_id = AdapterId(max(self.adapter_states, default=0) + 1)
        royalty_bps, trainer_bps, words = terms
        shares = tuple((ContentId(word >> 16), word & 0xFFFF) for word in words)
        self.adapter_states[adapter_id] = AdapterState(
            adapter_id, self.address, base, digest, cid, manifest, royalty_bps, trainer_bps, 0,
            shares,
        )  # fmt: skip
        zero = Hash32(bytes(32))
        said = {
            "adapterId": adapter_id,
            "trainer": self.address,
            "baseModel": base,
            "weightsDigest": digest,
            "cid": cid,
            "manifestHash": manifest,
            "royaltyBps": royalty_bps,
            "trainerBps": trainer_bps,
            "shares": words,
        }
        return (Event("AdapterRegistry", "AdapterRegistered", said, 0, zero, zero, 0),)

    def _announce(self, url: str, age_key: str) -> None:
        self.directory[self.address] = NodeEntry(self.address, self.clock.now, url, age_key)

    def _remove(self) -> None:
        if self.directory.pop(self.address, None) is None:
            raise TransactionFailed("NotAnnounced")

    def put_adapter(
        self, adapter_id: AdapterId, weights_digest: Hash32, base: Hash32 = ZERO_HASH
    ) -> AdapterState:
        """Register an adapter by fiat."""
        # The CID of nothing: no store has it, and it is one.
        cid = Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
        terms = cid, ZERO_HASH, 2000, 1000, 0, ()
        state = AdapterState(adapter_id, self.address, base, weights_digest, *terms)
        self.adapter_states[adapter_id] = state
        return state
