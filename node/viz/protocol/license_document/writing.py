"""Write a license document as TOML with a comment beside every field, for a creator to edit.

Invariant: reading the result gives an equal document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from viz.protocol.license_document.model import LicenseDocument

_HEAD: Final = """\
# A license: change what you like, then look at it with `viz license check` and
# `viz license show`. Its hash is what you sign when you register the work, so a
# later change of any field is another license. "chain": it must be equal in the
# on-chain terms. "promise": a licensee must keep it, and no contract can check it.
"""
_COMMENTS: Final = {
    "text": "further conditions in your own words, or empty",
    "licensor.kind": "person or organization",
    "licensor.capacity": "author, rights-holder, publisher or agent",
    "licensor.contact": "mailto: or https://",
    "licensor.wallet": "registers the work",
    "work.language": "a language tag, such as en or pt-BR",
    "work.sha256": "of the work's file",
    "work.root": "Merkle root of its chunks",
    "work.created": "a date, or empty",
    "work.published": "a date, or empty",
    "work.third_party": "does it contain the work of others?",
    "work.personal_data": "does it contain personal data?",
    "work.acquired": "own-work, commissioned, assigned, licensed or public-domain",
    "rights.copy_for_training": "chain: copy the work to train an adapter",
    "rights.embody_in_parameters": "chain: register an adapter trained on it",
    "rights.serve": "chain: answer with that adapter, for pay",
    "rights.evaluate": "chain, recorded: measure models on the work",
    "rights.compose": "promise: use the adapter together with others",
    "rights.export": "promise: hand the adapter's plain weights on",
    "rights.excerpts.permitted": "chain, recorded: answers may quote the work",
    "rights.excerpts.max_tokens": "an adapter that repeats a longer run is not published",
    "limits.bases": "digests of base models; empty: any",
    "limits.field": "promise: any, non-commercial or research",
    "limits.territory": "promise: country codes; empty: worldwide",
    "limits.grant_s": "chain: seconds that a grant lives; 0: without end",
    "limits.approval_required": "chain: only trainers that you approve",
    "money.training_fee": "chain: whole tokens, once for each grant",
    "money.min_royalty_bps": "chain: least part of an adapter's gross revenue; 800 is 8 %",
    "exit.revocation_class": "chain: 0 keep, 1 stop new adapters, 2 retire adapters",
    "exit.effect": "in words: keep, stop-new-adapters or retire-adapters",
    "exit.notice_s": "chain: seconds from a withdrawal to its effect; at most 90 days",
    "exit.erasure": "promise: none, or copies-and-keys",
    "warranties.given": "ownership, authority, no-infringement, privacy-consent, no-malware",
    "warranties.disclaimed": "as-is, no-warranty, no-liability, no-indemnity",
    "law.governing": "which law",
    "law.courts": "which courts, or empty",
    "law.precedence": "chain-first or document-first",
}
_WIDTH: Final = 42


def license_to_toml(document: LicenseDocument) -> str:
    """Return the document as TOML, with comments."""
    return _HEAD + "\n".join(_table("", document.to_json())) + "\n"


def _table(path: str, values: dict[str, Any]) -> Iterator[str]:
    below = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name, value in values.items():
        if name not in below:
            yield _line(name, value, _COMMENTS.get(f"{path}{name}", ""))
    for name, value in below.items():
        yield ""
        yield f"[{path}{name}]"
        yield from _table(f"{path}{name}.", value)


def _line(name: str, value: Any, comment: str) -> str:
    # JSON values of these types are TOML too, if no character is escaped as a surrogate pair.
    setting = f"{name} = {json.dumps(value, ensure_ascii=False)}"
    return f"{setting:<{_WIDTH}}  # {comment}" if comment else setting
