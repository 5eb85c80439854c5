"""Secrets: from a variable, or from a file that a variable or a folder names; never from the TOML.

Owns reading them, and making the operator's own. Apart from ``viz.settings.config`` because every
command that opens a key needs a password, and few need the settings, which take a quarter of a
second to load.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from viz.errors import ConfigError
from viz.given_file import read_secret
from viz.private import write_private


def secret(name: str) -> SecretStr:
    """Return the secret in the variable ``name`` or in the file that ``name_FILE`` names.

    Raises ConfigError when the file cannot be read; an absent secret is empty.
    """
    if (path := os.environ.get(f"{name}_FILE")) is not None:
        if not path:
            raise ConfigError(f"{name}_FILE is set and names no file: name one, or unset it")
        return SecretStr(read_secret(Path(path), f"the file of {name}_FILE,", ConfigError))
    return SecretStr(os.environ.get(name, ""))


def kept_secret(path: Path, *, random_bytes: int) -> str:
    """Return the secret in ``path``; if the file is missing or empty, draw one first."""
    return kept(path, lambda: secrets.token_urlsafe(random_bytes))


def kept(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in ``path``; where there is none, or an empty one, make it first.

    Written whole or not at all, and readable by its owner only. Raises ConfigError if the file
    cannot be read, OSError if it cannot be written.
    """
    if path.exists() and (known := read_secret(path, "the secret in", ConfigError)):
        return known
    secret = make()
    write_private(path, secret.encode() + b"\n")
    return secret
