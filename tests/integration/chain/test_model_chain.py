"""The model chain of the nonces' histories counts and refuses as a real chain does."""

from __future__ import annotations

import asyncio

from tests.fakes.model_chain import ModelChain, ModelRpc
from tests.integration.chain.testnet import Testnet

from viz.chain import fees
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.domain.eip712 import keccak
from viz.domain.units import Address
from viz.errors import ChainError

ACCOUNT = development_account(5)
GWEI = 10**9
# Nonce and fee of each transaction that is sent in turn; None makes a block.
SCRIPT = (
    (0, 9),
    (2, 9),
    (3, 9),
    None,
    (1, 9),
    (1, 9),
    (1, 8),
    (1, 99),
    (3, 7),
    None,
    (3, 9),
    (5, 9),
)


async def told(rpc: Rpc, raw: bytes | None) -> tuple[int, int, str, bool]:
    """Return the two counts after one step, in which words it was refused, and if it is known."""
    refusal, address = "", Address(str(ACCOUNT.address))
    try:
        if raw is not None:
            await rpc.broadcast(raw)
    except ChainError as error:
        words = ("nonce too low", "underpriced")
        refusal = next(each for each in words if each in error.detail.lower())
    known = raw is not None and await rpc.knows(keccak(raw))
    return await rpc.transaction_count(address), await rpc.mined_count(address), refusal, known


async def test_the_model_chain_answers_as_anvil_does(net: Testnet) -> None:
    """Gaps, replacements, repetitions and used nonces: the counts and refusals are the same."""
    await net.anvil.automine(False)
    chain = ModelChain(mining=False)
    model = ModelRpc(chain)
    for number, step in enumerate(SCRIPT):
        raw = None
        if step is None:
            await net.anvil.mine()
            chain.mine(asyncio.get_running_loop().time())
        else:
            nonce, gwei = step
            fields = {"type": 2, "chainId": net.deployment.chain_id, "nonce": nonce, "gas": 21_000}
            paid = {"maxFeePerGas": gwei * GWEI, "maxPriorityFeePerGas": gwei * GWEI}
            to = {"to": ACCOUNT.address, "value": 0, "data": b""}
            raw = fees.sign(ACCOUNT, fields | paid | to, "").raw
        assert await told(model, raw) == await told(net.rpc, raw), f"step {number}: {step}"
