"""Run `viz license`: write a license, check it, show it, and export its forms."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import (
    MOST_WORKS,
    AsJson,
    DataDir,
    DeploymentFile,
    guarded,
    lines,
    run,
    say,
    show,
)
from viz.cli.http import LOCAL_NODE, NodeUrl, get_as
from viz.cli.own_chain import CreatorRpcOption, own_chain, trusted_deployment
from viz.errors import InvalidRequest
from viz.written_file import is_written, require_new, write_new

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment
    from viz.protocol.license_document.model import LicenseDocument

app = typer.Typer(no_args_is_help=True, help="Write, check, show and export licenses.")

LicenseFile = Annotated[Path, typer.Argument(help="license.toml, or the document as JSON.")]
LicenseFileOrNone = Annotated[
    Path | None, typer.Argument(help="license.toml, or the document as JSON.")
]


@app.command("new")
@guarded
def new_license(
    work: Annotated[Path, typer.Argument(help="The work's folder (terms.toml), or its file.")],
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="Preset: research, commercial, approval, no-excerpt or guided."
        ),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option("--out", help="File to write. Default: license.toml beside the work."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the licensor.")] = "",
    contact: Annotated[str, typer.Option(help="The licensor's mailto: or https: address.")] = "",
    wallet: Annotated[str, typer.Option(help="The wallet that registers the work.")] = "",
    title: Annotated[str, typer.Option(help="The work's title. Default: that of terms.toml.")] = "",
    language: Annotated[str, typer.Option(help="The work's language, such as en.")] = "",
    law: Annotated[str, typer.Option(help="The law that governs the license.")] = "",
    organization: Annotated[
        bool, typer.Option("--organization", help="The licensor is an organization.")
    ] = False,
    capacity: Annotated[
        str, typer.Option(help="Licensor is author, rights-holder, publisher or agent.")
    ] = "author",
    acquired: Annotated[
        str,
        typer.Option(help="Rights: own-work, commissioned, assigned, licensed or public-domain."),
    ] = "own-work",
    third_party: Annotated[
        bool, typer.Option("--third-party", help="The work contains works of others.")
    ] = False,
    personal_data: Annotated[
        bool, typer.Option("--personal-data", help="The work contains personal data.")
    ] = False,
    fee: Annotated[str | None, typer.Option(help="Fee of a grant, such as 2.00.")] = None,
    royalty_bps: Annotated[
        int | None,
        typer.Option(help="Least royalty: part of an adapter's revenue, in basis points."),
    ] = None,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a license for a work from a preset; on a terminal, ask for what is missing.

    Chain, registry and token come from the deployment that you trust (`viz trust`). The license
    names the work by the digests of its file, so write it when the file is final.
    """
    from viz.cli.creator.license_questions import GUIDED, LicenseAnswers, described, work_of
    from viz.protocol.license_document.presets import document_from_preset
    from viz.protocol.license_document.reading import license_from_values

    place = to or (work if work.is_dir() else work.parent) / "license.toml"
    require_new(place)
    language = language or described(work, "language")
    answers = LicenseAnswers(terminal=sys.stdin.isatty() and not as_json)
    needed = {"--preset": preset, "--name": name, "--contact": contact, "--wallet": wallet}
    needed |= {"--language": language, "--law": law}
    if not work.is_dir() and work.suffix != ".toml":
        needed = {"--title": title, **needed}
    answers.require(needed)
    found = work_of(work, title)
    trusted = trusted_deployment(deployment, folder)
    start = answers.preset(preset)
    document = document_from_preset(
        "commercial" if start == GUIDED else start,
        licensor={
            "name": (who := answers.ask("--name", "Who gives the license", name)),
            "kind": "organization" if organization else "person",
            "capacity": capacity,
            "contact": answers.contact(contact),
            "wallet": answers.wallet(wallet),
        },
        work={
            **found,
            "creators": [who],
            "language": answers.ask("--language", "The work's language (en, pt-BR, ...)", language),
            "created": "",
            "published": "",
            "third_party": third_party,
            "personal_data": personal_data,
            "acquired": acquired,
        },
        chain=_chain_facts(trusted),
        issued=answers.today(),
        law=answers.ask("--law", "The law that governs the license", law),
        fee=fee,
        royalty_bps=royalty_bps,
    )
    if start == GUIDED:
        document = license_from_values(answers.guide(document.to_json()))
    _write_new(document, place)
    if show({"file": str(place), "license": document.to_json()}, as_json=as_json):
        return
    _say_summary(document)
    say(f"written  {place}: read it, change it, and look at it with `viz license check {place}`")


def _write_new(document: LicenseDocument, place: Path) -> None:
    """Write a license to a file that does not exist yet."""
    from viz.protocol.license_document.writing import license_to_toml

    write_new(place, license_to_toml(document).encode())


