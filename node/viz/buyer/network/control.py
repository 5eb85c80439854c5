"""Run the buyer's commands on the network, in the process that holds its channels.

Owns ``viz buyer ask`` without ``--node``. Commands about one channel (deposit, close, forgive) go
to ``viz.buyer.control.commands``, also beside a running proxy.
"""

from __future__ import annotations

from typing import Any, NoReturn

from viz.buyer.asking import Ended, Write, chosen_line, pass_on
from viz.buyer.network.buyer import NetworkBuyer
from viz.buyer.wallet.wallet import Wallet
from viz.domain.display import prices
from viz.domain.ports.chain import Deployment
from viz.domain.units import Units
from viz.errors import InvalidRequest
from viz.protocol.payment import CHAT_PATH
from viz.protocol.wire import Json


class NetworkControl:
    """The buyer's commands without ``--node``."""

    def __init__(self, buyer: NetworkBuyer, ended: Ended | None = None) -> None:
        """``ended`` is called with each answer when it ends, even if an error ends it."""
        self._buyer, self._ended = buyer, ended

    @property
    def deployment(self) -> Deployment:
        """The contracts that the buyer trusts."""
        return self._buyer.deployment

    async def ask(self, body: dict[str, Any], write: Write, tell: Write) -> Json:
        """Ask a question, pass the text on as it arrives; return what it cost, and at which nodes.

        If the request does not name a model by its id, ``tell`` gets a line with the chosen model
        and its price before the answer begins. If a part of the answer is not ``billed``, ``cost``
        is the most that can be taken for the answer. ``deposits`` are those signed for it.
        """
        buyer, wanted = self._buyer, body.get("model")
        model = await buyer.model(str(wanted)) if wanted else await buyer.usual_model()
        named = {**body, "model": str(wanted or model.model)}
        if wanted != model.model:
            first = buyer.first_offer(named, CHAT_PATH, model)
            price = prices(first.prompt_price_units, first.completion_price_units, self.deployment)
            await tell(chosen_line(model.model, model.name, price))
        async with buyer.ask(named, CHAT_PATH, model=model) as answer:
            await pass_on(buyer, answer, write, self._ended)
        return {
            "model": answer.model,
            "text": answer.text,
            "cost": str(sum(part.units for part in answer.parts)),
            "billed": answer.cost_units is not None,
            "parts": [part.to_json() for part in answer.parts],
            "deposits": [each.to_json() for each in answer.deposits],
        }

    async def show(self) -> Json:
        """Return what was spent, and what is left of the deposits."""
        return await self._buyer.spending_report()

    async def forgive(self, allow_units: Units) -> Json:
        """Raise InvalidRequest: this is asked of one channel."""
        self._refuse()

    async def open(self, wallet: Wallet, deposit_units: Units) -> Json:
        """Raise InvalidRequest: this is asked of one channel."""
        self._refuse()

    async def close(self, wallet: Wallet) -> Json:
        """Raise InvalidRequest: this is asked of one channel."""
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise InvalidRequest("this command is about one channel: name its node with --node")
