"""Settings are read in one place, strictly, and documented where operators look."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import viz
from viz.api.context import ApiLimits
from viz.errors import ConfigError
from viz.services.payments.relay_budget import RelayPolicy
from viz.services.serving.paid_stream import ServingPolicy
from viz.settings.config import CONFIRMATIONS, Config, load
from viz.settings.secret import kept_secret

TWO = "[[engine]]\nbase_model = 'a'\n[[engine]]\n"
DIGEST = f"base_digest = '0x{'12' * 32}'"
SERVERS = """
[[engine]]
base_model = "for {0} {1}"
backend = "upstream"
upstream = {{ urls = ["{0}"], folder = "{1}" }}
"""
EXAMPLE = Path(__file__).parents[2] / "viz.example.toml"
NODE = Path(viz.__file__).parent


def _defaults() -> dict[str, Any]:
    documented: dict[str, Any] = {}
    for name, field in Config.model_fields.items():
        if name == "key_password":
            continue
        value = field.default
        dumped = value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
        documented[name] = dumped
    return documented


def test_the_example_file_documents_every_setting_with_its_default() -> None:
    """Protects the operator from a setting that exists in only one of code and documentation."""
    assert tomllib.loads(EXAMPLE.read_text(encoding="utf-8")) == _defaults()


def test_the_example_file_loads() -> None:
    assert load(EXAMPLE).model_dump(exclude={"key_password"}) == Config().model_dump(
        exclude={"key_password"}
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[api]\nprot = 1", "api.prot: unknown key"),
        ("[api]\nport = 70000", "api.port"),
        ("colour = 'red'", "colour: unknown key"),
        ("[chain]\nrpc_url = 'localhost'", "chain.rpc_url"),
        ("[chain]\nconfirmations = 'many'", "chain.confirmations"),
        ("key_password = 'x'", "VIZ_KEY_PASSWORD_FILE"),
        ("[api", "is not TOML"),
        ("api = 3", "setting api"),
        ("[engine]\nbackend = 'upstream'", "needs upstream.urls"),
        ("[engine.upstream]\nurls = ['gpu:8000']", "engine.upstream.urls"),
        ("[engine.upstream]\nurls = ['http://a', 'http://a']", "name each server once"),
        ("engine = []", "setting engine: "),
        ("engine = 3", "setting engine: "),
        (TWO + "base_digst = 'x'", "engine.base_digst of [[engine]] entry 2: unknown key"),
        (TWO + "[engine.upstream]\nurls = ['gpu']", "engine.upstream.urls of [[engine]] entry 2"),
        (TWO + "base_model = 'a'", "2 entries have base_model a"),
        (f"[[engine]]\n{DIGEST}\n{TWO}{DIGEST}", "2 entries have base_digest 0x1212"),
        (
            SERVERS.format("http://a", "x") + SERVERS.format("http://a", "y"),
            "2 entries name the server http://a",
        ),
        (
            SERVERS.format("http://a", "x") + SERVERS.format("http://b", "x"),
            "2 entries write adapters into upstream.folder x",
        ),
    ],
)
def test_a_bad_setting_is_one_line_that_names_the_key(
    tmp_path: Path, text: str, named: str
) -> None:
    """Protects against typing errors that would silently run with a default."""
    file = tmp_path / "viz.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert named in caught.value.detail
    assert "\n" not in caught.value.detail


def test_the_environment_stands_above_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "viz.toml"
    file.write_text("[api]\nport = 1\nhost = 'h'", encoding="utf-8")
    monkeypatch.setenv("VIZ_API__PORT", "2")
    loaded = load(file)
    assert (loaded.api.port, loaded.api.host) == (2, "h")


def test_one_base_or_several_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An [engine] section stays valid; a variable that could mean two entries changes neither."""
    file = tmp_path / "viz.toml"

    def bases(text: str) -> list[tuple[str, str]]:
        file.write_text(text, encoding="utf-8")
        return [(each.base_model, each.backend) for each in load(file).engines]

    assert len(Config().engines) == 1
    assert bases("[engine]\nbase_model = 'a'") == [("a", "embedded")]
    assert bases(TWO + "base_model = 'b'\nbackend = 'none'") == [
        ("a", "embedded"),
        ("b", "none"),
    ]
    off = "[[engine]]\nbase_model = 'a'\nbackend = 'none'\n"
    assert bases(off + "[[engine]]\nbase_model = 'a'")[1] == ("a", "embedded")
    monkeypatch.setenv("VIZ_ENGINE__BASE_MODEL", "c")
    assert bases("[[engine]]\nbackend = 'none'") == bases("[engine]\nbackend = 'none'")
    with pytest.raises(ConfigError, match=r"VIZ_ENGINE__.*which one"):
        bases(TWO)


