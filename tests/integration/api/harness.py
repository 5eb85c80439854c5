"""A node over HTTP with a real ledger, a chain in memory and an invented model; and a buyer."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.chain import DEPLOYMENT, TOKEN_DOMAIN, FakeChain, FakeClock
from tests.fakes.engine import FakeEngine, fake_adapter_file

from viz.api.app import create_app, create_runner
from viz.api.context import ApiLimits, NodeContext, NodeTerms
from viz.basemodel.safetensor_file import file_digest
from viz.composition.services import build_services, node_context, restore
from viz.composition.settings import (
    Backends,
    NetworkSettings,
    ServiceSettings,
    TrainingQueueSettings,
)
from viz.domain import buyer_channel as buyer_channels
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import public_address, sign, sign_compact
from viz.domain.engines import Engines
from viz.domain.node_channel import PresentedVoucher
from viz.domain.notices import NoticeRule
from viz.domain.ports.engine import Engine
from viz.domain.ports.ledger import AdapterRecord
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import (
    OPEN_KIND,
    TOP_UP_KIND,
    OpenChannel,
    ReceiveWithAuthorization,
    RequestClose,
    authorization_nonce,
)
from viz.domain.units import ZERO_HASH, AdapterId, Address, Cid, Hash32, Units
from viz.outbound import Outbound
from viz.protocol import payment
from viz.protocol.credential import CloseRequest, Credential, Deposit, credential_to_header
from viz.protocol.messages import (
    ChannelView,
    CloseAnswer,
    SessionProof,
    session_challenge_from_json,
)
from viz.protocol.payment import Challenge, NeedVoucher
from viz.services.custody.custodian import CustodyPolicy
from viz.services.licensing.creator_relay import REGISTRATIONS
from viz.services.payments.deposit_relay import DepositPolicy
from viz.services.payments.relay_budget import RelayPolicy
from viz.services.payments.sessions import SessionPolicy
from viz.services.serving.paid_stream import ServingPolicy
from viz.services.settlement.claim_loop import ClaimPolicy
from viz.services.training.destroying import DestructionSettings
from viz.storage.base import VerifiedBlobStore
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.key_folder import KeyFolder
from viz.storage.sealing import recipient_of
from viz.storage.sources import SourcedBlobs
from viz.store.ledger import SqlStore
from viz.store.writer import CommitHook
from viz.training.run import Bounds

ORIGIN = "http://node.test"
OPERATOR_TOKEN = "operator-token"
NODE_KEY = b"\x11" * 32
AGE_IDENTITY = "AGE-SECRET-KEY-1E645V55VNL6DUNCRRKX5HFNUGLR7UZYKL8ZW5R0QXMPS44YRDPNQYTSYT4"
PAYER_KEY = b"\x22" * 32
ADAPTER = AdapterId(7)
PRICE = Price(2_000_000, 6_000_000)
DEPOSIT = 1_000_000


@dataclass
class Node:
    """A running node and its insides."""

    url: str
    store: SqlStore
    chain: FakeChain
    clock: FakeClock
    engine: Engine
    parts: NodeContext
    http: aiohttp.ClientSession
    app: web.Application
    runner: web.AppRunner


@asynccontextmanager
async def running_node(
    folder: Path,
    *,
    policy: ServingPolicy | None = None,
    chain: FakeChain | None = None,
    engine: Engine | None = None,
    more_engines: Sequence[Engine] = (),
    base_prices: Mapping[Hash32, Price] = {},
    adapter_file: Path | None = None,
    hook: CommitHook | None = None,
    credit_window_units: Units = 0,
    relays: RelayPolicy | None = None,
    client_timeout_s: float = 60,
    blobs: VerifiedBlobStore | None = None,
    price: Price = PRICE,
    limits: ApiLimits | None = None,
    development: bool = True,
    port: int = 0,
) -> AsyncIterator[Node]:
    """Run a node on a free port of this machine; ``adapter_file``: one that the engine takes.

    ``more_engines`` are those of further base models; ``base_prices`` the list prices of bases
    that do not have ``price``.

    With a ``port`` its origin is what is dialled.
    """
    chain = chain or FakeChain(NODE_KEY)
    clock = chain.clock
    engine = engine or FakeEngine(context_tokens=2048)
    store = await SqlStore.open(folder / "ledger.db", {"node": chain.address}, hook)
    peers = Outbound(private_addresses=True)
    denied = DenyList(folder / "withdrawn.deny")
    kept = DenyingBlobStore(blobs or MemoryBlobStore(), denied)
    backends = Backends(
        store,
        chain,
        chain,
        Engines([engine, *more_engines]),
        kept,
        KeyFolder(folder / "keys"),
        SourcedBlobs(kept, peers, folder / "incoming"),
        peers,
        clock,
        chain.key,
        AGE_IDENTITY,
    )
    settings = service_settings(
        folder,
        policy or ServingPolicy(step_tokens=8, voucher_grace_s=0.3),
        relays or RelayPolicy(),
        price,
        credit_window_units,
        development=development,
        origin=f"http://127.0.0.1:{port}" if port else ORIGIN,
    )
    settings = replace(settings, base_prices=base_prices)
    services = build_services(backends, settings)
    file = adapter_file or fake_adapter_file(folder / "adapter.safetensors")
    digest = file_digest(file)
    weights = services.works.publishing.path_of(digest)
    weights.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, weights)
    chain.put_adapter(ADAPTER, digest, engine.model.digest)
    if not await store.adapters():
        await engine.add_adapter(ADAPTER, weights)
        await services.catalogue.add(adapter_record(digest, weights, engine.model.digest))
    await restore(backends, services)
    parts = node_context(
        backends, services, NodeTerms(100_000, OPERATOR_TOKEN, recipient_of(AGE_IDENTITY))
    )
    app = create_app(parts, limits or ApiLimits(64 * 1024, client_timeout_s))
    runner = create_runner(app, shutdown_timeout_s=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession() as http:
            url = f"http://{host}:{port}"
            yield Node(url, store, chain, clock, engine, parts, http, app, runner)
    finally:
        await runner.cleanup()
        await peers.close()
        for each in (engine, *more_engines):
            await each.close()
        await store.close()


def service_settings(
    folder: Path,
    serving: ServingPolicy,
    relays: RelayPolicy,
    price: Price,
    credit_window_units: Units,
    *,
    development: bool,
    origin: str = ORIGIN,
) -> ServiceSettings:
    """Return the settings of a node below ``folder`` that waits for nothing long."""
    return ServiceSettings(
        sessions=SessionPolicy(origin),
        deposits=DepositPolicy(1_000, confirm_wait_s=5, relays=relays),
        serving=serving,
        claims=ClaimPolicy(1_000_000, 3_600),
        registrations=REGISTRATIONS,
        list_price=price,
        base_prices={},
        credit_window_units=credit_window_units,
        quote_valid_s=60,
        compare_interval_s=60,
        adapters_dir=folder / "adapters",
        licenses_dir=folder / "licenses",
        works_dir=folder / "works",
        sealed_dir=folder / "sealed",
        receipts_dir=folder / "receipts",
        manifests_dir=folder / "manifests",
        custody=CustodyPolicy(64 * 1024 * 1024, 16 * 1024 * 1024),
        destruction=DestructionSettings(
            folder,
            folder / "trainings",
            folder / "certificates",
            named_files=False,
        ),
        max_blob_bytes=512 * 1024 * 1024,
        training=TrainingQueueSettings(
            folder / "trainings",
            folder / "models",
            threads=1,
            device="cpu",
            bounds=Bounds(),
            least_percent=(50, 0),
        ),
        network=NetworkSettings(origin, private_addresses=True),
        notices=NoticeRule(),
        development=development,
    )


def adapter_record(
    digest: Hash32, weights: Path, base: Hash32, adapter_id: AdapterId = ADAPTER
) -> AdapterRecord:
    return AdapterRecord(
        adapter_id,
        "tides",
        "knows tides",
        base,
        digest,
        Cid("bafy"),
        ZERO_HASH,
        str(weights),
        PRICE.prompt_price_units,
        PRICE.completion_price_units,
        1,
    )


@dataclass
class Answer:
    """What came back of one streaming request."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    finish: str | None = None
    needs: list[NeedVoucher] = field(default_factory=list)
    receipt: SignedReceipt | None = None
    usage: Any = None
    raw: bytes = b""


