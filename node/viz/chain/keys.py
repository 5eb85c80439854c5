"""Read and write encrypted key files (Web3 Secret Storage, version 3).

Also gives the accounts of a development chain. The caller gets the password from the environment,
a file or a prompt. Invariant: neither a key nor a password reaches a log, an error or a file that
others may read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from viz.chain.key_file_reader import WrongPassword, open_key
from viz.domain.eip712 import public_address
from viz.domain.strict_json import MemberTwice, load_json
from viz.errors import InvalidKeyFile, InvalidRequest
from viz.given_file import read_given
from viz.private import create_private

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

# eth_account takes a second of CPU to import. It is imported inside the functions that need it, so
# that a process which only opens a key does not pay for it.

SCRYPT_N: Final = 2**18
_MAX_KEY_FILE_BYTES: Final = 64 * 1024
DEVELOPMENT_MNEMONIC: Final = "test test test test test test test test test test test junk"
"""Public: use it for accounts of a local chain only."""


def create_key_file(
    path: Path, password: str, *, account: LocalAccount | None = None, scrypt_n: int = SCRYPT_N
) -> LocalAccount:
    """Write a new key (or that of ``account``) encrypted to ``path``, and return its account.

    The file's mode is 0600. Raises InvalidKeyFile if the file exists or cannot be written, or the
    password is empty.
    """
    if not password:
        raise InvalidKeyFile(f"{path}: give a password; a key is never written without one")
    from eth_account import Account

    account = account or Account.create()
    content = Account.encrypt(account.key, password, kdf="scrypt", iterations=scrypt_n)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        create_private(path, json.dumps(content).encode())
    except FileExistsError as error:
        raise InvalidKeyFile(f"{path} exists already: it is not overwritten") from error
    except OSError as error:
        raise InvalidKeyFile(f"{path} cannot be written: {error.strerror}") from error
    return account


def load_key_file(path: Path, password: str) -> LocalAccount:
    """Return the account of an encrypted key file; raise the same errors as ``load_key``."""
    from eth_account import Account

    account: LocalAccount = Account.from_key(load_key(path, password))
    return account


def load_key(path: Path, password: str) -> bytes:
    """Return the private key of an encrypted file; takes about a second by design (scrypt).

    Raises InvalidKeyFile if there is no such file, it is not a key file, or the password is wrong.
    """
    try:
        if not path.exists():
            raise InvalidKeyFile(
                f"there is no key file {path}: create one with `viz key new {path}`"
            )
        content = load_json(read_given(path, _MAX_KEY_FILE_BYTES, InvalidKeyFile))
    except OSError as error:
        raise InvalidKeyFile(f"{path} cannot be read: {error.strerror}") from error
    except MemberTwice as error:
        raise InvalidKeyFile(f"{path} is not a key file: {error}") from error
    except ValueError as error:
        raise InvalidKeyFile(f"{path} is not a key file (JSON, version 3)") from error
    if not isinstance(content, dict) or content.get("version") != 3:
        raise InvalidKeyFile(f"{path} is not a key file (JSON, version 3)")
    try:
        key = open_key(content, password)
        public_address(key)
    except WrongPassword:
        # Without `from`: nothing of the failed decryption belongs in a traceback.
        raise InvalidKeyFile(f"the password does not open {path}") from None
    except (InvalidRequest, LookupError, AttributeError, TypeError, ValueError, OverflowError):
        raise InvalidKeyFile(f"{path} is damaged or of an unknown kind: use a backup") from None
    return key


def development_account(index: int) -> LocalAccount:
    """Return account ``index`` of those that a local anvil funds; never use it on a real chain."""
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    account: LocalAccount = Account.from_mnemonic(
        DEVELOPMENT_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}"
    )
    return account
