"""Group the parts of a buyer that one paid answer needs, without the client that holds them."""

from __future__ import annotations

from dataclasses import dataclass

from viz.buyer.channels.session import BuyerSession
from viz.buyer.channels.sync import ChannelSync
from viz.buyer.ledger.names import Names
from viz.buyer.ledger.spending import Spending
from viz.buyer.terms.checks import Limits
from viz.buyer.terms.known_node import KnownNode
from viz.buyer.terms.prices import Prices
from viz.buyer.terms.quotes import KeptQuotes
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.ports.chain import Deployment


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """The node, the money and the records of one channel, with the limits of one answer."""

    api: NodeClient
    node: KnownNode
    access: BuyerSession
    sync: ChannelSync
    voucher_signer: VoucherSigner
    deployment: Deployment
    limits: Limits
    quotes: KeptQuotes
    names: Names
    prices: Prices
    spending: Spending
