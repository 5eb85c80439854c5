"""The example exchange of docs/protocol.md, recorded from a node that runs.

    python -m tests.integration.api.protocol_examples            # compare the page with a record
    python -m tests.integration.api.protocol_examples --write    # write a record into the page

Keys, clock and chain are fixed, and a counter stands in place of ``secrets``, so that every run
records the same bytes. Left out are the headers that name this machine, its time and its framing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import aiohttp
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.fakes.engine import FakeEngine
from tests.fakes.licenses import preset
from tests.integration.api.harness import (
    ADAPTER,
    AGE_IDENTITY,
    NODE_KEY,
    PAYER_KEY,
    Buyer,
    Node,
    running_node,
)
from tests.integration.api.protocol_tables import tables

from viz.domain import buyer_channel as buyer_channels
from viz.domain.card import ReportCard
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import content_registry_domain, keccak, public_address, sign, sign_compact
from viz.domain.license import Terms
from viz.domain.notices import NoticeKind
from viz.domain.ports.chain import ContentState, TermsState
from viz.domain.ports.custody import CustodyRecord, KeyKind
from viz.domain.ports.ledger import OfferedWork
from viz.domain.ports.transactions import Event
from viz.domain.typed_data import (
    Approve,
    EndCustody,
    KeyRequest,
    Notice,
    OwnerAction,
    Register,
    RequestClose,
    SetTerms,
    Withdraw,
)
from viz.domain.units import BASE_MODEL, ZERO_HASH, Address, Cid, ContentId, Hash32, hex_of
from viz.protocol.credential import CloseRequest, Credential, credential_to_header, voucher_to_text
from viz.protocol.custody import KeyChallenge, SignedEndCustody, SignedKeyRequest
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.listing import CustodianAddress, SealedBlob, SignedListing, WorkListing
from viz.protocol.messages import SessionProof, session_challenge_from_json
from viz.protocol.notices import SignedNotice
from viz.protocol.owner_actions import signed_action
from viz.protocol.payment import Challenge, receipt_from_json
from viz.protocol.registration import SignedRegistration
from viz.protocol.wire import canonical_json
from viz.services.payments.receipt_periods import MARGIN_S, PERIOD_S
from viz.services.serving.paid_stream import ServingPolicy
from viz.storage.sealing import MAGIC, recipient_of

PAGE: Final = Path(__file__).parents[3] / "docs" / "protocol.md"
BEGIN: Final = "<!-- written by tests/integration/api/protocol_examples.py: {} -->"
END: Final = "<!-- end of {} -->"
CREATOR_KEY: Final = b"\x66" * 32
BASE_NAME: Final = "fake"
STEP_TOKENS: Final = 8
AHEAD_UNITS: Final = 30
_LEFT_OUT: Final = ("date", "server", "connection", "transfer-encoding")
_OWN: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_TERMS: Final = Terms(2_000_000, 800, 31_536_000, 604_800, 2, 23, approval_required=False)
_LICENSE: Final = {"text": "Train on it, name its author, and pay."}
_LISTED_TERMS: Final = TermsState(_TERMS, keccak(canonical_json(_LICENSE)))
_LICENSED: Final = ContentId(2)
_CARD: Final = ReportCard(48, 40, 1, 30, 28, 0.0, 13, 10, 9, 0)
_SEALED_CID: Final = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")


class RegistryChain(FakeChain):
    """The chain in memory, which also registers one work and does what its owner signs."""

    _licence = ZERO_HASH
    _document: TermsState | None = None
    _offered = _TERMS
    _nonce = 0

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        if terms_hash == _hash_of(_LISTED_TERMS):
            return _LISTED_TERMS
        if self._document and terms_hash == _hash_of(self._document):
            return self._document
        return TermsState(self._offered, self._licence)

    async def registration_nonce(self, creator: Address) -> int:
        return self._nonce

    def _setTermsFor(
        self, work: ContentId, licence: Hash32, terms: tuple[Any, ...], *_: Any
    ) -> None:
        self._licence, self._offered, self._nonce = licence, Terms(*terms), self._nonce + 1
        self.works[work] = replace(self.works[work], terms_hash=self._offered.terms_hash(licence))

    def _approveTrainerFor(self, work: ContentId, trainer: Address, allowed: bool, *_: Any) -> None:
        self._nonce += 1

    def _withdrawFor(self, work: ContentId, *_: Any) -> None:
        self._nonce += 1
        self.works[work] = replace(self.works[work], withdrawn_at=self.clock.now)

    def put_document(self, document: LicenseDocument) -> None:
        """Register work 2 under a license document."""
        self._document = TermsState(terms_of(document), document.license_hash)
        work, owner = _LICENSED, Address(document.licensor.wallet)
        terms_hash = _hash_of(self._document)
        self.works[work] = ContentState(work, owner, owner, ZERO_HASH, terms_hash, 0)

    def _registerFor(
        self, creator: Address, commitment: Hash32, licence: Hash32, *_: Any
    ) -> tuple[Event, ...]:
        work = ContentId(1)
        self._licence, self._nonce = licence, self._nonce + 1
        terms_hash = _TERMS.terms_hash(licence)
        self.works[work] = ContentState(work, creator, creator, commitment, terms_hash, 0)
        said = {"contentId": work}
        return (Event("ContentRegistry", "ContentRegistered", said, 0, ZERO_HASH, ZERO_HASH, 0),)


def _hash_of(known: TermsState) -> Hash32:
    return known.terms.terms_hash(known.license_hash)


@contextmanager
def counted_secrets() -> Iterator[None]:
    """Let ``secrets`` give the hashes of 1, 2, 3 and so on."""
    drawn = 0

    def token_bytes(size: int | None = None) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"protocol example {drawn}".encode()).digest(size or 32)

    with patch.object(secrets, "token_bytes", token_bytes):
        yield


def decoded(text: str) -> Any:
    """Return the JSON behind base64url."""
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@dataclass
class Record:
    """The exchanges so far, as the page shows them."""

    node: Node
    parts: list[str] = field(default_factory=list)
    challenge: str = ""
    _steps: int = 0

    def say(self, title: str, text: str) -> None:
        self._steps += 1
        self.parts.append(f"### Step {self._steps}: {title}\n\n{text}")

    def block(self, language: str, text: str) -> None:
        self.parts.append(f"```{language}\n{text.rstrip()}\n```")

    def json(self, text: str, value: Any) -> None:
        self.parts.append(text)
        self.block("json", json.dumps(value, indent=2))

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.client._RequestContextManager:
        """Write a request down, and return it as aiohttp sends it."""
        sent = {"Host": "node.test", **headers}
        if body:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {sent[key]}" for key in sent), ""]
        self.block("http", "\n".join((*lines, body.decode())))
        scheme, _, credential = headers.get("Authorization", "").partition(" ")
        if scheme == "Payment":
            self.json("The credential, decoded:", decoded(credential))
        if "Payment-Voucher" in headers:
            self.json("The voucher on it, decoded:", decoded(headers["Payment-Voucher"]))
        return self.node.http.request(
            method,
            self.node.url + path,
            data=body or None,
            headers=sent,
            skip_auto_headers=_OWN,
        )

    def answer(self, response: aiohttp.ClientResponse, body: str) -> None:
        """Write an answer down, with what its headers hold."""
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [
            f"{name.decode()}: {value.decode()}"
            for name, value in response.raw_headers
            if name.decode().lower() not in _LEFT_OUT
        ]
        self.block("http", "\n".join((*lines, "", body)))
        challenge = response.headers.get("WWW-Authenticate", "")
        if challenge.startswith("Payment"):
            self.challenge = challenge
            said = challenge.split('request="')[1].rstrip('"')
            self.json("The challenge's `request`, decoded:", decoded(said))
        if "Payment-Receipt" in response.headers:
            said = response.headers["Payment-Receipt"]
            self.json("The receipt of the header, decoded:", decoded(said))

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request, write both sides down, and return the answer's JSON."""
        raw = b"" if body is None else json.dumps(body).encode()
        async with self.request(method, path, headers or {}, raw) as response:
            text = await response.text()
            self.answer(response, text)
            is_json = "json" in response.content_type
            return json.loads(text) if is_json else text

    async def exchange_quietly(self, path: str) -> Any:
        """Ask for what an earlier step shows already; write nothing down."""
        async with self.node.http.get(self.node.url + path) as response:
            return await response.json()

    async def pay(self, path: str, credential: Credential) -> Any:
        header = {"Authorization": credential_to_header(credential)}
        return await self.exchange("POST", path, headers=header)


