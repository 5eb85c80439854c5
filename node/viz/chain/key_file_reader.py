"""Open an encrypted key file (Web3 Secret Storage, version 3) without eth_account.

Owns the key derivation, the check of the MAC and the decryption. eth_account can open the same
files, but takes a second of CPU to import, most of it for curves that Viz does not use. Invariant:
the parameters are bounded before the derivation begins, so that a file cannot claim all memory.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from Crypto.Cipher import AES

from viz.domain.eip712 import keccak

_KEY_BYTES: Final = 32
_MAX_SCRYPT_BYTES: Final = 1 << 30
_MAX_ITERATIONS: Final = 100_000_000


class WrongPassword(ValueError):
    """The password does not open the file."""


def open_key(content: Mapping[str, Any], password: str) -> bytes:
    """Return the private key in a version 3 key file.

    Raises WrongPassword, and KeyError, TypeError, ValueError or OverflowError for a damaged file.
    """
    crypto = _lowered(_lowered(content)["crypto"])
    if crypto["cipher"] != "aes-128-ctr":
        raise ValueError("unknown cipher")
    derived = _derived(str(crypto["kdf"]), _lowered(crypto["kdfparams"]), password.encode())
    ciphertext = _hex(crypto["ciphertext"])
    if not hmac.compare_digest(keccak(derived[16:32] + ciphertext), _hex(crypto["mac"])):
        raise WrongPassword
    start = _hex(_lowered(crypto["cipherparams"])["iv"])
    cipher = AES.new(derived[:16], AES.MODE_CTR, nonce=b"", initial_value=start.rjust(16, b"\0"))
    key = cipher.decrypt(ciphertext)
    if len(key) != _KEY_BYTES:
        raise ValueError("the file does not hold a private key of 32 bytes")
    return key


def _derived(kdf: str, given: Mapping[str, Any], password: bytes) -> bytes:
    salt, length = _hex(given["salt"]), int(given["dklen"])
    if length < _KEY_BYTES:
        raise ValueError("the derived key is too short")
    if kdf == "scrypt":
        n, r, p = (int(given[name]) for name in ("n", "r", "p"))
        memory = 128 * r * (n + p)
        if not 0 < memory <= _MAX_SCRYPT_BYTES:
            raise ValueError("scrypt would need more memory than a key file may ask for")
        return hashlib.scrypt(
            password, salt=salt, n=n, r=r, p=p, dklen=length, maxmem=memory + (1 << 20)
        )
    if kdf == "pbkdf2" and given["prf"] == "hmac-sha256":
        if not 0 < int(given["c"]) <= _MAX_ITERATIONS:
            raise ValueError("too many iterations")
        return hashlib.pbkdf2_hmac("sha256", password, salt, int(given["c"]), length)
    raise ValueError("unknown key derivation")


def _lowered(found: Any) -> dict[str, Any]:
    # Some wallets write "Crypto" instead of "crypto".
    return {str(name).lower(): value for name, value in found.items()}


def _hex(text: Any) -> bytes:
    return bytes.fromhex(str(text).removeprefix("0x"))
