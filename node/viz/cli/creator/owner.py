"""Run the commands of a work's owner: `viz content terms | approve | withdraw | transfer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    KeyFile,
    PasswordFile,
    WorkId,
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
)
from viz.cli.creator.outcome import shown, signatures_still_out, tell_done
from viz.cli.creator.terms import WITHDRAWALS, changed, terms_in_words
from viz.cli.http import LOCAL_NODE, NodeUrl
from viz.cli.own_chain import (
    LOCAL_CHAIN,
    CreatorRpcOption,
    Direct,
    LicenseFileOption,
    chain_if_given,
    own_chain,
    required_rpc,
    trusted_deployment,
)
from viz.client.node_address import checked
from viz.domain.display import duration, moment
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from viz.chain.contracts import Chain
    from viz.creator.owner import ActionDone, ActionMaker
    from viz.creator.work_view import WorkView
    from viz.domain.ports.chain import Deployment
    from viz.domain.units import Address, ContentId
    from viz.protocol.registration import WorkDescription

Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that all these commands share, and the trusted deployment."""

    account: LocalAccount
    trusted: Deployment
    node: str
    rpc: str
    folder: Path
    direct: bool
    yes: bool
    quiet: bool

    @property
    def owner(self) -> Address:
        from viz.domain.units import parse_address

        return parse_address(str(self.account.address))


def _asked(
    key: Path,
    password_file: Path | None,
    node: str,
    rpc: str,
    folder: Path | None,
    deployment: Path | None,
    *,
    direct: bool,
    yes: bool,
    quiet: bool,
) -> _Asked:
    from viz.chain.keys import load_key_file

    account = load_key_file(key, password(password_file))
    trusted = trusted_deployment(deployment, folder)
    rpc = rpc or (LOCAL_CHAIN if direct else "")
    place = data_dir(folder)
    return _Asked(account, trusted, checked(node), rpc, place, direct, yes, quiet)


