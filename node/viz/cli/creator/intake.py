"""Run `viz content import`: convert books, chats and sites into a work, and show the result."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from viz.cli.console import (
    AsJson,
    PasswordFile,
    Yes,
    agreed,
    err,
    guarded,
    lines,
    password,
    plain,
    run,
    say,
    show,
)
from viz.domain.display import counted
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from viz.creator.intake.importing import Imported

_SHOWN_LINES: Final = 14
_SHOWN_CHARS: Final = 160
_SHOWN_NOTES: Final = 12

RightsKey = Annotated[
    Path | None,
    typer.Option(
        "--rights-are-mine",
        metavar="KEYFILE",
        help="Key to sign with that the rights are yours, if a source reserves training.",
    ),
]


@guarded
def import_work(
    sources: Annotated[
        list[str], typer.Argument(help="Files and folders, or the address of a site.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the work. Default: named by its title.")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="The work's title.")] = "",
    encoding: Annotated[
        str,
        typer.Option(
            "--encoding",
            help="Encoding of texts that do not name theirs: windows-1252, utf-8+windows-1252.",
        ),
    ] = "",
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Skip files that cannot be read, and import the rest."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an earlier import in the folder.")
    ] = False,
    max_pages: Annotated[
        int, typer.Option("--max-pages", min=1, help="Most pages to fetch of a site.")
    ] = 200,
    private_addresses: Annotated[
        bool,
        typer.Option("--private-addresses", help="Allow a site on this machine or its network."),
    ] = False,
    rights_are_mine: RightsKey = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Convert a book, a manuscript or chats into a work, and show the result.

    The command reads text, Markdown, HTML, DOCX, EPUB, PDF with a text layer, JSON Lines of chats
    (in our form, ShareGPT's or Alpaca's), folders of these, and a site's pages by its sitemap, as
    its robots.txt, RSL and TDMRep permit. It writes the work, import.json (the record of the
    conversion) and a first terms.toml into one folder. Nothing is sent.
    """
    from viz.clock import SystemClock
    from viz.creator.intake import importing, rights

    if any(each.startswith(("http://", "https://")) for each in sources):
        if len(sources) > 1:
            raise InvalidRequest("a site is imported by itself: name one address, and nothing else")
        made = _site(
            sources[0],
            title,
            max_pages,
            private_addresses=private_addresses,
            reserved_too=rights_are_mine is not None,
        )
    else:
        found, skipped = importing.sources_of([Path(each) for each in sources])
        made = importing.import_sources(
            found, title=title, encoding=encoding, leave_out=leave_out, skipped=skipped
        )
    folder = out or Path(_slug(made.title))
    importing.check_target(folder, replace=replace)
    barring = rights.in_force(made.opt_outs)
    signed = None
    if rights_are_mine is None:
        rights.refuse_reserved(barring)
    now_s = SystemClock().now_s()
    if rights_are_mine is not None and barring:
        from viz.chain.keys import load_key

        statement = rights.statement_of(made.title, made.sha256, barring, now_s)
        err.print("You sign:")
        for line in statement.split("\n"):
            err.print(f"  {plain(line)}", markup=False, soft_wrap=True)
        agreed("Sign that the rights are yours?", yes=yes)
        key = load_key(rights_are_mine, password(password_file))
        signed = rights.signed_statement(statement, key)
    record = made.record(now_s, signed)
    path = importing.write_import(folder, made, record)
    if show(record | {"path": str(path)}, as_json=as_json):
        return
    _tell(made, path)


def _site(
    address: str, title: str, max_pages: int, *, private_addresses: bool, reserved_too: bool
) -> Imported:
    """Fetch a site's pages, and convert them as files are; nothing of the pages is kept here."""
    from viz.creator.intake import importing, rights
    from viz.creator.intake.site import FetchedSite, SiteBounds, SiteReader
    from viz.outbound import Outbound

    async def read() -> FetchedSite:
        http = Outbound(private_addresses=private_addresses)
        try:
            reader = SiteReader(http, address, SiteBounds(max_pages))
            return await reader.read(reserved_too=reserved_too)
        finally:
            await http.close()

    site = run(read(), logs=False)
    if not reserved_too:
        rights.refuse_reserved(rights.in_force(site.opt_outs))
    with TemporaryDirectory(prefix="viz-site-") as folder:
        found = []
        for number, page in enumerate(site.pages):
            path = Path(folder) / str(number)
            path.write_bytes(page.body)
            read_as = "page.html" if page.is_html else "page.txt"
            found.append(importing.Source(page.url, path, read_as))
        return importing.import_sources(
            found,
            title=title or (urlsplit(address).hostname or ""),
            leave_out=True,
            skipped=site.left_out,
            opt_outs=site.opt_outs,
            of_a_site=True,
        )


def _tell(made: Imported, path: Path) -> None:
    words = sum(len(chunk.text.split()) for chunk in made.work.chunks)
    chunks = counted(len(made.work.chunks), "chunk")
    rows = [
        ("work", f"{path}  ({made.kind}, {chunks}, about {counted(words, 'word')})"),
        ("title", made.title),
        ("sources", ", ".join(_named(made))),
        ("record", str(path.with_name("import.json"))),
    ]
    if made.language:
        rows.insert(2, ("language", f"{made.language}, as the source says"))
    lines("Imported", rows)
    notes = [(each["name"], note) for each in made.sources for note in each["notes"]] + [
        (each["name"], f"left out: {each['why']}") for each in made.left_out
    ]
    if notes:
        say("What was done to it:")
    for name, note in notes[:_SHOWN_NOTES]:
        say(f"  {name}: {note}")
    if len(notes) > _SHOWN_NOTES:
        say(f"  and {counted(len(notes) - _SHOWN_NOTES, 'more note')}, in import.json")
    say("How it begins:")
    for line in made.raw.decode().split("\n")[:_SHOWN_LINES]:
        cut = plain(line)
        say(f"  {cut[:_SHOWN_CHARS]}{'...' if len(cut) > _SHOWN_CHARS else ''}")
    say(f"Read {path}. Then write its license, and register it with that:")
    where = path.parent
    say(f"  viz license new {where} --preset commercial")
    say(f"  viz content register {where} --license {where / 'license.toml'} --key KEYFILE")


def _named(made: Imported) -> list[str]:
    names = [f"{each['name']} ({each['kind']})" for each in made.sources]
    return [*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else names


def _slug(title: str) -> str:
    """Return a folder name for a title: its letters and digits, in lower case."""
    words = re.findall(r"\w+", title.lower())
    return "-".join(words)[:60].strip("-") or "work"
