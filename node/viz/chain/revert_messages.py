"""What a contract's refusal means to the person who caused it.

Owns one sentence for each custom error that a person can meet. Does not decode anything. An error
without a sentence here is shown by its name and arguments, which are shown in any case.
"""

from __future__ import annotations

from typing import Final

from viz.chain.abi import Revert

_SENTENCES: Final = {
    # ContentRegistry
    "NotOwner": "only the work's owner may do this",
    "SignatureExpired": "the signature's deadline has passed; sign again",
    "SignatureInvalid": "the signature is not the one of the account it must come from",
    "InvalidAccountNonce": "the signature was used before, or another came first; sign again",
    "TermsChanged": "the terms on offer are other ones now; read and agree to them first",
    "TrainerNotApproved": "the owner approves each trainer, and has not approved this one",
    "AlreadyWithdrawn": "the work was withdrawn: it grants no licenses any more",
    "GrantIsPerpetual": "this grant never ends: there is nothing to buy",
    "ERC721NonexistentToken": "there is no such work",
    # AdapterRegistry
    "Unlicensed": "the trainer holds no live grant to this work; acquire one first",
    "UseNotPermitted": "the grant does not permit training, embodiment and serving alike",
    "RoyaltyBelowMinimum": "the work would get less than its license asks; raise royalty or share",
    "NotRegistered": "there is no such adapter",
    "NotTrainer": "only the adapter's trainer may do this",
    "NothingToEnforce": "this work was neither withdrawn nor did its grant lapse",
    "WrongShares": "this is not the adapter's share table",
    # Settlement
    "NoChannel": "the channel was never opened",
    "WrongPayer": "the channel belongs to another payer; use another signer key",
    "NotPayer": "only the channel's payer may do this",
    "AlreadyClosing": "a close is running already",
    "TooEarly": "the close delay has not passed",
    "DeadlinePassed": "the signature's deadline has passed; sign again",
    "NothingToCollect": "nothing waits to be collected",
    # the token
    "ERC20InsufficientBalance": "the account does not have that much of the token",
    "ERC20InsufficientAllowance": "the account has not allowed the contract to take that much",
    "ERC3009InvalidSignature": "the payment's signature is not the payer's",
}


def explain(revert: Revert) -> str:
    """Return one line: what it means, then the error's name and arguments."""
    if revert.name == "Error":
        return str(revert.args.get("reason", "it gave no reason"))
    sentence = _SENTENCES.get(revert.name)
    return f"{sentence} ({revert})" if sentence else str(revert)
