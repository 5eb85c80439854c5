"""Write a license's one-page summary, as Markdown and as HTML.

The page says that the document is binding, not the summary. Every text is escaped; the HTML page
runs no script and loads nothing. Names are isolated runs of text, so that right-to-left letters in
a name cannot reorder the text around it.
"""

from __future__ import annotations

import re
from html import escape
from typing import Final

from viz.domain.display import visible
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.facts import sections
from viz.protocol.license_forms.place import LicensePlace

_NOTE: Final = "This page explains the license. The document with the hash below is what binds."
_FREE_NOTE: Final = (
    "Nobody owns this work, and nobody needs a permission to use it. This page explains its "
    "registration. The document with the hash below is what was registered."
)
_MARKS: Final = re.compile(r"([\\`*_\[\]<>#!|~&])")
_STYLE: Final = (
    "body{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "th{text-align:left;vertical-align:top;padding-right:1rem;font-weight:600}"
    "td{overflow-wrap:anywhere;white-space:pre-line}"
)


def summary_markdown(document: LicenseDocument, where: LicensePlace) -> str:
    """Return the summary as Markdown (CommonMark with tables)."""
    head, note = _opening(document)
    parts = [f"# {head}: {in_markdown(visible(document.work.title))}", note]
    for section in sections(document, where):
        rows = "\n".join(
            f"| {in_markdown(label)} | {in_markdown(said)} |" for label, said in section.rows
        )
        parts.append(f"## {section.title}\n\n| | |\n|---|---|\n{rows}")
    parts.append(f"The document: <{where.form('license.json')}>")
    return "\n\n".join(parts) + "\n"


def summary_html(document: LicenseDocument, where: LicensePlace) -> str:
    """Return the summary as a self-contained HTML page."""
    title = escape(visible(document.work.title))
    head, note = _opening(document)
    body = [f"<h1>{head}: <bdi>{title}</bdi></h1>", f"<p>{note}</p>"]
    for section in sections(document, where):
        body.append(f"<h2>{escape(section.title)}</h2>\n<table>")
        body += [
            f"<tr><th>{escape(label)}</th><td><bdi>{escape(said)}</bdi></td></tr>"
            for label, said in section.rows
        ]
        body.append("</table>")
    document_url = escape(where.form("license.json"))
    body.append(f'<p>The document: <a href="{document_url}">{document_url}</a></p>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="license" type="application/rsl+xml" href="{escape(where.form("rsl.xml"))}">\n'
        f"<title>{head}: {title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _opening(document: LicenseDocument) -> tuple[str, str]:
    """Return the word before the title, and the sentence below it."""
    return ("Public domain", _FREE_NOTE) if document.in_public_domain else ("License", _NOTE)


def in_markdown(text: str) -> str:
    """Return the text in one line, with Markdown's markup escaped."""
    return _MARKS.sub(r"\\\1", text).replace("\t", " ").replace("\n", "<br>")
