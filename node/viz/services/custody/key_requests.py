"""Ask custodians for keys, as the node that the chain permits.

Invariant: the signed request names the expected custodian (from the chain or a listing) and the
origin that was contacted, so that a node in the middle cannot use the request elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from viz.domain.eip712 import Domain, content_registry_domain, sign
from viz.domain.http_url import http_origin
from viz.domain.ports.chain import Deployment
from viz.domain.ports.custody import KeyKind
from viz.domain.ports.peers import PeerHttp
from viz.domain.typed_data import KeyRequest
from viz.domain.units import Address, Cid
from viz.errors import InputError, InvalidRequest, NodeNotTrusted, NodeRefused, VizError
from viz.protocol.answers import read_as
from viz.protocol.custody import (
    KEY_CHALLENGE_PATH,
    KEYS_PATH,
    KeyChallenge,
    SignedKeyRequest,
    WrappedKey,
    account_to_json,
)
from viz.protocol.problems import told_by
from viz.protocol.wire import Json
from viz.storage.sealing import recipient_of, unwrap

T = TypeVar("T")
_MAX_BYTES = 64 * 1024


class KeyRequests:
    """Asks for keys in the name of one node; the keys come wrapped for its age identity."""

    def __init__(
        self,
        peers: PeerHttp,
        deployment: Deployment,
        *,
        node: Address,
        key: bytes,
        age_identity: str,
    ) -> None:
        self._peers, self._node, self._key = peers, node, key
        self._identity = age_identity
        self._domain: Domain = content_registry_domain(
            deployment.chain_id, deployment.content_registry
        )

    async def key(self, url: str, custodian: Address, kind: KeyKind, item_id: int, cid: Cid) -> str:
        """Return the key of the blob ``cid`` that a custodian holds.

        Raises the custodian's own refusal, which names it; NodeNotTrusted if it is another node or
        answers for another blob, InvalidRequest if ``url`` is none, SealBroken, AddressNotPublic,
        NodeUnreachable. NodeRefused for an answer that is none, or that finds fault with the form
        of what was asked: whoever had the key asked for did not write that.
        """
        origin = http_origin(url)
        if origin is None:
            raise InvalidRequest(f"{url[:200]!r} is not a custodian's URL")
        who = f"the custodian {custodian} at {origin}"
        asked = await self._ask(
            who, origin + KEY_CHALLENGE_PATH, account_to_json(self._node), KeyChallenge.from_json
        )
        if (asked.custodian, asked.origin) != (custodian, origin):
            raise NodeNotTrusted(
                f"the node at {origin} says that it is {asked.custodian} at {asked.origin}, but "
                f"the custodian is {custodian} at {origin}: nothing was signed"
            )
        request = KeyRequest(
            self._node,
            custodian,
            origin,
            int(kind),
            item_id,
            recipient_of(self._identity),
            asked.challenge,
            asked.expiry_s,
        )
        signed = SignedKeyRequest(request, sign(self._key, self._domain.digest(request)))
        given = await self._ask(who, origin + KEYS_PATH, signed.to_json(), WrappedKey.from_json)
        if given.cid != cid:
            raise NodeNotTrusted(
                f"the custodian at {origin} was asked for the key of {cid}, and gave the key of "
                f"{given.cid}"
            )
        return unwrap(given.wrapped_key, self._identity)

    async def _ask(self, who: str, url: str, body: Json, read: Callable[[Json], T]) -> T:
        """Return what ``who`` answers, read by ``read``; raise as ``key`` does."""
        try:
            return read_as(
                read, await self._peers.ask("POST", url, body=body, max_bytes=_MAX_BYTES)
            )
        except (InputError, NodeRefused) as error:
            said = "says: " if error.answered else "gave no usable answer: "
            raise NodeRefused(f"{who} {said}{error.detail}") from error
        except VizError as error:
            told_by(error, who)
            raise
