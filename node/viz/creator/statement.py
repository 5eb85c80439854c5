"""Write a work's statement as table rows, CSV and JSON, and check one against the chain.

Owns the form of a statement: the work, the blocks that it covers with their hashes, a line for each
event that moves money, and the sums. ``viz.domain.statement`` derives the lines. Amounts are base
units as decimal text; times are those of the blocks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from viz.chain.work_events import WorkEvents, WorkRead
from viz.domain.ports.chain import Deployment
from viz.domain.statement import (
    EARNED,
    FEE,
    PAID,
    AdapterRates,
    StatementLine,
    sum_of_kind,
)
from viz.domain.units import ContentId, Hash32, Units, hex_of
from viz.errors import ChainMismatch, InvalidRequest
from viz.protocol.wire import JSON_INTEGER_MAX, Reader

COLUMNS: Final = (
    "work", "time", "block", "logIndex", "transaction", "kind", "account", "adapter", "node",
    "gross", "works", "royaltyBps", "shareBps", "vouchers", "units", "credited",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """What a work earned from the block ``first`` to the last block that was read."""

    deployment: Deployment
    read: WorkRead
    first: int
    times: Mapping[int, int]
    vouchers: Mapping[Hash32, int]

    @property
    def content_id(self) -> ContentId:
        return self.read.history.content_id

    @property
    def lines(self) -> tuple[StatementLine, ...]:
        return self.read.history.within(self.first, self.read.last.number)

    @property
    def adapters(self) -> tuple[AdapterRates, ...]:
        return self.read.adapters

    def sums(self) -> dict[str, Units]:
        """Return the sums; waiting amounts are earned and not distributed yet."""
        history, lines = self.read.history, self.lines
        return {
            "fees": sum_of_kind(lines, FEE),
            "waitingBefore": history.waiting_units(self.first),
            "earned": sum_of_kind(lines, EARNED),
            "paid": sum_of_kind(lines, PAID),
            "waitingAfter": history.waiting_units(self.read.last.number + 1),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the statement as JSON values."""
        return {
            "contentId": int(self.content_id),
            "chainId": self.deployment.chain_id,
            "contentRegistry": self.deployment.content_registry,
            "settlement": self.deployment.settlement,
            "token": self.deployment.token,
            "tokenDecimals": self.deployment.token_decimals,
            "fromBlock": self.first,
            "toBlock": self.read.last.number,
            "toBlockHash": hex_of(self.read.last.hash),
            "toTime": self.read.last.time_s,
            "adapters": [
                {
                    "adapterId": int(each.adapter_id),
                    "trainer": each.trainer,
                    "royaltyBps": each.royalty_bps,
                    "trainerBps": each.trainer_bps,
                    "shareBps": each.share_bps,
                }
                for each in self.adapters
            ],
            "lines": [
                {name: value for name, value in row.items() if value not in ("", "0", False)}
                for row in self.rows()
            ],
            "sums": {name: str(units) for name, units in self.sums().items()},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each line as a mapping of COLUMNS to values."""
        for line in self.lines:
            adapter = "" if line.adapter_id is None else int(line.adapter_id)
            counted = self.vouchers.get(line.transaction, "") if line.kind == EARNED else ""
            values = (
                int(self.content_id),
                self.times[line.block],
                line.block,
                line.log_index,
                hex_of(line.transaction),
                line.kind,
                line.account,
                adapter,
                line.node or "",
                str(line.gross_units),
                str(line.works_units),
                line.royalty_bps or "",
                line.share_bps or "",
                counted,
                str(line.units),
                line.credited,
            )
            yield dict(zip(COLUMNS, values, strict=True))


def csv_text(statements: Sequence[Statement]) -> str:
    """Return all lines of the statements as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for statement in statements:
        writer.writerows(statement.rows())
    return text.getvalue()


async def make_statement(
    events: WorkEvents, deployment: Deployment, content_id: ContentId, first: int, last: int
) -> Statement:
    """Return the statement of a work for the blocks ``first`` to ``last``."""
    read = await events.read(content_id, await events.header(last))
    lines = read.history.within(first, last)
    times = await events.times([line.block for line in lines])
    claims = [line.transaction for line in lines if line.kind == EARNED]
    vouchers = await events.vouchers(claims)
    await events.require_block(read.last)
    return Statement(deployment, read, first, times, vouchers)


async def check_statement(events: WorkEvents, deployment: Deployment, said: object) -> Statement:
    """Compute the statement of the same blocks, and return it if it is the same.

    Raises InvalidRequest for another kind of file, ChainMismatch if it is of another deployment, if
    its last block was reorganised away, or if a line or sum differs.
    """
    reader = Reader(said, "the statement")
    last, first = (
        reader.integer("toBlock", JSON_INTEGER_MAX),
        reader.integer("fromBlock", JSON_INTEGER_MAX),
    )
    content_id = ContentId(reader.integer("contentId", JSON_INTEGER_MAX))
    if first > last:
        raise InvalidRequest(f"the statement is from block {first} to the older block {last}")
    header = await events.header(last)
    if header.hash != reader.hash32("toBlockHash"):
        raise ChainMismatch(
            f"the statement ends with block {last}, 0x{reader.hash32('toBlockHash').hex()}, and "
            f"the chain has 0x{header.hash.hex()} there: it was reorganised, or it is another "
            "chain. Have the statement made again"
        )
    made = await make_statement(events, deployment, content_id, first, last)
    again = made.to_json()
    assert isinstance(said, Mapping)
    for name in said:
        if name not in again:
            raise ChainMismatch(f"no statement has {str(name)[:60]!r}: who added it, and why?")
    for name, value in again.items():
        if not _is_same(said.get(name), value):
            raise ChainMismatch(_difference(name, said.get(name), value))
    return made


def _is_same(said: object, found: object) -> bool:
    """Return whether two JSON values are the same; true is not 1, and 1.0 is not 1."""
    return json.dumps(said, sort_keys=True) == json.dumps(found, sort_keys=True)


def _difference(name: str, said: Any, found: Any) -> str:
    if isinstance(said, list) and isinstance(found, list):
        for number, (theirs, ours) in enumerate(zip(said, found, strict=False)):
            if not _is_same(theirs, ours):
                return f"{name}[{number}] of the statement is {theirs}, and the chain has {ours}"
        return f"the statement has {len(said)} {name}, and the chain {len(found)}"
    return f"{name!r} of the statement is {said!r}, and the chain has {found!r}"
