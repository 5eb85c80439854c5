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
_MARKS: Final = re.compile(r"([\\`*_\[\]<>#!|~&])")
_STYLE: Final = (
    "body{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "th{text-align:left;vertical-align:top;padding-right:1rem;font-weight:600}"
    "td{overflow-wrap:anywhere;white-space:pre-line}"
)


def summary_markdown(document: LicenseDocument, where: LicensePlace) -> str:
    """Return the summary as Markdown (CommonMark with tables)."""
    parts = [f"# License: {in_markdown(visible(document.work.title))}", _NOTE]
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
    body = [f"<h1>License: <bdi>{title}</bdi></h1>", f"<p>{_NOTE}</p>"]
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
        f"<title>License: {title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def in_markdown(text: str) -> str:
    """Return the text in one line, with Markdown's markup escaped."""
    return _MARKS.sub(r"\\\1", text).replace("\t", " ").replace("\n", "<br>")
