"""Ask a person for the values of a license, and describe the work that it is for."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console

from viz.cli.console import err, lines
from viz.domain.units import parse_address
from viz.errors import InvalidLicense, InvalidRequest, InvalidWork
from viz.given_file import read_given

_MAX_TERMS_BYTES: Final = 64 * 1024
_DAY_S: Final = 86_400
GUIDED: Final = "guided"


def _contact(text: str) -> str:
    from viz.protocol.license_document.model import contact_of

    try:
        return contact_of(text)
    except ValueError as error:
        raise InvalidRequest(f"the contact {error}") from error


class LicenseAnswers:
    """The values of a license: from options, else asked for on a terminal, else an error."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def require(self, given: Mapping[str, str]) -> None:
        """Raise InvalidRequest, naming all options that lack a value, if nobody can be asked."""
        missing = [option for option, value in given.items() if not value]
        if missing and not self._terminal:
            one = len(missing) == 1
            are = "is missing: a license needs it" if one else "are missing: a license needs them"
            raise InvalidRequest(f"{', '.join(missing)} {are}")

    def ask(self, option: str, question: str, given: str, valid: Callable[[str], str] = str) -> str:
        """Return the option's value, or the person's answer, as ``valid`` returns it.

        ``valid`` raises InvalidRequest. A wrong answer is told, and asked for again.
        """
        if given:
            return valid(given)
        if not self._terminal:
            raise InvalidRequest(f"{option} is missing: a license needs it")
        while True:
            answer = str(typer.prompt(question, err=True)).strip()
            try:
                return valid(answer)
            except InvalidRequest as error:
                err.print(error.detail, style="red", markup=False)

    def contact(self, given: str) -> str:
        """Return the licensor's address, as a license may have it."""
        return self.ask("--contact", "Contact (mailto:... or https://...)", given, _contact)

    def wallet(self, given: str) -> str:
        """Return the wallet's address in checksummed form."""
        question = "The wallet that registers the work"
        return self.ask("--wallet", question, given, parse_address)

    def preset(self, given: str) -> str:
        """Return a preset's name, or ``guided``; show the presets before asking."""
        from viz.protocol.license_document.presets import PRESETS

        choices = {name: preset.summary for name, preset in PRESETS.items()}
        choices[GUIDED] = "as commercial, and asks for each condition"
        if not given and self._terminal:
            for name, summary in choices.items():
                err.print(f"  {name:<12} {summary}", markup=False)
        name = self.ask("--preset", "Which license to start from", given)
        if name not in choices:
            raise InvalidRequest(f"{name[:40]!r} is not a preset: choose {', '.join(choices)}")
        if name == GUIDED and not self._terminal:
            raise InvalidRequest("--preset guided asks on a terminal: here choose another preset")
        return name

    def guide(self, values: dict[str, Any]) -> dict[str, Any]:
        """Ask for each condition of a license, proposing the present values; return all values.

        An answer that no license may have is told, and asked for again.
        """
        from viz.protocol.license_document.model import EFFECTS

        rights, limits = values["rights"], values["limits"]
        end, excerpts = values["exit"], rights["excerpts"]

        def word(field: str, question: str) -> None:
            self._until_valid(values, field, lambda old: self._word(question, old))

        def number(field: str, question: str, unit: int = 1) -> None:
            self._until_valid(values, field, lambda old: unit * self._number(question, old // unit))

        # Of what nobody owns, nobody can reserve or limit a use, or ask for pay.
        owned = values["work"]["acquired"] != "public-domain"
        if owned:
            word("limits.field", "For: any, non-commercial or research")
            word("money.training_fee", "Fee of a grant, in tokens")
            number(
                "money.min_royalty_bps",
                "Least royalty, in 1/100 of a per cent of an adapter's revenue",
            )
        number("limits.grant_s", "Days that a grant lasts (0: without end)", _DAY_S)
        limits["approval_required"] = self._yes(
            "Do you approve each trainer?", limits["approval_required"]
        )
        if owned:
            excerpts["permitted"] = self._yes("May answers quote the work?", excerpts["permitted"])
            number(
                "rights.excerpts.max_tokens", "Longest run that an adapter may repeat, in tokens"
            )
            rights["compose"] = self._yes("May it be used with other adapters?", rights["compose"])
            rights["export"] = self._yes("May its plain weights be handed on?", rights["export"])
            self._until_valid(values, "limits.territory", lambda _: self._places())
        number(
            "exit.revocation_class",
            "A withdrawal: 0 changes no grant, 1 stops new adapters, 2 retires adapters",
        )
        end["effect"] = {int(key): name for key, name in EFFECTS.items()}.get(
            end["revocation_class"], end["effect"]
        )
        number("exit.notice_s", "Notice period in days", _DAY_S)
        return values

    def _until_valid(
        self, values: dict[str, Any], field: str, answer: Callable[[Any], object]
    ) -> None:
        """Set a field to the answer, given the proposed value, until a license may have it."""
        from viz.protocol.license_document.reading import license_from_values

        *above, name = field.split(".")
        table = values
        for each in above:
            table = table[each]
        proposed = table[name]
        while True:
            table[name] = answer(proposed)
            try:
                license_from_values(values)
            except InvalidLicense as error:
                if str(error.extensions.get("field")).startswith(field):
                    err.print(error.detail, style="red", markup=False)
                    continue
            return

    def _places(self) -> list[str]:
        places = self._word("Countries, such as DE PT (-: worldwide)", "-")
        return [] if places == "-" else places.replace(",", " ").split()

    def _word(self, question: str, proposed: str) -> str:
        return str(typer.prompt(question, default=proposed, err=True)).strip()

    def _number(self, question: str, proposed: int) -> int:
        return int(typer.prompt(question, default=proposed, type=int, err=True))

    def _yes(self, question: str, proposed: bool) -> bool:
        return bool(typer.confirm(question, default=proposed, err=True))

    def today(self) -> str:
        """Return the date in UTC."""
        return datetime.now(UTC).date().isoformat()


def tell_license(values: Mapping[str, Any], to: Console) -> None:
    """Print the license document that a person is about to sign, if it is a document."""
    from viz.protocol.license_document.reading import is_license_document, license_from_values
    from viz.protocol.license_forms.facts import sections

    if is_license_document(values):
        for section in sections(license_from_values(values), None):
            lines(section.title, section.rows, to=to)


def file_and_kind(work: Path) -> tuple[Path, str]:
    """Return a work's file and kind, from a folder's terms.toml or from the file's suffix."""
    found = _described(work) if work.is_dir() or work.suffix == ".toml" else {}
    if found:
        parent = work if work.is_dir() else work.parent
        return parent / str(found["file"]), str(found["kind"])
    from viz.creator.license_files import KINDS

    kind = KINDS.get(work.suffix)
    if kind is None:
        raise InvalidWork(
            f"{work} is not a work: name a folder with a terms.toml, or a file whose name ends in "
            f"{', '.join(KINDS)}"
        )
    return work, kind


def described(work: Path, name: str) -> str:
    """Return a text in a folder's terms.toml; empty if there is none, or for a file."""
    found = _described(work) if work.is_dir() or work.suffix == ".toml" else {}
    return str(found.get(name, ""))


def work_of(work: Path, title: str) -> dict[str, Any]:
    """Return the title and the digests of a work, as they stand in a license."""
    from viz.creator.license_files import digests_of

    named = title or described(work, "title")
    if not named:
        raise InvalidRequest("--title is missing: a license names its work")
    digests = digests_of(*file_and_kind(work))
    return {"title": named, "sha256": digests.sha256, "root": digests.root}


def _described(work: Path) -> dict[str, Any]:
    """Return title, kind and file from a terms file; the license replaces the rest."""
    path = work / "terms.toml" if work.is_dir() else work
    if not path.exists():
        raise InvalidWork(
            f"there is no terms file {path}: give the work's file itself and --title, or write "
            "title, kind and file into it"
        )
    raw = read_given(path, _MAX_TERMS_BYTES, InvalidWork)
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidWork(f"{path} is not TOML: {error}") from error
    missing = [name for name in ("title", "kind", "file") if not isinstance(values.get(name), str)]
    if missing:
        raise InvalidWork(f"{path} lacks {missing[0]}: a terms file names title, kind and file")
    return values


def publication(url: str, path: str, content_id: int | None) -> Any:
    """Return where a license will be published; raise InvalidRequest for an invalid URL or path."""
    from urllib.parse import urlsplit

    from viz.protocol.license_forms.place import LicensePlace

    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("https", "http") and bool(parts.hostname)
        fits = fits and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        fits = False
    if not (fits and url.isascii() and url.isprintable() and not set(url) & set(" \"'<>\\")):
        raise InvalidRequest(f"{url[:80]!r} is not an https URL: write --url https://host/folder")
    if not (path.startswith("/") and path.isascii() and path.isprintable() and " " not in path):
        raise InvalidRequest(f"{path[:80]!r} is not a path: write --path /books/keeper/")
    return LicensePlace(path, url.rstrip("/"), content_id)