async def paid_stream(record: Record, buyer: Buyer, body: Any, quote: str) -> None:
    """Record an answer that pauses for its second voucher, which is sent at the pause."""
    headers = buyer.bearer(**{"Payment-Quote": quote})
    raw = json.dumps(body).encode()
    async with record.request("POST", "/v1/chat/completions", headers, raw) as response:
        seen, need = "", None
        while need is None or seen.count('"delta":{"content"') < STEP_TOKENS:
            line = (await response.content.readline()).decode()
            assert line, seen
            seen += line
            if line.startswith("event: payment-need-voucher"):
                told = (await response.content.readline()).decode()
                seen, need = seen + told, json.loads(told.removeprefix("data: "))
        seen += (await response.content.readline()).decode()
        record.answer(response, seen)
        record.say(
            "the second voucher",
            "The event asked for it half a step early. The client of this record waits until "
            "nothing more comes, so that the record is always the same; yours should send at once."
            " The voucher replaces the first one: same base, larger amount. It is 30 units above "
            "what is required: a client may sign ahead.",
        )
        ahead = int(need["required"]) + AHEAD_UNITS
        await record.pay("/viz/v1/vouchers", buyer.voucher(ADAPTER, ahead, 0))
        record.say(
            "the rest of the stream",
            "The same HTTP answer goes on. It ends with the usage, the receipt and `[DONE]`.",
        )
        rest = (await response.content.read()).decode()
        record.block("http", rest)
    told = rest.split("event: payment-receipt\ndata: ")[1].split("\n")[0]
    _take(buyer, json.loads(told))


