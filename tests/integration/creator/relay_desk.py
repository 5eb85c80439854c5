"""A relay of a node over HTTP on a real chain, and an owner's folder with the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.fakes.http_server import serving
from tests.integration.chain.testnet import Testnet
from tests.integration.services.claiming import SystemClock
from typer.testing import CliRunner, Result

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.cli.main import app
from viz.domain.units import Address, ContentId, hex_of, parse_address
from viz.errors import LicenseError, VizError
from viz.protocol.owner_actions import (
    ACCOUNT_PATH,
    APPROVALS_PATH,
    OWNED_PATH,
    TERMS_PATH,
    WITHDRAWALS_PATH,
    AccountView,
    ActionAnswer,
    OwnedWorks,
    SignedAction,
    SignedApproval,
    SignedTerms,
    SignedWithdrawal,
)
from viz.protocol.registration import (
    CONTENTS_PATH,
    REGISTRATION_CONTEXT_PATH,
    RegistrationAnswer,
    SignedRegistration,
)
from viz.services.licensing.creator_relay import CreatorRelay

PASSWORD = "correct horse"
TERMS = """title = "Tides"
kind = "text"
file = "story.txt"
[terms]
training_fee = "250.00"
min_royalty_bps = 1000
duration_s = 0
notice_s = 86400
revocation_class = 1
uses = ["train", "embody", "serve"]
needs_approval = true
[license]
text = "all rights reserved"
"""
INPUT, CONFIG, PAYMENT, CHAIN, LICENSE, UNTRUE = 4, 3, 5, 6, 7, 12
Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass
class Relay:
    """A node's relay; ``lies`` changes its context, ``keeps`` makes it send nothing.

    ``says`` replaces each answer after it has sent: a body and a status; 0 breaks the connection.
    """

    net: Testnet
    desk: CreatorRelay
    url: str = ""
    keeps: bool = False
    lies: dict[str, Any] | None = None
    taken: list[SignedAction] | None = None
    says: tuple[Any, int] | None = None

    def said(self, request: web.Request, truth: Any, status: int) -> web.Response:
        """Return the answer to what was sent."""
        if self.says is None:
            return web.json_response(truth, status=status)
        body, status = self.says
        if not status:
            assert request.transport is not None
            request.transport.close()
        return web.json_response(body, status=status or 200)

    async def context(self, request: web.Request) -> web.Response:
        creator = parse_address(request.match_info["creator"])
        found = (await self.desk.registration_context(creator)).to_json()
        return web.json_response(found | (self.lies or {}))

    async def register(self, request: web.Request) -> web.Response:
        signed = SignedRegistration.from_json(await request.json())
        done = await self.desk.relay_registration(signed.register, signed.signature)
        answer = RegistrationAnswer(done.content_id, done.transaction.hash)
        return self.said(request, answer.to_json(), 201)

    def act(self, kind: type[SignedTerms | SignedApproval | SignedWithdrawal]) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            signed = kind.from_json(await request.json())
            self.taken = [*(self.taken or ()), signed]
            name = b"\1" * 32
            if not self.keeps:
                try:
                    sent = await self.desk.relay_action(signed.action, signed.signature)
                except VizError as error:
                    said = {"code": error.code, "detail": error.detail}
                    return web.json_response(said, status=error.status)
                name = sent.hash
            answer = ActionAnswer(signed.action.content_id, name)  # type: ignore[arg-type]
            return self.said(request, answer.to_json(), 200)

        return handler

    async def work(self, request: web.Request) -> web.Response:
        chain, content_id = self.net.chain, ContentId(int(request.match_info["content_id"]))
        state = await chain.content(content_id)
        if state is None:
            return web.json_response({"code": LicenseError.code, "detail": "none"}, status=403)
        offered = await chain.terms(state.terms_hash)
        assert offered is not None
        more = {}
        if (named := request.query.get("trainer")) is not None:
            more["approved"] = await chain.approved(content_id, state.owner, parse_address(named))
        return web.json_response(
            more
            | {
                "contentId": int(content_id),
                "owner": state.owner,
                "creator": state.creator,
                "commitment": hex_of(state.commitment),
                "termsHash": hex_of(state.terms_hash),
                "withdrawnAt": state.withdrawn_at,
                "licenseHash": hex_of(offered.license_hash),
                "terms": {name: getattr(offered.terms, name) for name in offered.terms.__slots__},
            }
        )

    async def account(self, request: web.Request) -> web.Response:
        asked, chain = parse_address(request.match_info["account"]), self.net.chain
        view = AccountView(
            asked,
            await chain.token_balance(asked),
            await chain.collectable(asked),
            await chain.collected_to(asked),
            await chain.coin_wei(asked),
        )
        return web.json_response(view.to_json())

    async def owned(self, request: web.Request) -> web.Response:
        owner = parse_address(request.match_info["account"])
        count = await self.net.chain.content_count()
        ids = [ContentId(each) for each in range(1, count + 1)]
        owners = await self.net.chain.owners(ids) if ids else ()
        mine = tuple(each for each, his in zip(ids, owners, strict=True) if his == owner)
        return web.json_response(OwnedWorks(owner, mine, count, count).to_json())


@asynccontextmanager
async def relaying(net: Testnet) -> AsyncIterator[Relay]:
    """Serve a relay's routes over HTTP."""
    relay = Relay(net, CreatorRelay(net.chain, net.sender(5), SystemClock()))
    routes = [
        web.get(REGISTRATION_CONTEXT_PATH, relay.context),
        web.post(CONTENTS_PATH, relay.register),
        web.get(CONTENTS_PATH + "/{content_id}", relay.work),
        web.get(OWNED_PATH, relay.owned),
        web.get(ACCOUNT_PATH, relay.account),
        web.post(TERMS_PATH, relay.act(SignedTerms)),
        web.post(APPROVALS_PATH, relay.act(SignedApproval)),
        web.post(WITHDRAWALS_PATH, relay.act(SignedWithdrawal)),
    ]
    async with serving(routes) as relay.url:
        yield relay


