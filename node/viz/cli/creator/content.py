"""Run `viz content`: register works, show them, license them."""

from __future__ import annotations

import functools
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
    err,
    guarded,
    lines,
    out,
    password,
    run,
    say,
    show,
)
from viz.cli.creator import account_view, custody, earnings, owner
from viz.cli.creator.certificates import certificates
from viz.cli.creator.checking import check, near_copies
from viz.cli.creator.enforcing import enforce
from viz.cli.creator.intake import import_work
from viz.cli.creator.noticing import notice
from viz.cli.creator.outcome import tell_done
from viz.cli.creator.sealing import (
    CreditOption,
    CustodianOption,
    LanguageOption,
    SampleOption,
    Sealing,
    custodians_at,
    listing_words,
    not_sealed,
    publish,
    say_sealed,
)
from viz.cli.creator.terms import terms_in_words
from viz.cli.creator.work_search import search
from viz.cli.http import LOCAL_NODE, NodeUrl
from viz.cli.operator.licensing import license_work
from viz.cli.own_chain import (
    LOCAL_CHAIN,
    CreatorRpcOption,
    Direct,
    LicenseFileOption,
    chain_if_given,
    own_chain,
    trusted_deployment,
)
from viz.client.node_address import checked
from viz.domain.display import amount, moment, percent
from viz.errors import InvalidRequest, VizError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eth_account.signers.local import LocalAccount

    from viz.creator.sealed import CustodianNode, ListingWords
    from viz.domain.ports.chain import Deployment
    from viz.protocol.registration import WorkDescription
    from viz.services.work_records import Registration

_NO_RELAY: Final = "another --node, or --direct, which registers by your own transaction"
_NO_CUSTODIAN: Final = (
    "another --custodian, or --offline instead of --custodian: it only registers the work, and "
    "`viz content publish` hands it over later"
)

app = typer.Typer(
    no_args_is_help=True,
    help="Register works, license and sell them, see what they earn, withdraw them.",
)
app.command("license")(license_work)
app.command("import")(import_work)
app.command("check")(check)
app.command("list")(account_view.list_works)
app.command("show")(account_view.show_work)
for _verb in (
    search,
    publish,
    custody.keys,
    owner.terms,
    owner.approve,
    owner.withdraw,
    enforce,
    owner.transfer,
    earnings.royalties,
    earnings.statement,
    custody.end_custody,
    certificates,
    notice,
):
    app.command()(_verb)