@app.command("check")
@guarded
def check_license(
    license_file: LicenseFileOrNone = None,
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder or file of the work to compare with.")
    ] = None,
    content_id: Annotated[
        int | None,
        typer.Option(
            "--content", min=1, max=MOST_WORKS, help="Id of the work whose terms to compare with."
        ),
    ] = None,
    node: NodeUrl = LOCAL_NODE,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Check a license: its fields, contradictions, its work's file, and the chain's terms.

    Without a file, the document of the work --content is read from the node.
    """
    from viz.cli.creator.license_questions import described, file_and_kind
    from viz.creator.license_files import require_title, require_work
    from viz.domain.units import hex_of
    from viz.protocol.license_document.agreement import terms_of

    if content_id is not None and not rpc:
        raise InvalidRequest("--content is looked up on the chain: add --rpc URL")
    document = _document(license_file, content_id, node)
    found: dict[str, Any] = {"licenseHash": hex_of(document.license_hash), "checked": ["fields"]}
    found["termsHash"] = hex_of(terms_of(document).terms_hash(document.license_hash))
    if work is not None:
        require_work(document, *file_and_kind(work))
        if title := described(work, "title"):
            require_title(document, title, work)
        found["checked"].append("work")
    if content_id is not None:
        trusted = trusted_deployment(deployment, folder)
        found["withdrawnAt"] = run(_compare(document, content_id, rpc, trusted))
        found["checked"].append("chain")
    if show(found, as_json=as_json):
        return
    say(f"license hash  {found['licenseHash']}")
    say(f"terms hash    {found['termsHash']}")
    say(f"checked       {', '.join(found['checked'])}")
    if found.get("withdrawnAt"):
        say("the work was withdrawn: no new grant is given")
    if content_id is None:
        say("not compared  with the chain: add --content ID --rpc URL")


@app.command("show")
@guarded
def show_license(
    license_file: LicenseFileOrNone = None,
    content_id: Annotated[
        int | None,
        typer.Option(
            "--content", min=1, max=MOST_WORKS, help="The work's id, to read it from a node."
        ),
    ] = None,
    node: NodeUrl = LOCAL_NODE,
    as_json: AsJson = False,
) -> None:
    """Show a license in plain words: from a file, or with --content from a node."""
    document = _document(license_file, content_id, node)
    if show(document.to_json(), as_json=as_json):
        return
    _say_summary(document)
    if license_file is None:
        say(f"read from  {node}: `viz license check --content {content_id} --rpc URL` compares it")


@app.command("export")
@guarded
def export_license(
    license_file: LicenseFile,
    url: Annotated[
        str, typer.Option("--url", help="URL of the published files: https://host/folder.")
    ],
    path: Annotated[
        str, typer.Option("--path", help="The work's path on its site, such as /books/keeper/.")
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")] = Path("license"),
    content_id: Annotated[
        int | None, typer.Option("--content", min=1, max=MOST_WORKS, help="The work's id.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a license in every form: JSON, RSL, TDMRep, ODRL, AIPREF, CAWG, summary, rate card."""
    from viz.cli.creator.license_questions import publication
    from viz.creator.license_files import read_license
    from viz.protocol.license_forms.catalogue import forms
    from viz.protocol.license_forms.tdmrep import tdm_rules

    document = read_license(license_file)
    where = publication(url, path, content_id)
    files = {form.name: form.body for form in forms(document, where)}
    files["tdmrep.json"] = (json.dumps(tdm_rules(document, where), indent=2) + "\n").encode()
    to.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        place = to / name
        # A site's own tdmrep.json may have rules for other works too.
        if not is_written(place, body):
            require_new(place, "in the folder of --to:")
    for name, body in files.items():
        if not is_written(to / name, body):
            write_new(to / name, body)
    written = list(files)
    differs = _registered_otherwise(document, license_file.parent)
    told: dict[str, Any] = {"folder": str(to), "files": written}
    if show(told | ({"differsFrom": differs} if differs else {}), as_json=as_json):
        return
    say(f"written  {to}: {', '.join(written)}")
    say(f"publish  them at {url}, and tdmrep.json at /.well-known/tdmrep.json of the work's site")
    say(f"robots   License: {where.form('rsl.xml')}")
    for work in differs:
        say(
            f"differs  from the license that work {work} was registered with, whose hash the chain "
            f"has: new terms count only after `viz content terms {work} FOLDER`"
        )


def _registered_otherwise(document: LicenseDocument, folder: Path) -> list[int]:
    """Return the works whose records beside a license name another one than this, for its work."""
    from viz.domain.units import hex_of
    from viz.services.work_records import records_in

    return [
        int(record.content_id or 0)
        for _, record in records_in(folder)
        if hex_of(record.merkle_root) == document.work.root
        and record.license_hash != document.license_hash
    ]


def _document(license_file: Path | None, content_id: int | None, node: str) -> LicenseDocument:
    """Return the document in a file, or a node's document of a work."""
    from viz.creator.license_files import read_license
    from viz.protocol.license_document.reading import license_from_values

    if license_file is not None:
        return read_license(license_file)
    if content_id is None:
        raise InvalidRequest("name a license file, or the work by --content ID to ask a node")
    return run(get_as(license_from_values, node, f"/license/{content_id}"), logs=False)


def _chain_facts(trusted: Deployment) -> dict[str, Any]:
    return {
        "chain_id": trusted.chain_id,
        "registry": trusted.content_registry,
        "token": trusted.token,
        "token_decimals": trusted.token_decimals,
        "token_symbol": trusted.token_symbol,
    }


async def _compare(
    document: LicenseDocument, content_id: int, rpc_url: str, trusted: Deployment
) -> int:
    """Return when the work was withdrawn, or 0; raise LicenseMismatch naming what differs."""
    from viz.domain.units import ContentId
    from viz.errors import LicenseError
    from viz.services.licensing.license_documents import require_chain_has

    async with own_chain(rpc_url, trusted) as chain:
        state = await chain.content(ContentId(content_id))
        if state is None:
            raise LicenseError(f"there is no work {content_id} on this chain: check the id")
        await require_chain_has(document, state, chain)
        return state.withdrawn_at


def _say_summary(document: LicenseDocument) -> None:
    from viz.protocol.license_forms.facts import sections

    for section in sections(document, None):
        lines(section.title, section.rows)
