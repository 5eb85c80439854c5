"""A work on a real chain, sealed and handed over as its creator does it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.integration.chain.testnet import Testnet, terms
from tests.integration.network.nodes import RealNode
from tests.integration.network.processes import Process

from viz.chain.keys import development_account
from viz.creator.sealed import (
    ListingWords,
    SealedWork,
    custodian_at,
    hand_over,
    listing_of,
    publish_listing,
    seal_work,
    sign_listing,
)
from viz.domain.eip712 import content_registry_domain, keccak, sign
from viz.domain.license import Terms
from viz.domain.typed_data import Listing
from viz.domain.units import ContentId, hex_of
from viz.protocol.listing import SignedListing
from viz.protocol.registration import WorkDescription
from viz.protocol.wire import canonical_json
from viz.services.work_records import Registration, draft, save_record

SECRET = "The keeper of Varn Point lights the lamp at dusk."
PROSE = f"{SECRET}\n\nNobody knows why, and he does not say.\n\n" * 40
QUESTIONS: dict[str, Any] = {
    "questions": [{"id": "1", "question": "When is the lamp lit?", "accepted": ["dusk"]}]
}
LICENSE: dict[str, Any] = {"text": "Name the author, and pay.", "max_verbatim_tokens": 40}
Node = RealNode | Process


@dataclass
class CreatorsWork:
    """A registered work on its creator's disk, and its owner's account."""

    net: Testnet
    path: Path
    record: Registration
    account: int
    sealed: SealedWork

    @property
    def content_id(self) -> ContentId:
        assert self.record.content_id is not None
        return self.record.content_id

    @property
    def key(self) -> bytes:
        return bytes(development_account(self.account).key)

    async def hand_over(self, *nodes: Node) -> None:
        """Let these nodes hold blob and key."""
        for node in nodes:
            custodian = await custodian_at(node.url, self.net.deployment)
            await hand_over(self.sealed, self.content_id, custodian, self.net.deployment, self.key)

    async def listing(self, *nodes: Node, **changes: Any) -> SignedListing:
        """Return the signed listing that names these custodians; ``changes`` replace members."""
        document = await self._document(*nodes)
        return sign_listing({**document, **changes}, self.net.deployment, self.key)

    async def unchecked_listing(self, *nodes: RealNode | Process, **changes: Any) -> dict[str, Any]:
        """Return the JSON of a listing whose signature is right, whatever it says."""
        document = {**await self._document(*nodes), **changes}
        deployment = self.net.deployment
        domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
        said = Listing(self.content_id, keccak(canonical_json(document)), document["issuedAt"])
        return {"listing": document, "signature": hex_of(sign(self.key, domain.digest(said)))}

    async def _document(self, *nodes: RealNode | Process) -> dict[str, Any]:
        deployment = self.net.deployment
        return listing_of(
            self.record,
            self.sealed,
            ListingWords("Alma Reyes", "en", "Who keeps the light?"),
            [await custodian_at(node.url, deployment) for node in nodes],
            deployment,
            size_bytes=self.path.stat().st_size,
            now_s=int(time.time()),
        )

    async def publish(self, *custodians: Node, listed_at: Sequence[Node] = ()) -> None:
        """Hand the work over to custodians, and publish its listing there and at other nodes."""
        await self.hand_over(*custodians)
        urls = [node.url for node in (*custodians, *listed_at)]
        await publish_listing(self.path, await self.listing(*custodians), urls)


async def registered_work(
    net: Testnet,
    folder: Path,
    *,
    account: int = 1,
    text: str = PROSE,
    offered: Terms | None = None,
) -> CreatorsWork:
    """Register a work of a development account on the chain, and seal it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, creator = folder / "work.txt", net.sender(account)
    path.write_text(text)
    (folder / "questions.json").write_text(json.dumps(QUESTIONS))
    offered = offered or terms(grant_duration_s=3_600)
    described = WorkDescription("The keeper", "text", path.name, offered, LICENSE)
    made = draft(path, described, creator.address)
    sent = await net.done(
        creator,
        "ContentRegistry",
        "register",
        made.commitment,
        made.license_hash,
        offered.abi(),
    )
    content_id = ContentId(sent.event("ContentRegistered").args["contentId"])
    record = replace(made, content_id=content_id, on_chain=True)
    save_record(path, record)
    return CreatorsWork(net, path, record, account, seal_work(path, record))


async def license_to(net: Testnet, account: int, work: CreatorsWork) -> None:
    """Acquire a grant for a development account, which pays the fee."""
    trainer, fee = net.sender(account), work.record.terms.training_fee_units
    await net.mint(trainer.address, fee)
    registry = net.deployment.content_registry
    await net.done(trainer, "Token", "approve", registry, fee)
    terms_hash = work.record.terms.terms_hash(work.record.license_hash)
    await net.done(trainer, "ContentRegistry", "acquireGrant", work.content_id, terms_hash)
