"""Encrypt stored answers so that only the holder of the access token can read them again.

An answer is stored, so that it can be repeated, encrypted with the buyer's token. The node stores
only a hash of the token. So nobody else can read an answer from the ledger, its journal or its
backups, not even the node's operator. Source: AES-256-GCM.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from Crypto.Cipher import AES

from viz.domain.units import Hash32

NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


def seal(token: str, name: str, body: bytes, *, nonce: bytes) -> bytes:
    """Return ``body`` encrypted; ``unseal`` needs the same token and name.

    ``nonce`` is NONCE_BYTES new random bytes for each call: with the same ones twice, the two
    answers would be readable without the token.
    """
    sealed, tag = AES.new(_key(token, name), AES.MODE_GCM, nonce=nonce).encrypt_and_digest(body)
    return nonce + tag + sealed


def unseal(token: str, name: str, sealed: bytes) -> bytes:
    """Return the bytes that were sealed; raise ValueError if they were changed or do not fit."""
    nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    cipher = AES.new(_key(token, name), AES.MODE_GCM, nonce=nonce)
    return cipher.decrypt_and_verify(rest[_TAG_BYTES:], rest[:_TAG_BYTES])


def private_hash(token: str, said: bytes) -> Hash32:
    """Return a keyed hash: it shows whether two contents are equal, and does not reveal them."""
    return Hash32(hmac.new(token.encode(), b"viz request\0" + said, sha256).digest())


def _key(token: str, name: str) -> bytes:
    return hmac.new(token.encode(), b"viz answer\0" + name.encode(), sha256).digest()
