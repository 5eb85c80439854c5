"""Keep on disk the requests that are not billed yet, so that a later bill finds its request.

Owns one file per request below the channel's directory: a line of JSON, then the body as it was
sent. A receipt names the salted hashes of this body, and of the text that answered it: what arrived
of that is kept too, with its exact counts, so that a later process counts a bill again.

Invariants: a request is on disk (fsync) before it is sent; its file is removed when its receipt is
kept, so that what was asked and said stays on disk only as long as a bill may come.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from viz.buyer.ledger.open_request import EARLIER_S, TEXT_KEPT_BYTES, OpenRequest
from viz.domain.pricing import Price
from viz.domain.units import AdapterId
from viz.errors import BooksMismatch, InvalidRequest
from viz.private import write_private
from viz.protocol.wire import Reader, parse_json

ASKED: Final = "asked"
_SUFFIX: Final = ".request"
# JSON writes a control character in six bytes.
MAX_HEAD_BYTES: Final = 6 * TEXT_KEPT_BYTES + 4_096


class RequestJournal:
    """The requests of one channel; ``directory`` is made for the first one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, open_request: OpenRequest) -> None:
        """Make a request durable, with what is known of it now; raise OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        open_request.name = open_request.name or secrets.token_hex(16)
        path = self._path(open_request.name)
        head = {
            "adapter": int(open_request.adapter_id),
            "units": str(open_request.units),
            "most": str(open_request.most_units),
            "asked": str(open_request.asked_units),
            "prompt": str(open_request.prompt_units),
            "arrived": str(open_request.arrived_units),
            "incident": open_request.incident,
            "excused": str(open_request.excused_units),
            "onLine": str(open_request.on_line_units),
            "reach": str(open_request.reach_units),
            "ended": bool(open_request.ended_at_s),
            "refused": open_request.refused,
            "pardoned": open_request.pardoned,
            "capped": open_request.capped,
            "cut": open_request.cut,
            "held": open_request.held,
        }
        if (price := open_request.price) is not None:
            head["promptPrice"] = str(price.prompt_price_units)
            head["completionPrice"] = str(price.completion_price_units)
        if open_request.counted_units is not None:
            head["counted"] = str(open_request.counted_units)
        if (tokens := open_request.tokens) is not None:
            head["promptTokens"], head["textTokens"] = tokens
            head["text"] = open_request.text.decode()
        whole = json.dumps(head).encode() + b"\n" + open_request.request
        write_private(path, whole, path.with_suffix(".new"))

    def drop(self, name: str) -> None:
        """Forget a request; a file that cannot be removed now is removed at the next start."""
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def load(self, billed: set[str]) -> list[OpenRequest]:
        """Return the requests of earlier processes, the oldest first; drop those that are billed.

        Raises BooksMismatch if a file cannot be read.
        """
        found: list[tuple[float, OpenRequest]] = []
        for path in self._directory.glob(f"*{_SUFFIX}"):
            if path.stem in billed:
                self.drop(path.stem)
                continue
            try:
                found.append((path.stat().st_mtime, _read(path)))
            except (OSError, InvalidRequest) as error:
                raise BooksMismatch(
                    f"{path} cannot be read: restore it. If there is no copy, `viz channel leave` "
                    "brings the deposit back, and `viz channel renew` then begins with a new "
                    "session key"
                ) from error
        return [open_request for _, open_request in sorted(found, key=lambda each: each[0])]

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"


def _read(path: Path) -> OpenRequest:
    head, _, body = path.read_bytes().partition(b"\n")
    reader = Reader(parse_json(head, max_bytes=MAX_HEAD_BYTES), "a request under way")
    ended = reader.boolean("ended")
    prompt_price = reader.optional("promptPrice", reader.units)
    completion_price = reader.optional("completionPrice", reader.units)
    priced = prompt_price is not None and completion_price is not None
    price = Price(prompt_price or 0, completion_price or 0) if priced else None
    prompt_tokens = reader.optional("promptTokens", reader.integer)
    text_tokens = reader.optional("textTokens", reader.integer)
    read_text = partial(reader.text, max_chars=TEXT_KEPT_BYTES)
    counted = prompt_tokens is not None and text_tokens is not None
    return OpenRequest(
        AdapterId(reader.integer("adapter")),
        body,
        units=reader.units("units"),
        most_units=reader.units("most"),
        asked_units=reader.optional("asked", reader.units) or 0,
        prompt_units=reader.optional("prompt", reader.units) or 0,
        arrived_units=reader.units("arrived"),
        name=path.stem,
        incident=reader.text("incident", 64),
        excused_units=reader.optional("excused", reader.units) or 0,
        on_line_units=reader.optional("onLine", reader.units) or 0,
        reach_units=reader.optional("reach", reader.units) or 0,
        unknown=not ended,
        # Its bill is weighed like that of an answer which ended in this process.
        ended_at_s=EARLIER_S if ended else 0.0,
        refused=reader.optional("refused", reader.boolean) or False,
        pardoned=reader.optional("pardoned", reader.boolean) or False,
        capped=reader.optional("capped", reader.boolean) or False,
        cut=reader.optional("cut", reader.boolean) or False,
        price=price,
        counted_units=reader.optional("counted", reader.units),
        held=reader.optional("held", reader.text) or "",
        text=(reader.optional("text", read_text) or "").encode(),
        tokens=(prompt_tokens or 0, text_tokens or 0) if counted else None,
    )