def _take(buyer: Buyer, receipt: Any) -> None:
    signed = receipt_from_json(receipt)
    buyer.channel = buyer_channels.accept_receipt(buyer.channel, buyer.domain, signed)


def _final(buyer: Buyer, base: int) -> SignedVoucher:
    buyer.channel, draft = buyer_channels.draft_final(buyer.channel, base)
    assert draft is not None
    signature = sign_compact(buyer.key, buyer.domain.digest(draft.voucher))
    return SignedVoucher(base, draft.voucher.receipts_head, draft.lines, signature)


async def buying(record: Record, buyer: Buyer) -> None:
    """Record a buyer's life on one channel."""
    node, say = record.node, record.say
    say("which chain", "The deployment file. A client compares it with the one it trusts.")
    await record.exchange("GET", "/viz/v1/deployment")
    say("what the node sells", "Identity, token, tokenizer, and the adapters with list prices.")
    await record.exchange("GET", "/viz/v1/node")
    body = buyer.chat("When is high tide?", max_tokens=16)
    body |= {"stream_options": {"include_usage": True}}
    say(
        "an unpaid request",
        "Without an access token the body is not read. The challenge says where to pay.",
    )
    await record.exchange("POST", "/v1/chat/completions", body=body)
    say(
        "open a channel",
        "The payer signs an ERC-3009 authorisation, the session key signs `OpenChannel`; the node "
        "sends the transaction. The answer comes when the deposit is confirmed.",
    )
    await record.pay("/viz/v1/channels", buyer.deposit())
    await buyer.observe()
    say("ask for a session challenge", "The node says what to sign.")
    challenge = await record.exchange(
        "POST", "/viz/v1/sessions/challenge", body={"signer": buyer.signer}
    )
    say(
        "sign the session",
        "The session key signs the `Session` struct, after the client compared `node` and `origin` "
        "with those it dialled.",
    )
    proof = _proof(buyer, challenge)
    token = await record.exchange("POST", "/viz/v1/sessions", body=proof)
    buyer.token = token["accessToken"]
    say(
        "the price of this request",
        "With the access token the 402 carries a signed quote and the need: what must be signed "
        "for adapter 7 before the first step.",
    )
    headers = buyer.bearer()
    await record.exchange("POST", "/v1/chat/completions", body=body, headers=headers)
    asked = Challenge.from_header(record.challenge)
    assert asked.quote is not None and asked.need is not None
    say("the first voucher", "It covers the prompt and one step, as `need.required` says.")
    required = asked.need.required_units
    await record.pay("/viz/v1/vouchers", buyer.voucher(ADAPTER, required, 0))
    say(
        "the paid answer begins",
        "The request names the digest of the quote. `Accept-Payment` asks for payment events.",
    )
    await paid_stream(
        record, buyer, body, hex_of(asked.quote.verify(buyer.domain, node.chain.address))
    )
    say(
        "a voucher that is too low",
        "Another process with the same key signs less. The node answers with its base and the best "
        "lines, which is what the next voucher must reach.",
    )
    twin = Buyer(node)
    await twin.observe()
    await record.pay("/viz/v1/vouchers", twin.voucher(ADAPTER, 60, 0))
    say("top up", "A deposit into the open channel needs the payer's signature alone.")
    await record.pay("/viz/v1/channels", buyer.deposit(50_000, opening=False))
    await buyer.observe()
    say(
        "an answer in one piece",
        "Without `stream` the whole of `max_tokens` is paid ahead. The voucher has two lines: "
        "this request is for the base model (adapter 0), the first one was for adapter 7. It does "
        "not pay the whole request yet.",
    )
    plain = {"model": BASE_NAME, "prompt": "The tide", "max_tokens": 6, "temperature": 0}
    voucher = buyer.voucher(BASE_MODEL, 30, 0)
    await record.pay("/viz/v1/vouchers", voucher)
    say(
        "its request and its receipt",
        "It counts on the list price instead of a quote. The voucher that pays the rest comes with "
        "it. The receipt comes as a header.",
    )
    bearer = {"Authorization": f"Bearer {buyer.token}"}
    headers = {**bearer, "Payment-Price": "2000000 6000000", "Idempotency-Key": "example-1"}
    headers["Payment-Voucher"] = voucher_to_text(buyer.voucher(BASE_MODEL, 52, 0))
    await record.exchange("POST", "/v1/completions", body=plain, headers=headers)
    said = record.parts[-1].removeprefix("```json\n").removesuffix("\n```")
    _take(buyer, json.loads(said))
    say("a mistake", "A problem document names the fault by its `code`.")
    wrong = {**plain, "temperature": 9}
    await record.exchange("POST", "/v1/completions", body=wrong, headers=bearer)
    say("the receipts again", "For a client that lost an answer's end.")
    path = f"/viz/v1/channels/{buyer.signer}/receipts?after=1"
    await record.exchange("GET", path, headers=bearer)
    say(
        "close together",
        "The payer signs `RequestClose`, the session key signs a final voucher for exactly what "
        "the receipts bill, 30 units below the best one. The node claims it, signs `Close` and "
        "returns the rest.",
    )
    wanted = RequestClose(buyer.signer, node.chain.address, node.clock.now + 600)
    signature = sign(PAYER_KEY, buyer.domain.digest(wanted))
    chain = DEPLOYMENT.chain_id, DEPLOYMENT.settlement
    await record.pay(
        "/viz/v1/channels/close", CloseRequest(*chain, wanted, signature, _final(buyer, 0))
    )


