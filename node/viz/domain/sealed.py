"""Bytes that only the holder of an access token can read again.

Owns how an answer is kept for its repetition: encrypted under the buyer's token, of which the node
keeps a hash alone. So the ledger, its journal and its backups hold no answer that somebody else
could read, the node's operator included. Does not know what is kept. Source: AES-256-GCM.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Final

from Crypto.Cipher import AES

from viz.domain.units import Hash32

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


def seal(token: str, name: str, body: bytes) -> bytes:
    """Return ``body`` encrypted; the token and the name that it is kept under open it."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed, tag = AES.new(_key(token, name), AES.MODE_GCM, nonce=nonce).encrypt_and_digest(body)
    return nonce + tag + sealed


def unseal(token: str, name: str, sealed: bytes) -> bytes:
    """Return what was sealed; raise ValueError when it is something else or was changed."""
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    cipher = AES.new(_key(token, name), AES.MODE_GCM, nonce=nonce)
    return cipher.decrypt_and_verify(rest[_TAG_BYTES:], rest[:_TAG_BYTES])


def private_hash(token: str, said: bytes) -> Hash32:
    """Return a hash that shows whether two contents are equal, and does not reveal them."""
    return Hash32(hmac.new(token.encode(), b"viz request\0" + said, sha256).digest())


def _key(token: str, name: str) -> bytes:
    return hmac.new(token.encode(), b"viz answer\0" + name.encode(), sha256).digest()