@dataclass(frozen=True)
class OwnerDesk:
    """An owner's folder: a work, a key, and the deployment that is trusted."""

    folder: Path
    owner: Address

    @property
    def work(self) -> Path:
        return self.folder / "work" / "story.txt"

    def terms(self, text: str = TERMS) -> Path:
        place = self.folder / "work" / "terms.toml"
        place.write_text(text, encoding="utf-8")
        return place

    async def viz(self, *words: object, key: bool = True, yes: bool = True) -> Result:
        arguments = [str(word) for word in words] + ["--data-dir", str(self.folder)]
        if key:
            arguments += ["--key", str(self.folder / "key.json")]
        arguments += ["--yes"] if yes else []
        runner = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD, "VIZ_RPC_URL": None})
        return await asyncio.to_thread(runner.invoke, app, arguments)

    async def json(self, *words: object, key: bool = True, yes: bool = True) -> Any:
        done = await self.viz(*words, "--json", key=key, yes=yes)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    async def registered(self, relay: Relay) -> ContentId:
        """Register the folder's work through the relay, and return its id."""
        rpc = relay.net.anvil.url
        found = await self.json(
            "content",
            "register",
            self.folder / "work",
            "--node",
            relay.url,
            "--rpc",
            rpc,
            "--offline",
        )
        return ContentId(found["contentId"])


def new_owner(folder: Path, net: Testnet) -> OwnerDesk:
    """Make a folder with a work of a new key."""
    (folder / "work").mkdir(parents=True)
    save_deployment(folder / "deployment.json", net.deployment)
    account = create_key_file(folder / "key.json", PASSWORD, scrypt_n=2)
    made = OwnerDesk(folder, Address(account.address))
    made.work.write_text("The tide comes in twice a day. " * 200, encoding="utf-8")
    made.terms()
    return made