async def market(record: Record) -> None:
    """Record a creator's registration, and what anybody may read."""
    record.say("what a creator signs against", "The registry, the next nonce and the chain's time.")
    creator = public_address(CREATOR_KEY)
    context = await record.exchange("GET", f"/viz/v1/contents/context/{creator}")
    record.say("register a work", "The node sends the creator's signed `Register`.")
    until = context["chainTime"] + 3600
    register = Register(creator, Hash32(b"\x01" * 32), Hash32(b"\x02" * 32), _TERMS, 0, until)
    domain = content_registry_domain(context["chainId"], context["contentRegistry"])
    signature = sign(CREATOR_KEY, domain.digest(register))
    body = SignedRegistration(register, signature).to_json()
    await record.exchange("POST", "/viz/v1/contents", body=body)
    record.say("read a work", "As the chain has it.")
    await record.exchange("GET", "/viz/v1/contents/1")
    record.say("read an adapter", "With its royalty table.")
    await record.exchange("GET", f"/viz/v1/adapters/{ADAPTER}")
    record.say("read a model", "OpenAI's form; `viz` is the offer of `/viz/v1/node`.")
    await record.exchange("GET", f"/v1/models/viz-adapter-{ADAPTER}")


async def licenses(record: Record) -> None:
    """Record how anybody reads the license of a work in this node's custody."""
    record.say(
        "read a license",
        "The body is the document in canonical form: its `keccak256` is the `licenseHash` of the "
        "work on the chain.",
    )
    await record.exchange("GET", "/license/2")
    record.say("read a form of it", "Here what it costs; section 15 lists the forms.")
    await record.exchange("GET", "/license/2/rate-card.json")
    record.say("read what is reserved", "TDMRep's rules for every work in custody.")
    await record.exchange("GET", "/.well-known/tdmrep.json")


