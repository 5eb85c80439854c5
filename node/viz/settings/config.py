"""Read the settings into one typed, frozen tree.

The command line stands above the environment (``VIZ_API__PORT=8402``), the environment above the
file (``viz.toml``), and the file above the defaults. Unknown keys are refused. Secrets come from
the environment, or from a file that a ``*_FILE`` variable names, and never from the TOML file.
The composition root takes the tree apart and gives each part its own settings: ``viz.backends``,
``viz.started_engines`` (the engines) and ``viz.node`` (HTTP and loops). Every key is
explained in ``viz.example.toml``, and a test holds the two together.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from viz.errors import ConfigError
from viz.given_file import read_short_text
from viz.settings.engine_config import ONE, SEVERAL, EngineConfig, EngineEntries
from viz.settings.secret import secret
from viz.settings.types import NonNegative, Percent, Port, Positive, Section

# Confirmations to wait for, if the operator names none, on a chain whose blocks can vanish.
CONFIRMATIONS: Final = 12
# The delay of a close must be this many times the age at which vouchers are claimed, so that a node
# that is away for a while still claims in time.
CLAIMS_A_CLOSE_DELAY: Final = 4
# Where gas costs money no smaller part of a token may be set as the least deposit.
LEAST_DEPOSITS_A_TOKEN: Final = 100


class ChainConfig(Section):
    """Name the chain, and say how far its head is trusted."""

    rpc_url: str = "http://127.0.0.1:8545"
    deployment: Path = Path("deployment.json")
    confirmations: NonNegative | Literal["auto"] = "auto"
    timeout_s: Positive = 20
    wait_s: NonNegative = 0
    max_fee_wei: Positive = 50_000_000_000
    key_file: Path = Path("operator.key.json")

    @field_validator("rpc_url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("write it as http://host:port or https://host")
        return url

    def depth(self, chain_id: int, *, development: bool) -> int:
        """Return the confirmations to wait for; raise ConfigError if a real chain gets none."""
        if self.confirmations == "auto":
            return 0 if development else CONFIRMATIONS
        if not self.confirmations and not development:
            raise ConfigError(
                f"chain.confirmations is 0 and chain {chain_id} is not a development chain: a "
                "block that vanishes would take deposits and claims with it that this node counts "
                f'on; write at least 1, or "auto" for {CONFIRMATIONS}'
            )
        return self.confirmations


class ApiConfig(Section):
    """Say where the daemon listens, and bound what clients may take."""

    host: str = "127.0.0.1"
    port: Port = 8402
    public_url: str = ""
    max_body_bytes: Positive = 2 * 1024 * 1024
    client_timeout_s: Positive = 60
    max_connections: Positive = 512
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    shutdown_grace_s: Positive = 10

    @property
    def origin(self) -> str:
        """Return the origin that buyers sign for, as they reach the node."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")


class StorageConfig(Section):
    """Say where blobs are, how many the node stores for others, and which licenses it serves."""

    backend: Literal["embedded", "kubo"] = "embedded"
    kubo_api: str = "/ip4/127.0.0.1/tcp/5001"
    max_bytes: NonNegative = 0
    max_blob_bytes: Positive = 512 * 1024 * 1024
    timeout_s: Positive = 60
    custody_bytes: NonNegative = 1024 * 1024 * 1024
    custody_bytes_per_owner: NonNegative = 64 * 1024 * 1024
    license_documents: Path = Path("licenses")


