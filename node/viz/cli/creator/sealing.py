"""Seal registered works, hand them to custodians, and publish their listings."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    KeyFile,
    PasswordFile,
    WorkPath,
    Yes,
    agreed,
    data_dir,
    err,
    guarded,
    lines,
    out,
    password,
    run,
    say,
    show,
)
from viz.cli.http import LOCAL_NODE, NodeUrl
from viz.cli.own_chain import (
    CreatorRpcOption,
    LicenseFileOption,
    chain_if_given,
    trusted_deployment,
)
from viz.client.node_address import checked, origin_of
from viz.domain.display import counted
from viz.errors import CustodyFull, InvalidRequest, InvalidWork, LicenseError, VizError
from viz.given_file import read_given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eth_account.signers.local import LocalAccount

    from viz.creator.sealed import CustodianNode, ListingWords, SealedWork
    from viz.domain.ports.chain import Deployment
    from viz.domain.units import ContentId
    from viz.protocol.registration import WorkWords
    from viz.services.work_records import Registration

CustodianOption = Annotated[
    list[str] | None,
    typer.Option(
        "--custodian",
        help="A node that holds the sealed work and its key for you; repeat it. Default: --node.",
        show_default=False,
    ),
]
CreditOption = Annotated[
    str, typer.Option(help="Whom to credit. Default: as in terms.toml or the license.")
]
LanguageOption = Annotated[
    str, typer.Option(help="The work's language, such as en. Default: as in terms.toml or license.")
]
SampleOption = Annotated[
    Path | None, typer.Option(help="A text file to show to everybody, as a sample of the work.")
]
UNDETERMINED: Final = "und"  # BCP 47
_MAX_TEXT_BYTES: Final = 64 * 1024
# A custodian may get the registration's block later; then it knows no such work.
_HANDING_TRIES: Final = 5


class Sealing:
    """Seal one work for its owner, hand it over and list it."""

    def __init__(
        self,
        account: LocalAccount,
        trusted: Deployment,
        custodians: Sequence[CustodianNode],
        folder: Path | None,
    ) -> None:
        """``folder`` is the data folder, which keeps the custodians of each work."""
        self._key, self._folder = bytes(account.key), data_dir(folder)
        self._trusted, self._custodians = trusted, custodians

    def rows(self) -> list[tuple[str, str]]:
        """Return in words what the owner agrees to."""
        return [
            ("custodian", f"{each.node}  at {each.url}, gets the sealed work and its key")
            for each in self._custodians
        ]

    async def _hand_over(
        self, made: SealedWork, content_id: ContentId, custodian: CustodianNode
    ) -> None:
        from viz.creator import sealed
        from viz.creator.until_seen import until_seen

        refusals: list[LicenseError] = []

        async def once() -> bool:
            try:
                await sealed.hand_over(made, content_id, custodian, self._trusted, self._key)
            except LicenseError as error:
                refusals.append(error)
                return False
            return True

        if not await until_seen(once, _HANDING_TRIES):
            raise refusals[-1]

    async def publish(
        self, work: Path, record: Registration, words: ListingWords
    ) -> dict[str, Any]:
        """Seal, hand over and list the work; return what was done, as JSON values.

        ``unlisted`` are the custodians that may hold the work, and that the listing does not name.
        An error says which custodians hold the work already.
        """
        from viz.clock import SystemClock
        from viz.creator import sealed
        from viz.creator.known_custodians import KnownCustodians
        from viz.creator.likeness import content_code_of
        from viz.protocol.listing import CustodianAddress

        assert record.content_id is not None
        known = KnownCustodians(self._folder, self._trusted, record.content_id)
        known.begin(sealed.listed_custodians(work, self._trusted, record.content_id))
        before = known.all()
        held = {each.node for each in before}
        made = await asyncio.to_thread(sealed.seal_work, work, record)
        for number, custodian in enumerate(self._custodians):
            try:
                known.add([CustodianAddress(custodian.node, custodian.url)])
                await self._hand_over(made, record.content_id, custodian)
            except VizError as error:
                refused = isinstance(error, CustodyFull | LicenseError)
                if refused and custodian.node not in held:
                    with suppress(VizError):  # it then stays known, and the refusal is told
                        known.drop(custodian.node)
                raise _holding(error, self._custodians[:number]) from error
        document = sealed.listing_of(
            record,
            made,
            words,
            self._custodians,
            self._trusted,
            size_bytes=(await asyncio.to_thread(work.stat)).st_size,
            now_s=SystemClock().now_s(),
            iscc=await asyncio.to_thread(content_code_of, work, record.kind),
        )
        named = {each.node for each in self._custodians}
        signed = sealed.sign_listing(document, self._trusted, self._key)
        try:
            await sealed.publish_listing(work, signed, [each.url for each in self._custodians])
        except VizError as error:
            raise _holding(error, self._custodians) from error
        return {
            "contentId": int(record.content_id),
            "cid": made.cid,
            "sizeBytes": made.size_bytes,
            "sealed": str(made.path),
            "custodians": [{"node": each.node, "url": each.url} for each in self._custodians],
            "unlisted": [
                {"node": each.node, "url": each.url} for each in before if each.node not in named
            ],
        }


def _holding(error: VizError, custodians: Sequence[CustodianNode]) -> VizError:
    """Return the error, with the custodians that accepted the work before it."""
    if not custodians:
        return error
    told = ", ".join(f"{each.node} at {each.url}" for each in custodians)
    return type(error)(
        f"{error.detail}. Key and sealed work are held by {told}", **error.extensions
    )


async def custodians_at(
    urls: Sequence[str], trusted: Deployment, other_way: str = ""
) -> list[CustodianNode]:
    """Ask each custodian once for its address, before anything is signed.

    ``other_way`` is what the person can do if one does not answer.
    """
    from viz.creator.sealed import custodian_at

    origins = dict.fromkeys(origin_of(url) for url in urls)
    return [await custodian_at(each, trusted, other_way) for each in origins]


def read_words(terms: Path) -> WorkWords:
    """Return the description of the work in a terms file; raise InvalidWork."""
    from viz.protocol.registration import words_of

    return words_of(_text_in(terms, InvalidWork))


def _text_in(path: Path, error: type[VizError]) -> str:
    """Return the text of a short file; raise ``error``."""
    try:
        return read_given(path, _MAX_TEXT_BYTES, error).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{path} is not UTF-8: {fault}. Save it as UTF-8") from fault


def listing_words(
    terms: Path,
    creator: str,
    licensed: Mapping[str, Any],
    *,
    credit: str,
    language: str,
    sample: Path | None,
) -> ListingWords:
    """Return the texts of the listing: as given, else from terms.toml, else from the license.

    If none of them names anybody, the work is credited to its creator's address.
    """
    from viz.creator.sealed import ListingWords

    words = read_words(terms)
    said_by = licensed.get("licensor") if isinstance(licensed.get("licensor"), dict) else {}
    said_of = licensed.get("work") if isinstance(licensed.get("work"), dict) else {}
    shown = _text_in(sample, InvalidRequest) if sample else ""
    found_credit = credit or words.credit or str((said_by or {}).get("name", ""))
    found_language = language or words.language or str((said_of or {}).get("language", ""))
    return ListingWords(found_credit or creator, found_language or UNDETERMINED, shown.strip())


def say_sealed(done: dict[str, Any]) -> None:
    """Print what was sealed, where it is held, and that the key stays with its owner too."""
    say(f"sealed      {done['cid']}, {counted(done['sizeBytes'], 'byte')}, in {done['sealed']}")
    for custodian in done["custodians"]:
        say(f"held by     {custodian['node']}  at {custodian['url']}, listed there")
    for custodian in done["unlisted"]:
        say(
            f"not listed  {custodian['node']}  at {custodian['url']}, which may still hold it: "
            "name it too with --custodian, or end that with `viz content end-custody "
            f"{done['contentId']} --custodian {custodian['url']}`"
        )
    say(f"its key     {done['sealed']}.key (keep it: whoever has it reads the work)")


@guarded
def publish(
    work: WorkPath,
    key: KeyFile,
    custodian: CustodianOption = None,
    node: NodeUrl = LOCAL_NODE,
    credit: CreditOption = "",
    language: LanguageOption = "",
    sample: SampleOption = None,
    license_file: LicenseFileOption = None,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Seal a registered work, hand it and its key to custodians, and publish its listing.

    Run it again for more custodians, after a change of terms (with --license), or with other texts:
    the newest listing counts, and it names only the custodians of this command. Owner, work and
    license are first compared with the chain at --rpc, else with the first custodian's answer.
    """
    from viz.chain.keys import load_key_file
    from viz.creator.license_files import read_license
    from viz.creator.sealed import registered_bytes
    from viz.services.work_records import load_record

    terms = work / "terms.toml" if work.is_dir() else work
    account = load_key_file(key, password(password_file))
    trusted = trusted_deployment(deployment, folder)
    path = terms.parent / read_words(terms).file
    record = load_record(path)
    if record is None or record.content_id is None:
        raise InvalidRequest(
            f"{path} is not registered: register it first with `viz content register {work}`"
        )
    registered_bytes(path, record)
    if license_file is not None:
        document = read_license(license_file)
        record = replace(record, license=document.to_json(), license_hash=document.license_hash)
    words = listing_words(
        terms, record.creator, record.license, credit=credit, language=language, sample=sample
    )
    urls = custodian or [node]
    sealing_of = (account, trusted, folder)
    made = run(_publish(path, record, words, sealing_of, urls, rpc, yes=yes, quiet=as_json))
    if not show(made, as_json=as_json):
        say_sealed(made)