async def owning(record: Record) -> None:
    """Record what an owner does with a work, and what anybody may read of an account."""
    owner, work, trainer = public_address(CREATOR_KEY), ContentId(1), record.node.chain.address
    context = await record.exchange_quietly(f"/viz/v1/contents/context/{owner}")
    domain = content_registry_domain(context["chainId"], context["contentRegistry"])
    nonce, until = int(context["nonce"]), context["chainTime"] + 3600

    async def act(title: str, text: str, action: OwnerAction) -> None:
        record.say(title, text)
        path, signed = signed_action(action, sign(CREATOR_KEY, domain.digest(action)))
        await record.exchange("POST", path, body=signed.to_json())

    terms = replace(_TERMS, training_fee_units=3_000_000, approval_required=True)
    new = SetTerms(work, Hash32(b"\x03" * 32), terms, nonce, until)
    await act(
        "other terms", "For new grants. The nonce is the owner's next one, as in step 19.", new
    )
    approval = Approve(work, trainer, True, nonce + 1, until)
    await act("approve a trainer", "Counts while this owner has the work.", approval)
    await act("withdraw the work", "For ever.", Withdraw(work, nonce + 2, until))
    record.say("a second withdrawal", "Is refused before it costs anybody gas.")
    path, again = signed_action(
        Withdraw(work, nonce + 3, until),
        sign(CREATOR_KEY, domain.digest(Withdraw(work, nonce + 3, until))),
    )
    await record.exchange("POST", path, body=again.to_json())
    record.say("the withdrawn work", "It has no terms any more.")
    await record.exchange("GET", "/viz/v1/contents/1")
    record.say("what an account owns", "At most 500 ids are looked through for one answer.")
    await record.exchange("GET", f"/viz/v1/accounts/{owner}/contents?after=0")
    record.say("what an account has", "In units of the token, and in wei of the chain's coin.")
    await record.exchange("GET", f"/viz/v1/accounts/{owner}")


