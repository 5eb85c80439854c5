"""Check a node's description of itself, for a buyer and for a node that lists it.

Owns the comparison of a description with the trusted deployment, and of an offer with the adapter
on chain. Does no I/O. A claim that contradicts what can be checked raises NodeNotTrusted, which
names the fault.
"""

from __future__ import annotations

from viz.basemodel.packaged import TOKENIZER_OF_BASE
from viz.domain.ports.chain import AdapterState, Deployment
from viz.domain.trust import require_as_trusted
from viz.domain.units import BASE_MODEL, Hash32, hex_of
from viz.errors import NodeNotTrusted
from viz.protocol.messages import AdapterOffer, NodeInfo, adapter_model, is_base_name


def check_node(info: NodeInfo, expected: Deployment) -> None:
    """Raise NodeNotTrusted if the node does not use the deployment that the buyer chose.

    A model's name says which adapter is asked for, and so who is paid: a node that serves another
    adapter, or a base model, under what reads like an adapter's id is refused too.
    """
    require_as_trusted(
        expected,
        chain_id=info.chain_id,
        settlement=info.settlement,
        content_registry=info.content_registry,
        adapter_registry=info.adapter_registry,
        token=info.token,
        token_decimals=info.token_decimals,
    )
    check_tokenizer(info.tokenizer_digest, info.base_digest)
    for offer in info.adapters:
        base = info.base_of(offer)
        check_tokenizer(base.tokenizer_digest, base.digest)
        if offer.adapter_id != BASE_MODEL and offer.model != adapter_model(offer.adapter_id):
            raise NodeNotTrusted(
                f"the node sells adapter {offer.adapter_id} under the name {offer.model[:80]!a}"
            )
        for name in (offer.model, offer.name or offer.model):
            if offer.adapter_id == BASE_MODEL and not is_base_name(name):
                raise NodeNotTrusted(
                    f"the node sells a base model under the name {name[:80]!a}, which no base "
                    "model may have: it can be taken for another model's id"
                )


def check_tokenizer(tokenizer_digest: Hash32, base_digest: Hash32) -> None:
    """Raise NodeNotTrusted if the node names another tokenizer than the known base model's."""
    known = TOKENIZER_OF_BASE.get(base_digest)
    if known is not None and tokenizer_digest != known:
        raise NodeNotTrusted(
            f"the node names tokenizer {hex_of(tokenizer_digest)}, and its base model's is "
            f"{hex_of(known)}: what it bills could not be counted again"
        )


def check_offer(offer: AdapterOffer, base_digest: Hash32, state: AdapterState) -> None:
    """Raise NodeNotTrusted if an offer contradicts the adapter's state on chain.

    ``base_digest`` is the digest of the base model that the node names for it.
    """
    where = f"the node's adapter {offer.adapter_id}"
    if state.weights_digest != offer.weights_digest:
        raise NodeNotTrusted(f"{where} has other weights than the chain says")
    if state.base_model != base_digest:
        raise NodeNotTrusted(f"{where} belongs to another base model than the node says")
    works = {content_id for content_id, _ in state.shares}
    for work in offer.works:
        if work.content_id not in works:
            raise NodeNotTrusted(
                f"{where} names work {work.content_id}, which it was not registered with"
            )