@app.command()
@guarded
def register(
    work: WorkPath,
    key: KeyFile,
    node: NodeUrl = LOCAL_NODE,
    license_file: LicenseFileOption = None,
    custodian: CustodianOption = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only register: do not seal, upload or list the work.")
    ] = False,
    credit: CreditOption = "",
    language: LanguageOption = "",
    sample: SampleOption = None,
    direct: Direct = False,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a work and its license on chain: signed and relayed by a node, or --direct.

    The command shows in words what you sign, and asks. A relayed registration costs you no gas. The
    work is then sealed, handed with its key to the custodians, and listed by them: licensed
    trainers get it from there. With --direct, this needs a --custodian. The record, with the salt,
    is written beside the work as <work>.registration.json: keep it. Chain, registry and the token's
    decimals come from the deployment that you trust.
    """
    from viz.chain.keys import load_key_file
    from viz.services.work_records import record_path

    if direct and not rpc:
        rpc = LOCAL_CHAIN
    terms = work / "terms.toml" if work.is_dir() else work
    account = load_key_file(key, password(password_file))
    trusted = trusted_deployment(deployment, folder)
    if offline and custodian:
        raise InvalidRequest("--offline hands nothing over: leave out --offline or --custodian")
    urls = custodian or ([] if offline or direct else [node])
    tell = functools.partial(listing_words, terms, credit=credit, language=language, sample=sample)
    way = _Registering(terms, license_file, account, trusted, yes=yes, quiet=as_json)
    way.folder = folder
    other_way = _NO_CUSTODIAN if custodian else _NO_RELAY
    direct_rpc = rpc if direct else ""
    done, sealed = run(_registered(way, direct_rpc, checked(node), rpc, urls, other_way, tell))
    found = {k: v for k, v in done.to_json().items() if k != "salt"}
    if show(found | {"sealed": sealed}, as_json=as_json):
        return
    what = f"work {done.content_id}: {done.title}"
    tell_done("registered", what, f"the registration of {what}", on_chain=done.on_chain)
    say(f"creator     {done.creator}")
    say(
        f"terms       fee {amount(done.terms.training_fee_units, trusted)}, at least "
        f"{percent(done.terms.min_royalty_bps)} of revenue"
    )
    say(f"record      {record_path(terms.parent / done.file)} (holds the salt: keep it)")
    if sealed is not None:
        say_sealed(sealed)


async def _registered(
    way: _Registering,
    direct_rpc: str,
    node: str,
    rpc: str,
    urls: Sequence[str],
    other_way: str,
    tell: Callable[[str, Mapping[str, Any]], ListingWords],
) -> tuple[Registration, dict[str, Any] | None]:
    """Register, then seal, hand over and list; return the record, and what was done with the work.

    All checks that are possible are made before the registration, which cannot be undone.
    ``other_way``: what to use if one of ``urls`` does not answer.
    """
    described = way.described()
    said = tell(way.account.address, described.license) if urls else None
    way.custodians = await custodians_at(urls, way.trusted, other_way)
    asked = (urls[0] if urls else "") if direct_rpc else node
    way.copies = await near_copies(way.path, described.kind, asked)
    done = await (way.directly(direct_rpc) if direct_rpc else way.relayed(node, rpc))
    if said is None:
        return done, None
    sealing = Sealing(way.account, way.trusted, way.custodians, way.folder)
    try:
        return done, await sealing.publish(way.path, done, said)
    except VizError as error:
        raise type(error)(not_sealed(way.path.parent, error), **error.extensions) from error


class _Registering:
    """Register one work, with the agreement of its creator."""

    def __init__(
        self,
        terms: Path,
        license_file: Path | None,
        account: LocalAccount,
        trusted: Deployment,
        *,
        yes: bool,
        quiet: bool,
    ) -> None:
        self._terms, self.account, self.trusted = terms, account, trusted
        self.custodians: list[CustodianNode] = []
        self.folder: Path | None = None
        # Listed works that share passages, and why none were compared; told before the signature.
        self.copies: tuple[list[tuple[str, object]], str] = [], ""
        self._license = license_file
        self._yes, self._words = yes, err if quiet else out

    async def relayed(self, node: str, rpc_url: str) -> Registration:
        from viz.clock import SystemClock
        from viz.creator import registration
        from viz.domain.ports.chain import DEVELOPMENT_CHAINS

        async with chain_if_given(rpc_url, self.trusted) as chain:
            path, made = self._draft(to_look_up=chain is not None)
            if chain is not None:
                if made.content_id is not None:
                    return await registration.look_up(path, made, chain)
                if made.signed and (known := await registration.find_on_chain(path, made, chain)):
                    return known
            work = await registration.propose(
                made,
                self.trusted,
                node,
                SystemClock(),
                chain,
                development=self.trusted.chain_id in DEVELOPMENT_CHAINS,
            )
            how = [
                ("relayed by", f"{node}, until {moment(work.deadline_s)}; you pay no gas"),
                ("nonce", f"{work.nonce}, {'from the chain' if chain else 'as the node says'}"),
            ]
            self._ask(made, how)
            key = bytes(self.account.key)
            signed = registration.sign_registration(work, self.trusted, key)
            return await registration.hand_in(path, made, signed, node, chain)

    async def directly(self, rpc_url: str) -> Registration:
        from viz.chain.sender import Sender
        from viz.creator import registration

        async with own_chain(rpc_url, self.trusted) as chain:
            path, made = self._draft(to_look_up=True)
            if made.content_id is not None:
                return await registration.look_up(path, made, chain)
            if made.signed and (known := await registration.find_on_chain(path, made, chain)):
                return known
            self._ask(made, [("sent by", "your own transaction; you pay its gas")])
            sender = Sender(chain.rpc, self.account, self.trusted)
            return await registration.register_directly(
                path,
                made,
                sender,
                chain=chain,
                deployment=self.trusted,
                key=bytes(self.account.key),
            )

    @property
    def path(self) -> Path:
        """The work's file."""
        return self._terms.parent / self.described().file

    def described(self) -> WorkDescription:
        """Return the work's description from the terms file and the license document."""
        from viz.creator.license_files import read_described
        from viz.domain.units import parse_address

        creator = parse_address(self.account.address)
        return read_described(self._terms, self._license, self.trusted, creator)

    def _draft(self, *, to_look_up: bool) -> tuple[Path, Registration]:
        from viz.domain.units import parse_address
        from viz.services import work_records

        creator, description = parse_address(self.account.address), self.described()
        path = self._terms.parent / description.file
        earlier = work_records.load_record(path)
        told = earlier is not None and earlier.content_id is not None and not earlier.on_chain
        if to_look_up and told and earlier is not None and earlier.creator == creator:
            return path, earlier
        return path, work_records.draft(path, description, creator)

    def _ask(self, made: Registration, how: list[tuple[str, str]]) -> None:
        from viz.cli.creator.license_questions import tell_license
        from viz.domain.units import hex_of

        tell_license(made.license, self._words)
        rows = [
            ("work", f"{made.title}  ({made.kind}, {made.file})"),
            ("creator", made.creator),
            *terms_in_words(made.terms, self.trusted),
            ("license text", hex_of(made.license_hash)),
            ("chain", str(self.trusted.chain_id)),
            ("registry", self.trusted.content_registry),
            *how,
            *Sealing(self.account, self.trusted, self.custodians, self.folder).rows(),
        ]
        copies, not_compared = self.copies
        if copies:
            lines(
                "These listed works share passages; you may register all the same:",
                copies,
                to=self._words,
            )
        if not_compared:
            lines("Not compared with listed works:", [("why", not_compared)], to=self._words)
        lines("You sign, for anyone to read on the chain:", rows, to=self._words)
        agreed("Register the work on these terms?", yes=self._yes)