async def listing(record: Record) -> None:
    """Record how an owner publishes a listing, and how anybody reads it."""
    work, now_s = ContentId(3), record.node.clock.now
    record.node.chain.works[work] = _listed_work(work)
    document = WorkListing(
        DEPLOYMENT.chain_id,
        DEPLOYMENT.content_registry,
        work,
        title="The keeper of Varn Point",
        credit="Alma Reyes",
        language="en",
        kind="dialogue",
        size_bytes=61_440,
        license=_LICENSE,
        sealed=SealedBlob(_SEALED_CID, 62_128),
        custodians=(CustodianAddress(record.node.chain.address, "https://node.test"),),
        issued_at=now_s,
        sample="Who keeps the light at Varn Point?",
    ).to_json()
    domain = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
    digest = domain.digest(SignedListing.of(document, b"").struct)
    signed = SignedListing.of(document, sign(CREATOR_KEY, digest))
    record.say(
        "publish a listing",
        "The owner signs `Listing`: the id, the `keccak256` of the listing in canonical form, and "
        "`issuedAt`. Whoever has it may hand it in.",
    )
    await record.exchange("POST", "/viz/v1/listings", body=signed.to_json())
    record.say("read a listing", "As the owner signed it.")
    await record.exchange("GET", "/viz/v1/listings/3")
    record.say("read all listings", "At most 64 at a time, by the works' ids.")
    await record.exchange("GET", "/viz/v1/listings?after=2&limit=8")


async def keys(record: Record) -> None:
    """Record how a licensed trainer gets the key of a sealed work, and who sees that."""
    node, work = record.node, ContentId(3)
    node.chain.granted.add(work)
    owner = public_address(CREATOR_KEY)
    kept = CustodyRecord(work, owner, _SEALED_CID, 62_128, node.clock.now)
    await node.store.put_custody(kept, most_each_bytes=10**6, most_bytes=10**6)
    await node.parts.custodian.keep_own(_SEALED_CID, AGE_IDENTITY)
    requester = public_address(PAYER_KEY)
    record.say(
        "ask for a key's challenge",
        "The node says who it is, under which origin it answers, and what to sign once.",
    )
    asked = KeyChallenge.from_json(
        await record.exchange("POST", "/viz/v1/keys/challenge", body={"account": requester})
    )
    request = KeyRequest(
        requester,
        asked.custodian,
        asked.origin,
        int(KeyKind.WORK),
        int(work),
        recipient_of(AGE_IDENTITY),
        asked.challenge,
        asked.expiry_s,
    )
    domain = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
    signed = SignedKeyRequest(request, sign(PAYER_KEY, domain.digest(request)))
    record.say(
        "ask for a key",
        "Kind 1 is a work, `id` its content id. The chain has a live grant of the requester, so "
        "the custodian logs the key and wraps it for `ageRecipient` (here shortened: age's output "
        "is never the same twice).",
    )
    # age draws from the operating system, which no test can fix.
    with patch("viz.services.custody.custodian.wrap", lambda key, recipient: MAGIC + b"..."):
        await record.exchange("POST", "/viz/v1/keys", body=signed.to_json())
    record.say("who has the key", "For the owner, and whoever else wants to know.")
    await record.exchange("GET", "/viz/v1/keys/works/3")
    await _end_custody(record, work)


async def _end_custody(record: Record, work: ContentId) -> None:
    """Record how an owner has a custodian destroy what it holds, for a challenge as before."""
    node, owner = record.node, public_address(CREATOR_KEY)
    asked = node.parts.custodian.challenge(owner)
    said = EndCustody(work, asked.custodian, asked.origin, asked.challenge, asked.expiry_s)
    domain = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
    signed = SignedEndCustody(said, sign(CREATOR_KEY, domain.digest(said)))
    record.say(
        "end a custody",
        "The owner signs a challenge of its own (as in step 37). The custodian destroys key and "
        "sealed work, and certifies that. `withdrawnAt` is 0: the work is not withdrawn.",
    )
    await record.exchange("POST", "/viz/v1/custody/end", body=signed.to_json())


async def notices(record: Record) -> None:
    """Record how anybody sends a notice, and what others see of it."""
    said = Notice(
        public_address(PAYER_KEY),
        record.node.chain.address,
        ADAPTER,
        ContentId(0),
        int(NoticeKind.PERSONAL_DATA),
        "It answers with my address.",
        "mail@example.org",
        ZERO_HASH,
        record.node.clock.now,
    )
    domain = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
    signed = SignedNotice(said, sign(PAYER_KEY, domain.digest(said)))
    record.say(
        "send a notice",
        "Kind 2 is personal data; `contentId` is 0, so the notice is about the adapter. Its signer "
        "owns none of the adapter's works (`standing`), so that sales go on until `effectiveAt`.",
    )
    await record.exchange("POST", "/viz/v1/notices", body=signed.to_json())
    record.say("read the notices", "And the rule by which this node answers them, in seconds.")
    await record.exchange("GET", "/viz/v1/notices?adapter=7")