class Buyer:
    """A buyer that signs what it is asked for, through the domain's own channel."""

    def __init__(self, node: Node, *, key: bytes = b"\x33" * 32) -> None:
        self.node = node
        self.key = key
        self.signer = public_address(key)
        self.payer = public_address(PAYER_KEY)
        self.channel = buyer_channels.BuyerChannel(self.signer, node.chain.address)
        self.token = ""
        self.domain = node.chain.domain
        node.chain.balances.setdefault(self.payer, 10**9)

    async def call(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        async with self.node.http.request(
            method, self.node.url + path, json=body, headers=headers
        ) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def pay(self, path: str, credential: Credential) -> tuple[int, Any]:
        headers = {"Authorization": credential_to_header(credential)}
        status, body, _ = await self.call("POST", path, headers=headers)
        return status, body

    def deposit(self, amount: Units = DEPOSIT, *, opening: bool = True, **changes: Any) -> Deposit:
        salt = Hash32(secrets.token_bytes(32))
        kind = OPEN_KIND if opening else TOP_UP_KIND
        until = self.node.clock.now + 600
        nonce = authorization_nonce(kind, self.signer, self.node.chain.address, salt)
        said = ReceiveWithAuthorization(self.payer, DEPLOYMENT.settlement, amount, 0, until, nonce)
        consent = self.domain.digest(OpenChannel(self.payer, self.node.chain.address))
        values: dict[str, Any] = {
            "action": "open" if opening else "topUp",
            "chain_id": DEPLOYMENT.chain_id,
            "contract": DEPLOYMENT.settlement,
            "payer": self.payer,
            "signer": self.signer,
            "node": self.node.chain.address,
            "amount_units": amount,
            "salt": salt,
            "valid_after_s": 0,
            "valid_before_s": until,
            "authorization": sign(PAYER_KEY, TOKEN_DOMAIN.digest(said)),
            "signer_signature": sign(self.key, consent) if opening else b"",
        }
        return Deposit(**{**values, **changes})

    async def open(self, amount: Units = DEPOSIT) -> ChannelView:
        status, body = await self.pay(payment.CHANNELS_PATH, self.deposit(amount))
        assert status == 200, body
        await self.observe()
        return ChannelView.from_json(body)

    async def observe(self) -> None:
        seen = await self.node.chain.channel(self.signer, self.node.chain.address)
        assert seen is not None
        self.channel = buyer_channels.observe(self.channel, seen)

    async def proof(self) -> SessionProof:
        _, body, _ = await self.call(
            "POST", payment.SESSION_CHALLENGE_PATH, body={"signer": self.signer}
        )
        session = session_challenge_from_json(body)
        return SessionProof(
            self.signer, session, sign_compact(self.key, self.domain.digest(session))
        )

    async def login(self) -> None:
        proof = await self.proof()
        status, body, _ = await self.call("POST", payment.SESSIONS_PATH, body=proof.to_json())
        assert status == 200, body
        self.token = body["accessToken"]

    def bearer(self, **more: str) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.token}",
            payment.ACCEPT_HEADER: payment.ACCEPT_VALUE,
            **more,
        }

    def voucher(self, adapter_id: AdapterId, up_to: Units, base: Units) -> PresentedVoucher:
        """Sign that ``up_to`` is owed for the adapter, on that base."""
        self.channel = buyer_channels.raise_signed(self.channel, adapter_id, up_to)
        self.channel, draft = buyer_channels.draft_voucher(self.channel, base)
        assert draft is not None
        signature = sign_compact(self.key, self.domain.digest(draft.voucher))
        voucher = draft.voucher
        row = SignedVoucher(voucher.settled_units, voucher.receipts_head, draft.lines, signature)
        return PresentedVoucher(
            DEPLOYMENT.chain_id, DEPLOYMENT.settlement, self.signer, self.node.chain.address, row
        )

    async def satisfy(self, need: NeedVoucher, extra: Units = 0) -> tuple[int, Any]:
        presented = self.voucher(need.adapter_id, need.required_units + extra, need.base_units)
        return await self.pay(payment.VOUCHERS_PATH, presented)

    async def ready(self, amount: Units = DEPOSIT) -> Buyer:
        await self.open(amount)
        await self.login()
        return self

    def chat(self, text: str = "When is high tide?", **more: Any) -> dict[str, Any]:
        return {
            "model": f"viz-adapter-{ADAPTER}",
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "max_tokens": 24,
            "temperature": 0,
            **more,
        }

    async def need_of(self, body: dict[str, Any], path: str = payment.CHAT_PATH) -> Challenge:
        status, problem, headers = await self.call("POST", path, body=body, headers=self.bearer())
        assert status == 402, problem
        return Challenge.from_header(headers["WWW-Authenticate"])

    async def ask(
        self,
        body: dict[str, Any] | None = None,
        *,
        pays: bool = True,
        path: str = payment.CHAT_PATH,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request, pay what is asked for, and collect the answer."""
        body = body or self.chat()
        sent = self.bearer(**(headers or {}))
        async with self.node.http.post(self.node.url + path, json=body, headers=sent) as response:
            if response.status == 402 and pays:
                need = Challenge.from_header(response.headers["WWW-Authenticate"]).need
                assert need is not None
                status, problem = await self.satisfy(need)
                assert status == 200, problem
                return await self.ask(body, pays=pays, path=path, headers=headers)
            answer = Answer(response.status, headers=response.headers)
            if response.content_type != "text/event-stream":
                answer.body = await response.json(content_type=None)
                return answer
            name = ""
            async for line in response.content:
                answer.raw += line
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    await self._event(answer, name, value, pays=pays)
                    name = ""
            return answer

    async def _event(self, answer: Answer, name: str, value: str, *, pays: bool) -> None:
        if value == "[DONE]":
            return
        data = json.loads(value)
        if name == payment.NEED_VOUCHER_EVENT:
            need = NeedVoucher.from_json(data)
            answer.needs.append(need)
            if pays:
                status, problem = await self.satisfy(need)
                assert status == 200, problem
        elif name == payment.RECEIPT_EVENT:
            answer.receipt = payment.receipt_from_json(data)
            self.channel = buyer_channels.accept_receipt(self.channel, self.domain, answer.receipt)
        elif data.get("error"):
            answer.body = data
        elif data["choices"]:
            choice = data["choices"][0]
            answer.text += (
                choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            )
            answer.finish = choice["finish_reason"] or answer.finish
        else:
            answer.usage = data["usage"]

    async def close(self) -> CloseAnswer:
        request = RequestClose(self.signer, self.node.chain.address, self.node.clock.now + 600)
        signature = sign(PAYER_KEY, self.domain.digest(request))
        wanted = CloseRequest(DEPLOYMENT.chain_id, DEPLOYMENT.settlement, request, signature)
        status, body = await self.pay(payment.CLOSE_PATH, wanted)
        assert status == 200, body
        return CloseAnswer.from_json(body)

    async def view(self) -> ChannelView:
        path = payment.CHANNEL_PATH.format(signer=self.signer)
        _, body, _ = await self.call("GET", path, headers=self.bearer())
        return ChannelView.from_json(body)


def other(address: Address) -> Address:
    """Return an address that is not this one."""
    return public_address(b"\x44" * 32 if address != public_address(b"\x44" * 32) else b"\x45" * 32)
