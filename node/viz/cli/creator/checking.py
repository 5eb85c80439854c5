"""Run `viz content check`: show what can be found out about a work before it is signed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import AsJson, guarded, lines, plain, run, say, show, table
from viz.cli.creator.work_search import listed_works
from viz.cli.http import LOCAL_NODE, NodeUrl
from viz.client.node_address import checked
from viz.domain.display import counted
from viz.errors import VizError

if TYPE_CHECKING:
    from viz.domain.units import ContentId
    from viz.protocol.listing import WorkListing

_SHOWN_OPT_OUTS: Final = 6


@guarded
def check(
    sources: Annotated[list[Path], typer.Argument(help="A work, or the files that it is made of.")],
    node: NodeUrl = LOCAL_NODE,
    alone: Annotated[
        bool, typer.Option("--alone", help="Do not ask a node for works to compare with.")
    ] = False,
    encoding: Annotated[
        str, typer.Option("--encoding", help="Encoding of texts that do not name theirs.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check a work before you sign: near copies, people in it, reserved rights, what is learnable.

    The command reads the files that `viz content import` reads. The work does not leave this
    machine: the node's listings are fetched and compared here. Nothing is written.
    """
    from dataclasses import asdict

    from viz.creator.intake import importing
    from viz.creator.likeness import alike
    from viz.creator.work_check import check_work

    found, skipped = importing.sources_of(sources)
    made = importing.import_sources(found, encoding=encoding, skipped=skipped)
    told = check_work(made, _folder(sources[0]))
    listings, why = ([], "you said --alone") if alone else _listings(node)
    coded = sum(bool(each.iscc) for each in listings)
    own = _registered(sources)
    told["alike"] = [asdict(each) for each in alike(told["iscc"], listings, own)]
    told["compared"] = {
        "node": "" if why else node, "listings": len(listings), "withCode": coded, "why": why,
    }  # fmt: skip
    if show(told, as_json=as_json):
        return
    _tell(told)


def _registered(sources: list[Path]) -> list[ContentId]:
    """Return the ids under which these works are registered, by the records beside them."""
    from viz.services.work_records import read_work, records_in

    found = []
    for source in sources:
        for path, record in records_in(source):
            # Of a file that was changed since, its registered form is another work.
            with suppress(VizError):
                if read_work(path, record.kind).merkle_root == record.merkle_root:
                    assert record.content_id is not None
                    found.append(record.content_id)
    return found


def _folder(source: Path) -> Path:
    return source if source.is_dir() else source.parent


async def near_copies(work: Path, kind: str, node: str) -> tuple[list[tuple[str, object]], str]:
    """Return the works listed at a node that share passages with this one, as rows.

    Without a node, or if its listings cannot be read, the second value says so: nobody is kept from
    signing, but knows that nothing was compared.
    """
    from viz.creator.likeness import alike, content_code_of

    if not node:
        return [], "no node is asked: `viz content check --node URL` compares"
    try:
        listings = await listed_works(node)
    except VizError as error:
        return [], error.detail
    code = await asyncio.to_thread(content_code_of, work, kind) if listings else ""
    found = alike(code, listings)
    rows = [(f"work {e.content_id}", f"{e.title}, {e.credit}: {e.shared:.0%}") for e in found]
    return [*rows], ""


def _listings(node: str) -> tuple[list[WorkListing], str]:
    """Return a node's listings, or none and the reason: the check continues without them."""
    try:
        return run(listed_works(checked(node)), logs=False), ""
    except VizError as error:
        return [], error.detail


def _tell(told: dict[str, Any]) -> None:
    said, guess = told["languageSaid"], told["languageGuessed"]
    language = f"{said}, as the source says" if said else ""
    if guess and guess.partition("-")[0] != said.partition("-")[0]:
        language += f"{'; ' if language else ''}{guess}, by its words (a guess)"
    rows: list[tuple[str, object]] = [
        ("title", told["title"]),
        ("kind", told["kind"]),
        ("words", f"about {told['words']}"),
        ("chunks", told["chunks"]),
        ("language", language or "not recognised: name it when you register"),
        ("content code", f"{told['iscc']}  (part of its listing)"),
    ]
    rows += [(f"personal data: {each['kind']}", _people(each)) for each in told["personalData"]]
    if not told["personalData"]:
        rows.append(("personal data", "none found that has a known form"))
    rows += [("  not looked for", told["personalDataUnseen"]), *_rights(told), *_learned(told)]
    rows.append(("near copies", _compared(told)))
    table("Before you sign", ("what", "value"), [(name, plain(str(value))) for name, value in rows])
    if told["alike"]:
        near = [
            (each["content_id"], each["title"], each["credit"], f"{each['shared']:.0%}")
            for each in told["alike"]
        ]
        table("Listed works that share passages", ("#work", "title", "credit", "shared"), near)
        say("You may register a near copy; the earlier registration stays visible to all.")
    if left := told["leftOut"]:
        lines("Left out", [(each["name"], each["why"]) for each in left])


def _people(each: dict[str, Any]) -> str:
    places = ", ".join(str(place + 1) for place in each["chunks"])
    where = "chunk" if len(each["chunks"]) == 1 else "chunks"
    return f"{each['count']}, such as {', '.join(each['examples'])}  ({where} {places})"


def _rights(told: dict[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        (f"rights: {each['says']}", f"{each['scheme']}, {each['where']}: {each['value']}")
        for each in told["optOuts"][:_SHOWN_OPT_OUTS]
    ]
    if not rows:
        rows.append(("rights", "the file reserves none (that alone gives you no rights)"))
    if signer := told["rightsSignedBy"]:
        rows.append(("  so", f"{signer} signed that the rights are theirs"))
    elif told["reserved"]:
        rows.append(
            (
                "  so",
                "training is reserved; if it is yours: `viz content import --rights-are-mine KEY`",
            )
        )
    return rows


def _learned(told: dict[str, Any]) -> list[tuple[str, object]]:
    found = told["learnable"]
    if found is None:
        return [("learnable", f"not known: {told['learnableUnknown']}")]
    facts = counted(found["facts"], "fact")
    rows: list[tuple[str, object]] = [
        ("learnable", f"{facts}, {counted(found['trainingRows'], 'row')} to train on"),
        ("  takes", f"about {found['minutes']} min on two cores, with the default settings"),
    ]
    if found["silentChunks"]:
        some = "; ".join(found["silentExamples"])
        silent = counted(found["silentChunks"], "chunk gives", "chunks give")
        rows.append(("not learnable", f"{silent} no fact: {some}"))
    return rows


def _compared(told: dict[str, Any]) -> str:
    how = told["compared"]
    if how["why"]:
        return f"not compared: {how['why']}"
    return (
        f"{len(told['alike'])} among {counted(how['withCode'], 'listed work')} with a code, of "
        f"{how['listings']} at {how['node']}"
    )
