"""Explain a contract's custom errors to the person who caused them.

Owns one sentence for each custom error that a person can meet. The error's name and arguments are
always shown, and they alone if an error has no sentence here.
"""

from __future__ import annotations

from typing import Final

from viz.chain.abi import Revert

_SENTENCES: Final = {
    # ContentRegistry
    "NotOwner": "only the work's owner may do this",
    "SignatureExpired": "the signature's deadline has passed; sign again",
    "SignatureInvalid": "the signature is not that of the required account; sign with its key",
    "InvalidAccountNonce": "the signature was used before, or another came first; sign again",
    "TermsChanged": "the offered terms have changed; read and accept the new ones first",
    "TrainerNotApproved": "the owner approves each trainer, and has not approved this one",
    "AlreadyWithdrawn": "the work was withdrawn and grants no new licenses",
    "GrantIsPerpetual": "this grant never ends, so it cannot be extended",
    "ERC721NonexistentToken": "there is no such work",
    "ERC721InvalidReceiver": "this contract cannot hold a work; name one that can, or a person",
    # AdapterRegistry
    "Unlicensed": "the trainer has no valid grant to this work; acquire one first",
    "UseNotPermitted": "the grant does not permit all of training, embodiment and serving",
    "RoyaltyBelowMinimum": "the work would get less than its license asks; raise royalty or share",
    "NotRegistered": "there is no such adapter",
    "NotTrainer": "only the adapter's trainer may do this",
    "NothingToEnforce": "this work was not withdrawn, and its grant has not expired",
    "WrongShares": "this is not the adapter's share table",
    # Settlement
    "NoChannel": "the channel was never opened",
    "WrongPayer": "the channel belongs to another payer; use another signer key",
    "NotPayer": "only the channel's payer may do this",
    "AlreadyClosing": "a close of this channel was already requested",
    "TooEarly": "the close delay has not passed; try again later",
    "DeadlinePassed": "the signature's deadline has passed; sign again",
    "NothingToCollect": "nothing waits to be collected",
    # the token
    "ERC20InsufficientBalance": "the account does not have that much of the token",
    "ERC20InsufficientAllowance": "the account has not allowed the contract to take that much",
    "ERC3009InvalidSignature": "the payment's signature is not the payer's",
}


def explain(revert: Revert) -> str:
    """Return one line: what the error means, then its name and arguments."""
    if revert.name == "Error":
        return str(revert.args.get("reason", "it gave no reason"))
    sentence = _SENTENCES.get(revert.name)
    return f"{sentence} ({revert})" if sentence else str(revert)
