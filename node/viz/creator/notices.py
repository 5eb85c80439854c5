"""Sign a notice about an adapter or a work, and send it to the node that serves it.

Chain and registry come from the trusted deployment; the node must name the same ones, and is named
in what is signed, so that the notice is good at that node alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from viz.client.exchange import exchange
from viz.client.node_address import origin_of
from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.notices import NoticeKind
from viz.domain.ports.chain import Deployment
from viz.domain.trust import require_as_trusted
from viz.domain.typed_data import Notice
from viz.domain.units import ZERO_HASH, AdapterId, Address, ContentId, Hash32
from viz.errors import InvalidRequest, NodeNotTrusted
from viz.given_file import digest_given
from viz.protocol.messages import NodeInfo
from viz.protocol.notices import (
    LAYOUT,
    MAX_CONTACT_CHARS,
    MAX_STATEMENT_CHARS,
    NOTICES_PATH,
    NoticePage,
    NoticeView,
    SignedNotice,
)
from viz.protocol.payment import NODE_PATH

_MOST_EVIDENCE_BYTES: Final = 64 << 30


@dataclass(frozen=True, slots=True)
class NoticeDraft:
    """What a notifier wants to say; one of the ids is 0."""

    adapter_id: AdapterId
    content_id: ContentId
    kind: NoticeKind
    statement: str
    contact: str = ""
    evidence_hash: Hash32 = ZERO_HASH

    def __post_init__(self) -> None:
        """Raise InvalidRequest, naming the field, for what no node takes."""
        if not self.statement.strip():
            raise InvalidRequest("the statement is empty: say what is wrong", param="statement")
        for name in ("statement", "contact"):
            if any(not each.isprintable() and each not in LAYOUT for each in getattr(self, name)):
                raise InvalidRequest(
                    f"the {name} has characters that cannot be printed, such as a terminal's "
                    "control characters: write it in plain text",
                    param=name,
                )
        bounds = ("statement", MAX_STATEMENT_CHARS), ("contact", MAX_CONTACT_CHARS)
        for name, most in bounds:
            if (has := len(getattr(self, name))) > most:
                raise InvalidRequest(
                    f"the {name} has {has} characters, at most {most} are sent: shorten it, and "
                    "keep the rest in a file that you name with --evidence",
                    param=name,
                )


@dataclass(frozen=True, slots=True)
class NoticeDesk:
    """A node that takes notices: its origin, its address, and its published rule in seconds."""

    url: str
    node: Address
    personal_data_s: int
    answer_s: int


def evidence_hash(file: Path | None) -> Hash32:
    """Return the SHA-256 of the evidence; the zero hash without a file. Blocks.

    Raises InvalidRequest.
    """
    if file is None:
        return ZERO_HASH
    return Hash32(digest_given(file, _MOST_EVIDENCE_BYTES))


async def desk_at(url: str, deployment: Deployment) -> NoticeDesk:
    """Ask a node who it is and by which rule it answers notices.

    Raises NodeNotTrusted for another chain, and as ``exchange``.
    """
    origin = origin_of(url)
    info, page = await asyncio.gather(
        exchange(NodeInfo.from_json, "GET", origin, NODE_PATH),
        exchange(NoticePage.from_json, "GET", origin, NOTICES_PATH),
    )
    return desk_of(origin, info, page, deployment)


def desk_of(origin: str, info: NodeInfo, page: NoticePage, deployment: Deployment) -> NoticeDesk:
    """Return the node that said this of itself. Raises NodeNotTrusted for another chain."""
    require_as_trusted(deployment, chain_id=info.chain_id, content_registry=info.content_registry)
    return NoticeDesk(origin, info.node, page.rule.personal_data_s, page.rule.answer_s)


def signed_notice(
    draft: NoticeDraft, desk: NoticeDesk, deployment: Deployment, key: bytes, *, now_s: int
) -> tuple[SignedNotice, Hash32]:
    """Return the notice, signed for one node, and the digest that was signed."""
    said = Notice(
        public_address(key),
        desk.node,
        draft.adapter_id,
        draft.content_id,
        int(draft.kind),
        draft.statement,
        draft.contact,
        draft.evidence_hash,
        now_s,
    )
    digest = content_registry_domain(deployment.chain_id, deployment.content_registry).digest(said)
    return SignedNotice(said, sign(key, digest)), digest


def kept_as_signed(kept: NoticeView, digest: Hash32, desk: NoticeDesk) -> NoticeView:
    """Return what a node keeps of a notice; raise NodeNotTrusted if it is another one."""
    if kept.digest != digest:
        raise NodeNotTrusted(f"the node at {desk.url} says that it keeps another notice")
    return kept