def test_the_command_line_stands_above_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects `viz node --data-dir B` from being run on the folder that VIZ_DATA_DIR names."""
    monkeypatch.setenv("VIZ_DATA_DIR", "/a")
    monkeypatch.setenv("VIZ_API__PORT", "2")
    monkeypatch.setenv("VIZ_API__HOST", "h")
    loaded = load(data_dir="/b", api={"port": 3})
    assert (loaded.data_dir, loaded.api.port, loaded.api.host) == (Path("/b"), 3, "h")


def test_a_made_configuration_keeps_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects `viz up`, which sets its own chain and password, from what the shell exports."""
    monkeypatch.setenv("VIZ_KEY_PASSWORD", "mine")
    monkeypatch.setenv("VIZ_CHAIN__RPC_URL", "http://elsewhere")
    values = load().model_dump() | {"key_password": "its", "chain": {"rpc_url": "http://here"}}
    made = Config.model_validate(values)
    assert made.key_password.get_secret_value() == "its"
    assert made.chain.rpc_url == "http://here"


def test_a_chain_whose_blocks_can_vanish_is_waited_for() -> None:
    """Protects deposits and claims from the node that was started without a word about depth."""
    chain = Config().chain
    assert chain.depth(31_337, development=True) == 0
    assert chain.depth(1, development=False) == CONFIRMATIONS > 0
    none = chain.model_copy(update={"confirmations": 0})
    assert none.depth(31_337, development=True) == 0
    with pytest.raises(ConfigError, match="chain 1 is not a development chain"):
        none.depth(1, development=False)


def test_a_deposit_of_next_to_nothing_is_not_relayed_where_gas_costs_money() -> None:
    """Protects the hour's gas from strangers, whom such a deposit costs nothing."""
    prices = Config().prices
    prices.require_worth_relaying(6)
    prices.require_worth_relaying(0)
    for units, decimals in ((0, 6), (9_999, 6), (10_000, 18), (0, 0)):
        small = prices.model_copy(update={"minimum_deposit_units": units})
        with pytest.raises(ConfigError, match=r"minimum_deposit_units is .* at least"):
            small.require_worth_relaying(decimals)


def test_vouchers_are_claimed_well_before_a_payer_can_leave() -> None:
    """A node that claims once a day would lose to whoever leaves within one."""
    settlement = Config().settlement
    settlement.require_in_time(24 * 3_600)
    with pytest.raises(ConfigError, match=r"claim_age_s is 3600.*write 900 at most"):
        settlement.require_in_time(3_600)


def test_a_password_is_read_from_a_file_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("swordfish\n", encoding="utf-8")
    monkeypatch.setenv("VIZ_KEY_PASSWORD_FILE", str(file))
    loaded = load()
    assert loaded.key_password.get_secret_value() == "swordfish"
    assert "swordfish" not in repr(loaded)


def test_an_unreadable_password_file_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIZ_KEY_PASSWORD_FILE", "/nowhere/password")
    with pytest.raises(ConfigError, match="/nowhere/password"):
        load()


@pytest.mark.parametrize("left", [None, "", "\n"])
def test_a_secret_is_made_once_and_never_stays_empty(tmp_path: Path, left: str | None) -> None:
    """A start that was killed while it wrote must not make every later one fail."""
    file = tmp_path / "operator.token"
    if left is not None:
        file.write_text(left, encoding="utf-8")
    made = kept_secret(file, random_bytes=32)
    assert len(made) >= 32 and kept_secret(file, random_bytes=32) == made
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_every_setting_is_read_somewhere() -> None:
    """Protects the operator from a setting that is checked and documented and changes nothing."""
    # As ``config.SECTION.NAME``, of an engine's entry, or by the method of the section itself.
    reads = "\n".join(path.read_text() for path in NODE.rglob("*.py"))
    unread = [
        f"{section}.{name}"
        for section, value in _defaults().items()
        if isinstance(value, dict)
        for name in value
        if not re.search(rf"\b({section}|entry)\.{name}\b|return self\.{name}\n", reads)
    ]
    assert unread == []


def test_a_policy_defaults_to_what_its_setting_defaults_to() -> None:
    """What tests and benchmarks run with, which name no setting, is what an operator gets."""
    config = Config()
    limits, serving, relays = ApiLimits(), ServingPolicy(), RelayPolicy()
    assert serving.voucher_grace_s == config.prices.voucher_grace_s
    assert limits.max_body_bytes == config.api.max_body_bytes
    assert limits.client_timeout_s == config.api.client_timeout_s
    assert limits.forwarded_header == config.api.forwarded_header
    assert relays.per_hour == config.relay.per_hour
    assert relays.per_payer_per_hour == config.relay.per_payer_per_hour
    assert relays.gas_per_hour == config.relay.gas_per_hour
