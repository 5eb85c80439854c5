"""Key files: made privately, opened with the right password only, never overwritten."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Literal

import pytest
from eth_account import Account

from viz.chain.keys import create_key_file, development_account, load_key, load_key_file
from viz.errors import InvalidKeyFile


def test_a_key_comes_back_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """What was written opens to the same account; the file holds no key in the clear."""
    path = tmp_path / "sub" / "key.json"
    made = create_key_file(path, "secret", scrypt_n=2)
    assert load_key_file(path, "secret").address == made.address
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.key.hex().removeprefix("0x") not in path.read_text(encoding="utf-8")


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second key under the same name is refused, and the first stays."""
    path = tmp_path / "key.json"
    first = create_key_file(path, "secret", scrypt_n=2)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InvalidKeyFile, match="exists already"):
        create_key_file(path, "secret", scrypt_n=2)
    assert load_key_file(path, "secret").address == first.address
    with pytest.raises(InvalidKeyFile, match="password"):
        create_key_file(tmp_path / "other.json", "", scrypt_n=2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no key file"),
        (b"\xff\xfe", "not a key file"),
        (b"[1, 2]", "not a key file"),
        (b'{"version": 1}', "not a key file"),
        (b'{"version": 3}', "damaged"),
        (b'{"version": 3, "crypto": {"kdf": "none"}}', "damaged"),
    ],
)
def test_what_is_no_key_file_is_named_so(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """Each kind of wrong file gives one clear line."""
    path = tmp_path / "key.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidKeyFile, match=reason):
        load_key_file(path, "secret")


def test_a_wrong_password_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    """And the error carries neither password nor key material."""
    path = tmp_path / "key.json"
    create_key_file(path, "secret", scrypt_n=2)
    with pytest.raises(InvalidKeyFile, match="does not open") as caught:
        load_key_file(path, "guess")
    assert "guess" not in str(caught.value)
    assert caught.value.__cause__ is None
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["crypto"]["ciphertext"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidKeyFile, match="damaged"):
        load_key_file(path, "secret")


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_key_files_of_other_wallets_open(tmp_path: Path, kdf: Literal["scrypt", "pbkdf2"]) -> None:
    """Protects keys made elsewhere: eth_account's files, and geth's old spelling, open alike."""
    account = Account.create()
    content = Account.encrypt(account.key, "pässword", kdf=kdf, iterations=2)
    content["Crypto"] = content.pop("crypto")
    path = tmp_path / "key.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert load_key(path, "pässword") == bytes(account.key)


@pytest.mark.parametrize("given", [{"n": 2**40}, {"r": 2**20}, {"n": 0}, {"dklen": 16}, {"p": -1}])
def test_a_key_file_cannot_ask_for_all_memory(tmp_path: Path, given: dict[str, int]) -> None:
    """Protects whoever opens a stranger's file: its parameters are bounded before they are used."""
    path = tmp_path / "key.json"
    create_key_file(path, "secret", scrypt_n=2)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["crypto"]["kdfparams"] |= given
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidKeyFile, match="damaged"):
        load_key(path, "secret")


def test_development_accounts_are_anvils() -> None:
    """The first one is the address that every anvil prints."""
    assert development_account(0).address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
