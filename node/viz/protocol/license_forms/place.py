"""Define where a license is published: the URLs that its forms refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viz.protocol.license_document.model import LicenseDocument


@dataclass(frozen=True, slots=True)
class LicensePlace:
    """Where the work is published, and where the forms of its license are.

    ``work_path`` is a path on the work's site, as in robots.txt (RFC 9309): ``*`` stands for any
    characters and ``$`` for the end. ``forms_url`` is the URL of a folder, without a slash at its
    end. ``withdrawn_at`` is the time of the withdrawal, 0 if there is none.
    """

    work_path: str
    forms_url: str
    content_id: int | None = None
    withdrawn_at: int = 0

    def form(self, name: str) -> str:
        """Return the URL of a form."""
        return f"{self.forms_url}/{name}"


def work_name(document: LicenseDocument) -> str:
    """Return the work's global name: a URI of its file's digest (RFC 6920)."""
    import base64

    digest = bytes.fromhex(document.work.sha256.removeprefix("0x"))
    return f"ni:///sha-256;{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