async def _publish(
    path: Path,
    record: Registration,
    words: ListingWords,
    sealing_of: tuple[LocalAccount, Deployment, Path | None],
    urls: Sequence[str],
    rpc: str,
    *,
    yes: bool,
    quiet: bool,
) -> dict[str, Any]:
    from viz.creator.works import ChainWorks, NodeWorks, require_registered
    from viz.domain.units import parse_address

    account, trusted, folder = sealing_of
    sealing = Sealing(account, trusted, await custodians_at(urls, trusted), folder)
    async with chain_if_given(rpc, trusted) as chain:
        works = NodeWorks(checked(urls[0])) if chain is None else ChainWorks(chain)
        owner = parse_address(account.address)
        await require_registered(
            record, owner, works, lambda why: err.print(why, markup=False, soft_wrap=True)
        )
    shown = counted(len(words.sample), "character")
    rows = [
        ("work", f"{record.content_id}: {record.title}"),
        ("credit", words.credit),
        ("language", words.language),
        ("sample", f"{shown}, for everybody" if words.sample else "none"),
        *sealing.rows(),
    ]
    lines("You sign, for anyone to read:", rows, to=err if quiet else out)
    agreed("Hand the sealed work over, and list it?", yes=yes)
    return await sealing.publish(path, record, words)


def not_sealed(work: Path, error: VizError) -> str:
    """Say what to do if the work is registered but could not be sealed or listed."""
    return (
        f"the work is registered, but it is not listed yet ({error.detail}): do not "
        f"register it again; continue with `viz content publish {work}`"
    )
