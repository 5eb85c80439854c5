"""Check a deposit that a buyer wants relayed, before the node pays gas for it.

Owns the checks of the deposit's signatures, times and amount, and makes the contract call.
``viz.services.payments.relay_budget`` counts and sends it. Invariant: a deposit that the chain
would refuse is refused here, if that can be known without simulating the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from viz.domain.eip712 import Domain, is_plain, is_signed_by, recover
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.transactions import Call
from viz.domain.typed_data import (
    OPEN_KIND,
    TOP_UP_KIND,
    OpenChannel,
    ReceiveWithAuthorization,
    authorization_nonce,
)
from viz.domain.units import Address, Units
from viz.errors import InvalidRequest, InvalidSignature
from viz.protocol.credential import Deposit
from viz.services.payments.relay_budget import require_time

# Buyers are told a minimum of this many times the relay's cost. A deposit that covers the cost once
# is accepted, so that one signed a moment ago is not refused because gas became dearer.
TOLD_COSTS: Final = 2


class Deposits:
    """Check the deposits that a node relays into its own channels."""

    def __init__(
        self,
        chain: ChainReader,
        domain: Domain,
        node: Address,
        minimum_units: Units,
        cost_units: Callable[[str], Awaitable[Units]],
    ) -> None:
        """Check against ``domain``, Settlement's EIP-712 domain.

        A deposit below ``minimum_units`` or below the cost of its relay is refused. ``cost_units``
        returns that cost for a contract function.
        """
        self._chain = chain
        self._domain = domain
        self._node = node
        self._minimum_units = minimum_units
        self._cost_units = cost_units
        self._token_domain: Domain | None = None

    async def least_units(self) -> Units:
        """Return the minimum to tell buyers, with a margin for dearer gas; raise ChainError."""
        cost_units = await self._cost_units("openWithAuthorization")
        return max(self._minimum_units, TOLD_COSTS * cost_units)

    async def _require_worth(self, amount_units: Units, function: str) -> None:
        if amount_units < (cost_units := await self._cost_units(function)):
            raise InvalidRequest(
                f"the deposit is {amount_units} units, and its relay costs {cost_units} units of "
                f"gas now: deposit {TOLD_COSTS * cost_units} at least, or send it yourself"
            )

    async def call_of(self, deposit: Deposit) -> Call:
        """Return the call that makes the deposit.

        Raises InvalidRequest, InvalidSignature, ChainUnreachable.
        """
        opening = deposit.action == "open"
        if deposit.amount_units < self._minimum_units:
            raise InvalidRequest(
                f"the deposit is {deposit.amount_units} units; this node relays deposits of at "
                f"least {self._minimum_units}"
            )
        now_s = await self._chain.chain_time()
        if not deposit.valid_after_s < now_s + 1 <= deposit.valid_before_s:
            raise InvalidRequest(f"the authorization is not valid at chain time {now_s}")
        require_time(deposit.valid_before_s, now_s, "the authorization")
        if opening:
            consent = self._domain.digest(OpenChannel(deposit.payer, self._node))
            if recover(consent, deposit.signer_signature) != deposit.signer:
                raise InvalidSignature("the opening is not signed by the channel's signer")
        authorization = ReceiveWithAuthorization(
            deposit.payer,
            self._domain.contract,
            deposit.amount_units,
            deposit.valid_after_s,
            deposit.valid_before_s,
            authorization_nonce(
                OPEN_KIND if opening else TOP_UP_KIND, deposit.signer, self._node, deposit.salt
            ),
        )
        # Only the simulation can check the signature of a contract wallet.
        if is_plain(deposit.authorization) and not is_signed_by(
            (await self.token_domain()).digest(authorization),
            deposit.authorization,
            deposit.payer,
        ):
            raise InvalidSignature(f"the deposit is not signed by {deposit.payer} for this token")
        function = f"{deposit.action}WithAuthorization"
        await self._require_worth(deposit.amount_units, function)
        args: tuple[Any, ...] = (
            deposit.payer,
            deposit.signer,
            self._node,
            deposit.amount_units,
            deposit.salt,
            deposit.valid_after_s,
            deposit.valid_before_s,
            deposit.authorization,
        )
        consents = (deposit.signer_signature,) if opening else ()
        return Call("Settlement", function, (*args, *consents))

    async def token_domain(self) -> Domain:
        """Return the token's EIP-712 domain, which is read from the chain once."""
        if self._token_domain is None:
            name, version = await self._chain.token_domain()
            self._token_domain = Domain(
                name, version, self._domain.chain_id, self._chain.deployment.token
            )
        return self._token_domain
