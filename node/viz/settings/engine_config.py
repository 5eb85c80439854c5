"""Define the settings of the base models: an ``[engine]`` section, or ``[[engine]]`` entries.

Owns both forms, and what several entries may not have in common.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from viz.domain.ports.engine import DEFAULT_BASE
from viz.protocol.messages import MAX_BASE_NAME_CHARS
from viz.settings.types import NonNegative, Positive, Section

# The forms by which pydantic names a place in the settings: one section, or several entries.
ONE: Final = "one"
SEVERAL: Final = "several"


class UpstreamConfig(Section):
    """Name the servers that compute for this node, and the options that they were started with."""

    urls: tuple[str, ...] = ()
    folder: Path = Path("shared-adapters")
    server_folder: str = ""
    arithmetic: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_adapters: Positive = 32
    max_rank: Annotated[int, Field(ge=1, le=512)] = 16
    timeout_s: Positive = 60
    canary_interval_s: Positive = 600

    @field_validator("urls")
    @classmethod
    def _http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not all(url.startswith(("http://", "https://")) for url in urls):
            raise ValueError("write each as http://host:port or https://host")
        if len(set(urls)) != len(urls):
            raise ValueError("name each server once")
        return urls


class EngineConfig(Section):
    """Choose a base model, what computes it, and how much of the machine it may use."""

    backend: Literal["embedded", "upstream", "none"] = "embedded"
    base_model: str = DEFAULT_BASE
    base_digest: Annotated[str, Field(pattern="^(0x[0-9a-f]{64})?$")] = ""
    name: Annotated[str, Field(max_length=MAX_BASE_NAME_CHARS)] = ""
    prompt_units_per_million: NonNegative | Literal["prices"] = "prices"
    completion_units_per_million: NonNegative | Literal["prices"] = "prices"
    max_streams: Positive = 32
    context_tokens: Positive = 2_048
    resident_adapters: Positive = 256
    max_memory_mib: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    grace_s: Annotated[int, Field(ge=1, le=3_600)] = 10
    prefix_s: Annotated[int, Field(ge=0, le=86_400)] = 600
    threads: NonNegative = 0
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = True
    upstream: UpstreamConfig = UpstreamConfig()

    @field_validator("name")
    @classmethod
    def _own_name(cls, name: str) -> str:
        if name != name.strip():
            raise ValueError("write it without spaces around it")
        return name

    @model_validator(mode="after")
    def _servers(self) -> EngineConfig:
        if self.backend == "upstream" and not self.upstream.urls:
            raise ValueError('backend "upstream" needs upstream.urls, the addresses of its servers')
        return self


def _form_of(engine: object) -> str:
    return SEVERAL if isinstance(engine, list | tuple) else ONE


def _distinct(entries: tuple[EngineConfig, ...]) -> tuple[EngineConfig, ...]:
    """Refuse entries that would have the same base model, or share servers or their folder."""
    if not entries:
        raise ValueError("write an [engine] section, or [[engine]] entries")
    served = [each for each in entries if each.backend != "none"]
    digests = Counter(each.base_digest for each in served if each.base_digest)
    unpinned = Counter(each.base_model for each in served if not each.base_digest)
    upstream = [each.upstream for each in served if each.backend == "upstream"]
    for counts, what in (
        (digests, "have base_digest"),
        (unpinned, "have base_model"),
        (Counter(url for each in upstream for url in each.urls), "name the server"),
        (Counter(str(each.folder) for each in upstream), "write adapters into upstream.folder"),
    ):
        for value, times in counts.items():
            if times > 1:
                raise ValueError(f"{times} entries {what} {value}: each needs its own")
    return entries


EngineEntries = Annotated[
    Annotated[EngineConfig, Tag(ONE)]
    | Annotated[tuple[EngineConfig, ...], AfterValidator(_distinct), Tag(SEVERAL)],
    Discriminator(_form_of),
]