class PriceConfig(Section):
    """Set the prices, in token base units for a million tokens, and the credit that buyers get."""

    prompt_units_per_million: NonNegative = 2_000_000
    completion_units_per_million: NonNegative = 6_000_000
    credit_window_units: NonNegative = 0
    minimum_deposit_units: NonNegative = 10_000
    voucher_grace_s: Positive = 20
    quote_valid_s: Annotated[int, Field(gt=0, le=60)] = 60

    def require_worth_relaying(self, token_decimals: int) -> None:
        """Raise ConfigError if deposits of next to nothing would be relayed where gas costs money.

        Call it for every chain that is not a development chain.
        """
        least_units = -(-(10**token_decimals) // LEAST_DEPOSITS_A_TOKEN)
        if self.minimum_deposit_units < least_units:
            raise ConfigError(
                f"prices.minimum_deposit_units is {self.minimum_deposit_units}, and the node pays "
                f"the gas of every deposit that it relays: write {least_units} at least (a "
                "hundredth of the token), and in settlement.coin_price_units what a coin of the "
                "chain is worth in units of the token"
            )


class RelayConfig(Section):
    """Bound the gas that strangers may spend, and what they may ask of the node's chain."""

    per_hour: Positive = 600
    per_payer_per_hour: Positive = 30
    registrations_per_minute: Positive = 30
    gas_per_hour: Positive = 80_000_000
    wei_per_hour: Positive = 100_000_000_000_000_000
    registrations: bool | Literal["auto"] = "auto"
    questions_per_minute: Positive = 600


class SettlementConfig(Section):
    """Say when signed vouchers are claimed on the chain."""

    claim_at_units: Positive = 1_000_000
    claim_age_s: Positive = 3_600
    interval_s: Positive = 5
    compare_interval_s: Positive = 60
    coin_price_units: NonNegative = 3_000_000_000

    def require_in_time(self, close_delay_s: int) -> None:
        """Raise ConfigError if a payer could withdraw before its vouchers are claimed.

        ``close_delay_s`` is the contract's CLOSE_DELAY.
        """
        most = close_delay_s // CLAIMS_A_CLOSE_DELAY
        if self.claim_age_s > most:
            raise ConfigError(
                f"settlement.claim_age_s is {self.claim_age_s}, and a payer of this deployment may "
                f"withdraw {close_delay_s} seconds after asking to: write {most} at most, so that "
                "a node that is away for a while still claims in time"
            )


class TrainingConfig(Section):
    """Bound a training run, and say what an adapter must know to be sold."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")] = "auto"
    max_memory_mib: Positive = 8_192
    max_time_s: Positive = 14_400
    threads: NonNegative = 0
    least_right_percent: Percent = 30
    least_kept_percent: Percent = 0


class NetworkConfig(Section):
    """Say which addresses of other nodes may be asked, and how often."""

    private_addresses: bool = False
    discover_s: Annotated[int, Field(ge=10)] = 300


class WithdrawalConfig(Section):
    """Say what is destroyed when the use of a withdrawn work ends."""

    destroy_named_files: bool = False


class NoticesConfig(Section):
    """Say how long the operator has to answer notices of third parties, by the published rule."""

    personal_data_s: Annotated[int, Field(ge=3_600, le=31_536_000)] = 259_200
    answer_s: Annotated[int, Field(ge=3_600, le=31_536_000)] = 1_209_600


class LogConfig(Section):
    """Set the daemon's log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "console"


class Config(BaseSettings):
    """Hold everything that an operator can set."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="VIZ_", env_nested_delimiter="__"
    )

    data_dir: Path = Path(".viz")
    key_password: SecretStr = SecretStr("")
    chain: ChainConfig = ChainConfig()
    api: ApiConfig = ApiConfig()
    storage: StorageConfig = StorageConfig()
    engine: EngineEntries = EngineConfig()
    prices: PriceConfig = PriceConfig()
    relay: RelayConfig = RelayConfig()
    settlement: SettlementConfig = SettlementConfig()
    training: TrainingConfig = TrainingConfig()
    network: NetworkConfig = NetworkConfig()
    withdrawal: WithdrawalConfig = WithdrawalConfig()
    notices: NoticesConfig = NoticesConfig()
    log: LogConfig = LogConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` joins the sources. A Config that is made from values must hold these values,
        # whatever the environment says.
        return (init_settings,)

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        """The entries for base models: the ``[engine]`` section, or each ``[[engine]]`` entry."""
        return (self.engine,) if isinstance(self.engine, EngineConfig) else self.engine

    def at(self, path: Path) -> Path:
        """Return an absolute ``path`` as it is, and any other below the data directory."""
        return path if path.is_absolute() else self.data_dir / path


def load(file: Path | None = None, **overrides: Any) -> Config:
    """Read the configuration from ``file`` (TOML), the environment and ``overrides``.

    ``overrides`` are top-level keys or sections from the command line, which stand above all else.
    Raises ConfigError with one line that names the key at fault.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = tomllib.loads(read_short_text(file, "the settings file", ConfigError))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file} is not TOML: {error}") from error
        if "key_password" in settings:
            raise ConfigError(
                f"{file} holds key_password: move it to VIZ_KEY_PASSWORD or VIZ_KEY_PASSWORD_FILE"
            )
    try:
        environment = EnvSettingsSource(Config)()
    except SettingsError as error:
        raise ConfigError(f"a VIZ_ variable cannot be read: {error}") from error
    settings = _layered(settings, environment, overrides)
    if password := secret("VIZ_KEY_PASSWORD").get_secret_value():
        settings["key_password"] = password
    try:
        return Config(**settings)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        known = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(
            f"setting {_key_of(first['loc'])}: {known} (see viz.example.toml)"
        ) from error


def _key_of(place: tuple[int | str, ...]) -> str:
    """Return the key at fault; for one of several engine entries, with its number from 1."""
    form, rest = place[1:2], place[:1] + place[2:]
    if place[:1] != ("engine",) or form not in ((ONE,), (SEVERAL,)):
        return ".".join(map(str, place))
    if form == (ONE,) or len(rest) == 1:
        return ".".join(map(str, rest))
    return f"{'.'.join(map(str, rest[:1] + rest[2:]))} of [[engine]] entry {int(rest[1]) + 1}"


def _layered(*layers: dict[str, Any]) -> dict[str, Any]:
    """Join the layers section by section; a later layer replaces keys of an earlier one."""
    joined: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = joined.get(key)
            if isinstance(below, list) and isinstance(value, dict):
                if len(below) != 1:
                    raise ConfigError(
                        f"the file has {len(below)} [[{key}]] entries, and a VIZ_{key.upper()}__ "
                        "variable or an option does not say which one it means: write it into "
                        "the entry"
                    )
                below = below[0]
            if isinstance(below, dict) and isinstance(value, dict):
                joined[key] = {**below, **value}
            else:
                joined[key] = value
    return joined