@guarded
def terms(
    content_id: WorkId,
    work: WorkPath,
    key: KeyFile,
    license_file: LicenseFileOption = None,
    node: NodeUrl = LOCAL_NODE,
    direct: Direct = False,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Offer other terms to new grants: signed and relayed by a node, or --direct.

    Existing grants keep their terms. A new record is written beside the work. The earlier one is
    kept, because trainers with an earlier grant need its license.
    """
    from viz.cli.creator.license_questions import tell_license
    from viz.creator.license_files import read_described
    from viz.creator.owner import renew_record, require_record_of
    from viz.domain.units import ContentId

    asked = _asked(
        key, password_file, node, rpc, folder, deployment, direct=direct, yes=yes, quiet=as_json
    )
    file = work / "terms.toml" if work.is_dir() else work
    new = read_described(file, license_file, asked.trusted, asked.owner)
    require_record_of(file.parent / new.file, ContentId(content_id))
    tell_license(new.license, err if as_json else out)
    done = run(_set_terms(asked, content_id, new))
    kept = renew_record(file.parent / new.file, done.content_id, new)
    if not shown(done, as_json, record=str(kept) if kept else None):
        what = f"work {content_id} on these terms from now on"
        tell_done("offered", what, f"the terms of work {content_id}", on_chain=done.on_chain)
        if kept:
            say(f"record   {kept} (holds the salt and the new license: keep it)")
        say("listing  nodes drop the earlier one: run `viz content publish` if the work was listed")


async def _set_terms(asked: _Asked, number: int, new: WorkDescription) -> ActionDone:
    from viz.creator.owner import require_standing
    from viz.domain.typed_data import SetTerms
    from viz.domain.units import ContentId, hex_of

    content_id = ContentId(number)
    terms_hash = new.terms.terms_hash(new.license_hash)

    def rows(view: WorkView, chain: Chain | None) -> Rows:
        require_standing(view.content, "change of terms")
        if view.content.terms_hash == terms_hash:
            raise InvalidRequest(
                f"work {number} is offered on exactly these terms already: nothing to change"
            )
        words = terms_in_words(new.terms, asked.trusted)
        before = terms_in_words(view.offered.terms, asked.trusted) if view.offered else []
        told = dict(before)
        return [
            *((name, changed(said, told.get(name))) for name, said in words),
            ("license text", hex_of(new.license_hash)),
            ("for whom", "new grants; who has a grant keeps its terms"),
        ]

    def make(nonce: int, deadline_s: int) -> SetTerms:
        return SetTerms(content_id, new.license_hash, new.terms, nonce, deadline_s)

    return await _act(asked, content_id, make, rows, "Offer the work on these terms?")


@guarded
def approve(
    content_id: WorkId,
    trainer: Annotated[str, typer.Argument(help="The trainer's address.")],
    key: KeyFile,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="End an approval; existing grants stay.")
    ] = False,
    node: NodeUrl = LOCAL_NODE,
    direct: Direct = False,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Approve a trainer, if the work's terms require that: signed and relayed, or --direct."""
    asked = _asked(
        key, password_file, node, rpc, folder, deployment, direct=direct, yes=yes, quiet=as_json
    )
    done = run(_approve(asked, content_id, trainer, allowed=not revoke))
    if not shown(done, as_json):
        word = "no longer approved" if revoke else "approved"
        what = f"{trainer} for work {content_id}"
        sent = f"the {'end of the ' if revoke else ''}approval of {what}"
        tell_done(word, what, sent, on_chain=done.on_chain)


async def _approve(asked: _Asked, number: int, trainer_text: str, *, allowed: bool) -> ActionDone:
    from viz.creator.owner import require_standing
    from viz.domain.typed_data import Approve
    from viz.domain.units import ZERO_ADDRESS, ContentId, parse_address

    content_id, trainer = ContentId(number), parse_address(trainer_text)
    if trainer == ZERO_ADDRESS:
        raise InvalidRequest("the zero address is nobody's: give the trainer's own address")

    def rows(view: WorkView, chain: Chain | None) -> Rows:
        if allowed:
            require_standing(view.content, "approval")
        found = [("trainer", str(trainer)), ("may license", "yes" if allowed else "no more")]
        if view.offered and not view.offered.terms.approval_required:
            found.append(("note", "the terms ask for no approval: anybody who pays may license"))
        if not allowed:
            found.append(("stays", "a grant that the trainer has already"))
        return found

    def make(nonce: int, deadline_s: int) -> Approve:
        return Approve(content_id, trainer, allowed, nonce, deadline_s)

    question = "Approve this trainer?" if allowed else "End the approval of this trainer?"
    return await _act(asked, content_id, make, rows, question)


@guarded
def withdraw(
    content_id: WorkId,
    key: KeyFile,
    node: NodeUrl = LOCAL_NODE,
    direct: Direct = False,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a work for ever: no new grant from now on; signed and relayed, or --direct.

    The terms of each grant decide what happens to existing grants and adapters. The command shows
    this before you agree.
    """
    asked = _asked(
        key, password_file, node, rpc, folder, deployment, direct=direct, yes=yes, quiet=as_json
    )
    done = run(_withdraw(asked, content_id))
    if not shown(done, as_json):
        sent = f"the withdrawal of work {content_id}"
        tell_done("withdrawn", f"work {content_id}, for ever", sent, on_chain=done.on_chain)


async def _withdraw(asked: _Asked, number: int) -> ActionDone:
    from viz.creator.owner import require_standing
    from viz.domain.typed_data import Withdraw
    from viz.domain.units import ContentId

    content_id = ContentId(number)

    def rows(view: WorkView, chain: Chain | None) -> Rows:
        require_standing(view.content, "second withdrawal")
        found = [("from now on", "no new grant, and no change of terms")]
        if view.offered:
            offered = view.offered.terms
            found += [
                ("who licensed it", "keeps the terms of its grant; on the present ones:"),
                ("class", WITHDRAWALS.get(offered.revocation_class, "unknown")),
                (
                    "notice period",
                    duration(offered.notice_s) if offered.notice_s else "none: at once",
                ),
            ]
        return [*found, ("undone", "never: a withdrawal is for ever")]

    def make(nonce: int, deadline_s: int) -> Withdraw:
        return Withdraw(content_id, nonce, deadline_s)

    return await _act(asked, content_id, make, rows, "Withdraw the work for ever?")


async def _act(
    asked: _Asked, content_id: ContentId, make: ActionMaker, rows: Any, question: str
) -> ActionDone:
    """Show what is signed, ask, then relay it through a node or send it, as chosen."""
    from viz.clock import SystemClock
    from viz.creator import owner as owners
    from viz.creator.works import ChainWorks, NodeWorks
    from viz.domain.ports.chain import DEVELOPMENT_CHAINS

    async with chain_if_given(asked.rpc, asked.trusted) as chain:
        view = await (ChainWorks(chain) if chain else NodeWorks(asked.node)).work(content_id)
        owners.require_owner(content_id, view.content, asked.owner)
        told = rows(view, chain)
        desk = owners.OwnerDesk(
            asked.trusted,
            asked.folder,
            SystemClock(),
            chain,
            development=asked.trusted.chain_id in DEVELOPMENT_CHAINS,
        )
        if asked.direct:
            proposed = await owners.propose_directly(desk, asked.owner, make)
            way = [("sent by", "your own transaction; you pay its gas")]
        else:
            proposed = await owners.propose(desk, asked.owner, make, asked.node)
            until, nonce = moment(proposed.action.deadline_s), proposed.action.nonce
            whose = "from the chain" if chain else "as the node says"
            way = [
                ("relayed by", f"{asked.node}, until {until}; you pay no gas"),
                ("nonce", f"{nonce}, {whose}"),
            ]
        await owners.require_news(proposed, chain, asked.node)
        out_before = signatures_still_out(proposed)
        _ask(asked, content_id, [*told, *_where(asked), *way, *out_before], question)
        key = bytes(asked.account.key)
        if not asked.direct:
            return await owners.relay(desk, proposed, key, asked.node)
        from viz.chain.sender import Sender

        assert chain is not None
        sender = Sender(chain.rpc, asked.account, asked.trusted)
        return await owners.send(desk, proposed, key, sender)


def _where(asked: _Asked) -> Rows:
    return [
        ("chain", str(asked.trusted.chain_id)),
        ("registry", asked.trusted.content_registry),
    ]


def _ask(asked: _Asked, content_id: ContentId, rows: Rows, question: str) -> None:
    head = [("work", str(content_id)), ("owner", str(asked.owner))]
    title = "You sign, for anyone to read on the chain:"
    lines(title, [*head, *rows], to=err if asked.quiet else out)
    agreed(question, yes=asked.yes)


@guarded
def transfer(
    content_id: WorkId,
    to: Annotated[str, typer.Argument(help="The new owner's address.")],
    key: KeyFile,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    yes: Yes = False,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a work, and what it will earn, to another owner, by your own transaction with gas.

    The transfer is ERC-721's, which has no signed form, so no node can relay it.
    """
    trusted = trusted_deployment(deployment, folder)
    rpc = required_rpc(rpc, trusted, "a transfer is your own transaction, and the owner")
    asked = _asked(
        key, password_file, LOCAL_CHAIN, rpc, folder, deployment,
        direct=True, yes=yes, quiet=as_json,
    )  # fmt: skip
    done = run(_transfer(asked, content_id, to))
    if not shown(done, as_json, owner=to):
        sent = f"the transfer of work {content_id}"
        tell_done("transferred", f"work {content_id} to {to}", sent, on_chain=done.on_chain)


async def _transfer(asked: _Asked, number: int, to_text: str) -> ActionDone:
    from viz.chain.sender import Sender
    from viz.creator import owner as owners
    from viz.creator.works import ChainWorks
    from viz.domain.units import ContentId, parse_address

    content_id, to = ContentId(number), parse_address(to_text)
    async with own_chain(asked.rpc, asked.trusted) as chain:
        view = await ChainWorks(chain).work(content_id)
        owners.require_owner(content_id, view.content, asked.owner)
        owners.require_buyer(to, asked.owner, asked.trusted)
        rows = [
            ("new owner", str(to)),
            ("goes with it", "royalties that are not distributed yet, and all later ones"),
            ("ends", "your approvals of trainers, your right to change terms and to withdraw"),
            *_where(asked),
            ("sent by", "your own transaction; you pay its gas"),
        ]
        _ask(asked, content_id, rows, "Give the work to this owner?")
        sender = Sender(chain.rpc, asked.account, asked.trusted)
        sent = await owners.transfer(content_id, to, sender, chain)
        return owners.ActionDone(content_id, sent.hash, on_chain=True)