async def reading(record: Record) -> None:
    """Record what anybody may read of the offers here, of the market and of the receipts."""
    node = record.node
    record.say("what is sold here", "The adapters, with digests, CIDs and prices.")
    await record.exchange("GET", "/viz/v1/adapters")
    record.say(
        "the market",
        "This node's directory names nobody else, so it tells of itself. `limit=1` asks for one "
        "model, here the base model; `next` is the `after` of the next page.",
    )
    await node.parts.discovery.step()
    path = "/viz/v1/market?maxPromptPrice=2000000&limit=1"
    page = await record.exchange("GET", path)
    record.say("the market's last page", "An adapter, with its works and its report card.")
    await record.exchange("GET", f"{path}&after={page['next']}")
    node.clock.now = (node.clock.now // PERIOD_S + 1) * PERIOD_S + MARGIN_S
    assert await node.parts.receipt_periods.publish() is not None
    record.say(
        "the published receipts",
        "A day later: the node's first period. It has both receipts of this exchange.",
    )
    page = await record.exchange("GET", "/viz/v1/receipts/periods")
    record.say("the blob of a period", "Each receipt's digest and lines, in canonical form.")
    await record.exchange("GET", f"/ipfs/{page['periods'][0]['cid']}")


async def _put_on_offer(node: Node) -> None:
    """Give the adapter a work and a report card, as a trained one has them."""
    state, (sold,) = node.chain.adapter_states[ADAPTER], node.parts.catalogue.records()
    node.chain.adapter_states[ADAPTER] = replace(state, shares=((_LICENSED, 10_000),))
    works = (OfferedWork(_LICENSED, "Tides of Varn Point"),)
    await node.parts.catalogue.add(replace(sold, works=works, card=_CARD))


def _listed_work(work: ContentId) -> ContentState:
    """Return a work of the creator as the chain in memory has it, under ``_LICENSE``."""
    owner = public_address(CREATOR_KEY)
    return ContentState(work, owner, owner, ZERO_HASH, _hash_of(_LISTED_TERMS), 0)


def _proof(buyer: Buyer, challenge: Any) -> Any:
    session = session_challenge_from_json(challenge)
    signature = sign_compact(buyer.key, buyer.domain.digest(session))
    return SessionProof(buyer.signer, session, signature).to_json()


async def recorded(folder: Path) -> str:
    """Run the exchange against a node and return its text."""
    with counted_secrets():
        policy = ServingPolicy(step_tokens=STEP_TOKENS, voucher_grace_s=60)
        chain, engine = RegistryChain(NODE_KEY), FakeEngine(context_tokens=2048)
        chain.put_document(preset())
        (folder / "licenses").mkdir()
        (folder / "licenses" / "2.json").write_bytes(preset().canonical)
        async with running_node(folder, policy=policy, chain=chain, engine=engine) as node:
            await _put_on_offer(node)
            record = Record(node)
            await buying(record, Buyer(node))
            await market(record)
            await licenses(record)
            await owning(record)
            await listing(record)
            await keys(record)
            await notices(record)
            await reading(record)
            return "\n\n".join(record.parts)


def with_part(page: str, name: str, text: str) -> str:
    """Return the page with the text between the markers of that name."""
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


async def current_page(folder: Path) -> str:
    """Return the page with everything that is written by programs made anew."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in (*tables().items(), ("exchange", await recorded(folder))):
        page = with_part(page, name, text)
    return page


def main() -> int:
    """Write the page, or say whether it is current."""
    with tempfile.TemporaryDirectory() as folder:
        page = asyncio.run(current_page(Path(folder)))
    if "--write" in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    return 0 if page == PAGE.read_text(encoding="utf-8") else 1


if __name__ == "__main__":
    sys.exit(main())
