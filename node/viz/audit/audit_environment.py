"""Decide which entries of a manifest's environment may excuse different bytes.

Owns the list of entries, which are those of ``viz.training.environment.describe``, and the form of
each. The audited trainer wrote the environment, so it is not trusted. An entry that is not on the
list, is malformed, or contradicts the manifest's own settings is a remark and excuses nothing.
Invariant: only a well-formed entry of the list whose value differs here is a difference.

An entry is added to the list only together with a new RECIPE. So if a manifest of this recipe lacks
an entry, this program did not write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from viz.processor import multiplies_bf16
from viz.training.environment import PACKAGES, is_vector_flag
from viz.training.run import TrainingSettings

Check = Callable[[Any], bool]
_MAX_CHARS: Final = 200


def _text(pattern: str) -> Check:
    form = re.compile(pattern)
    return lambda value: isinstance(value, str) and form.fullmatch(value[:_MAX_CHARS]) is not None


def _flags(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(flag, str) and is_vector_flag(flag) for flag in value)
        and value == sorted(set(value))
    )


def _capability(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


_WORDS: Final = _text(r"\S(.*\S)?")
# The names that PyTorch and oneDNN give to classes of processors, and the vendors' names that
# processors report.
_CAPABILITY: Final = _text(r"(?i)DEFAULT|NO AVX|AVX2|AVX512(_\w+)?|VSX|Z ?VECTOR|SVE(128|256)?")
_ISA: Final = _text(r"(?i)ALL|DEFAULT|SSE41|AVX2?(_VNNI(_2)?)?|AVX512_CORE(_[A-Z0-9]+)*|AVX10_\w+")
_VENDOR: Final = _text(r"GenuineIntel|AuthenticAMD|HygonGenuine|CentaurHauls|0x[0-9a-f]{2}|unknown")
_VERSION: Final = _text(r"[0-9]+(\.[0-9A-Za-z]+)+([+-].*)?")
_ENTRIES: Final[Mapping[str, Check]] = {
    "recipe": lambda value: type(value) is int,
    "python": _text(r"3\.1[0-9]\.[0-9]+\S*"),
    **{f"packages.{name}": _VERSION for name in PACKAGES},
    "system": _text(r"\w+-\w+"),
    "threads": lambda value: type(value) is int,
    "device": _WORDS,
    "cpuCapability": _CAPABILITY,
    "onednnMaxCpuIsa": _ISA,
    "cpuVendor": _VENDOR,
    "cpuFlags": _flags,
    "bf16Hardware": lambda value: type(value) is bool,
    "compute": lambda value: value in ("float32", "bfloat16"),
    "deterministicAlgorithms": lambda value: value is True,
}
_CUDA_ENTRIES: Final[Mapping[str, Check]] = {
    "cuda": _VERSION,
    "gpu": _WORDS,
    "gpuCapability": _capability,
}


def compare(
    claimed: Mapping[str, Any], here: Mapping[str, Any], settings: TrainingSettings
) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """Return what excuses different bytes, and what is wrong with the claimed environment.

    The first is (claimed, here) by entry; the second is a list of remarks. ``settings`` are the
    manifest's own.
    """
    recipe = claimed.get("recipe")
    if type(recipe) is int and 0 < recipe < here["recipe"]:
        # An older version of this program made another computation and described it in its own
        # way, so nothing else is compared. Only a recipe that existed excuses: otherwise anybody
        # could escape an audit with an invented one.
        return {"recipe": (recipe, here["recipe"])}, []
    cuda = settings.device.startswith("cuda")
    entries = {**_ENTRIES, **(_CUDA_ENTRIES if cuda else {})}
    claims, listed = _flat(claimed), _flat(here)
    remarks: list[str] = []
    sound: dict[str, Any] = {}
    for name, looks_right in entries.items():
        if name not in claims:
            remarks.append(f"the environment does not tell {name}")
        elif not looks_right(claims[name]):
            remarks.append(f"the environment's {name} is nothing of the kind")
        elif name == "recipe" and claims[name] != here["recipe"]:
            remarks.append(f"no version of this program has recipe {claims[name]}")
        else:
            sound[name] = claims[name]
    remarks += [
        f"the environment names {name[:60]!r}, which is not a part of one"
        for name in sorted(claims.keys() - entries.keys())
    ]
    for name, contradicts in _contradictions(sound, settings):
        remarks.append(contradicts)
        sound.pop(name, None)
    differences = {
        name: (value, listed.get(name))
        for name, value in sound.items()
        if value != listed.get(name)
    }
    return differences, remarks


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries with a separate one for each package, such as ``packages.torch``."""
    packages = told.get("packages")
    if not isinstance(packages, dict):
        return dict(told)
    rest = {name: value for name, value in told.items() if name != "packages"}
    return rest | {f"packages.{name}": version for name, version in packages.items()}


def _contradictions(told: Mapping[str, Any], settings: TrainingSettings) -> list[tuple[str, str]]:
    """Return the entries that contradict the manifest's settings or its other entries."""
    found = [
        (name, f"the environment's {name} is {told[name]!r}, the settings' {wanted!r}")
        for name, wanted in (("threads", settings.threads), ("device", settings.device))
        if name in told and told[name] != wanted
    ]
    if "cpuFlags" not in told:
        return found
    multiplies = multiplies_bf16(told["cpuFlags"])
    if told.get("bf16Hardware", multiplies) is not multiplies:
        found.append(("bf16Hardware", "the environment's bf16Hardware is not what cpuFlags say"))
    computes: str = settings.compute
    if computes == "auto":
        computes = "bfloat16" if settings.device.startswith("cuda") else "float32"
    if told.get("compute", computes) != computes:
        says = f"the environment's compute is {told['compute']}, its own words give {computes}"
        found.append(("compute", says))
    return found
