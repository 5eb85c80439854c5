"""What an endpoint's refusal of a transaction means, by its own words and by nothing else."""

from __future__ import annotations

import pytest

from viz.chain.endpoint import Endpoint
from viz.chain.refusals import for_good, lacks_funds, not_taken, too_cheap
from viz.errors import ChainUnreachable

HASH = "0xfee0" + "fee" * 20
NOT_TAKEN = (
    "transaction underpriced: tip needed 1, tip permitted 0",
    "replacement transaction underpriced",
    "intrinsic gas too low: have 21000, want 53000",
    "exceeds block gas limit",
    "transaction gas limit too high (cap: 16777216, tx: 30000000)",
    "intrinsic gas too high -- tx.gas_limit > env.block.gas_limit",
    "max fee per gas less than block base fee: address 0x0, maxFeePerGas: 1, baseFee: 7",
    "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)",
    "invalid sender",
    "oversized data: transaction size 131200, limit 131072",
    "max initcode size exceeded",
    "Gas price below configured minimum gas price",
    "Intrinsic gas exceeds gas limit",
    "Transaction gas limit exceeds block gas limit",
    "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7",
    "FeeTooLowToCompete",
    "GasLimitExceeded, Gas limit: 30000000, gas limit of rejected tx: 40000000.",
    "MaxTxSizeExceeded, max tx size: 131072",
    "feeCap too low",
    "fee too low",
    "gas limit is too high",
    "basefee above the fee cap",
    "underpriced",
    "replacement transaction underpriced. A gasPrice of at least 9 is necessary to replace the "
    "existing transaction with nonce 5: nonce 5 is used",
    "ReplacementNotAllowed",
    "maxfeepergas is below the minimum",
)
# Nobody's fee helps against these.
NO_FUNDS = (
    "insufficient funds for gas * price + value: balance 0, tx cost 9, overshot 9",
    "Upfront cost exceeds account balance",
    "UPFRONT_COST_EXCEEDS_BALANCE",
    "INSUFFICIENT_FUNDS",
    "InsufficientFunds, Account balance: 0, cost: 9",
    "insufficient sender balance",
    "Sender doesn't have enough funds to send tx. The max upfront cost is: 9 and the sender's "
    "account only has: 0",
    "lack of funds (0) for max fee (9)",
    "LackOfFundForMaxFee { fee: 9, balance: 0 }",
)
UNCLEAR = (
    "nonce too low",
    f"nonce too low: address {HASH[:42]}, tx: 5 state: 6",
    f"nonce too low: {HASH[2:]}",
    "nonce too low, see https://errors.example/gas-fee-size",
    "OldNonce, Current nonce: 6, nonce of rejected tx: 5.",
    "nonce too low: the price feed of coffee does not matter",
    "nonce too low. Feel free to contact support",
    "nonce too low, see docs.example/gas-fees",
    "nonce too low (via gas-node.internal)",
    "nonce too low: insufficient funds and underfunded fees are other errors",
    "transaction nonce 5 below sender account nonce 6 (max gas fee 7)",
    "the nonce has already been used, whatever the gas price",
    "nonce is lower than expected, gas price 7",
    "invalid nonce; fees are fine",
)
HOSTS = ("https://rpc.example", "https://underpriced-gas-fee-size.example", "http://fee.gas:8545")


def told(said: str, host: str) -> str:
    """What a sender reads of an endpoint's message: it was refused, and not left unanswered."""
    endpoint = Endpoint(f"{host}/key", timeout_s=1)
    error = endpoint._refused("eth_sendRawTransaction", {"code": -32000, "message": said})
    assert not isinstance(error, ChainUnreachable)
    assert error.detail.startswith(f"the chain at {host} refused eth_sendRawTransaction: {said}")
    return error.detail


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("said", [*NOT_TAKEN, *NO_FUNDS])
def test_a_refusal_is_recognised_in_each_client_s_words(said: str, host: str) -> None:
    """Geth's, Besu's, Nethermind's, Erigon's, Reth's, Hardhat's and anvil's."""
    error = told(said, host)
    assert not_taken(error) and not_taken(said)
    assert lacks_funds(error) is lacks_funds(said) is (said in NO_FUNDS)
    assert not (too_cheap(error) and said in NO_FUNDS)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("said", UNCLEAR)
def test_a_url_or_an_address_is_no_refusal(said: str, host: str) -> None:
    """The transaction may have arrived: if it were called failed, it could happen twice."""
    error = told(said, host)
    assert not not_taken(error) and not too_cheap(error) and not lacks_funds(error)


@pytest.mark.parametrize(
    ("said", "cheap"),
    [
        ("FeeTooLow, MaxFeePerGas too low.", True),
        ("max fee per gas less than block base fee", True),
        ("Gas price below configured minimum gas price", True),
        ("ReplacementNotAllowed", True),
        ("fee cap too low", True),
        ("exceeds block gas limit", False),
        (f"invalid transaction {HASH}", False),
        *((said, False) for said in NO_FUNDS),
    ],
)
def test_what_a_higher_fee_may_help(said: str, cheap: bool) -> None:
    """A hash with "fee" in it is no reason to pay more, and what no fee helps is for good."""
    assert too_cheap(told(said, HOSTS[1])) is cheap
    assert for_good(told(said, HOSTS[1])) is not cheap


@pytest.mark.parametrize(
    "said",
    [
        "request time exceeds load balancer limit",
        "connection pool size exceeded",
        "gateway timeout: upstream fee-payer service did not answer",
        "timed out waiting for the gas oracle",
        "it may have been submitted: the fee service is down",
    ],
)
def test_a_fault_on_the_way_is_no_refusal(said: str) -> None:
    """A gateway's words: behind it the transaction may have been taken."""
    assert not not_taken(said) and not lacks_funds(said)
