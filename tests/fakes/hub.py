"""A local mirror of the Hugging Face hub's API: listings with digests, and files with ranges.

It answers what ``viz.basemodel.hub`` asks, as huggingface.co does, and can fail as a hub fails. A
server on a thread, because the client under test is a child process.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "tiny-lab/Tiny-1M"
SOURCE = f"{REPOSITORY}@{COMMIT}"


@dataclass
class FakeHub:
    """What the hub has, how it fails, and what it was asked."""

    directory: Path
    url: str = ""
    # Names whose bytes are not those of the listing.
    damaged: set[str] = field(default_factory=set)
    # After so many bytes of weights in all, each connection is cut; None: never.
    cut_after: int | None = None
    # An error for every request: (status, the hub's code).
    refuses: tuple[int, str] | None = None
    sha: str = COMMIT
    digests: bool = True
    extra: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def files(self) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in sorted(self.directory.iterdir())}
        return found | self.extra

    def listing(self) -> dict[str, Any]:
        return {
            "id": REPOSITORY,
            "sha": self.sha,
            "siblings": [self._listed(name, raw) for name, raw in self.files().items()],
        }

    def _listed(self, name: str, raw: bytes) -> dict[str, Any]:
        told: dict[str, Any] = {"rfilename": name, "size": len(raw)}
        if not self.digests:
            return told
        blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
        told["blobId"] = blob
        if name.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(raw).hexdigest()
            told["lfs"] = {"sha256": digest, "size": len(raw), "pointerSize": 130}
        return told


@contextmanager
def served_hub(directory: Path) -> Iterator[FakeHub]:
    """Serve the files of a model directory as one commit of one model, until the end."""
    hub = FakeHub(directory)

    class Handler(_Handler):
        of = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    of: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  the base's name
        pass

    def do_GET(self) -> None:
        hub, asked = self.of, self.path.partition("?")[0]
        hub.asked.append((asked, self.headers.get("Range")))
        if hub.refuses is not None:
            self._refuse(*hub.refuses)
        elif asked == f"/api/models/{REPOSITORY}/revision/{COMMIT}":
            self._answer(json.dumps(hub.listing()).encode(), {})
        elif asked.startswith("/api/models/"):
            known = asked.startswith(f"/api/models/{REPOSITORY}/")
            self._refuse(404, "RevisionNotFound" if known else "RepoNotFound")
        elif asked.startswith(prefix := f"/{REPOSITORY}/resolve/{COMMIT}/"):
            self._file(asked.removeprefix(prefix))
        else:
            self._refuse(404, "EntryNotFound")

    def _file(self, name: str) -> None:
        hub = self.of
        raw = hub.files().get(name)
        if raw is None:
            self._refuse(404, "EntryNotFound")
            return
        if name in hub.damaged:
            raw = raw[:-1] + bytes([raw[-1] ^ 1])
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        headers = {"ETag": f'"{hashlib.sha256(raw).hexdigest()}"', "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
        body = raw[start:]
        if hub.cut_after is not None and name.endswith(".safetensors"):
            self._head(206 if asked else 200, len(body), headers)
            body = body[: max(0, hub.cut_after - hub.sent)]
            self.wfile.write(body)
            hub.sent += len(body)
            self.close_connection = True
            return
        hub.sent += len(body) if name.endswith(".safetensors") else 0
        self._answer(body, headers, 206 if asked else 200)

    def _answer(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self._head(status, len(body), headers)
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(b"{}", {"X-Error-Code": code, "X-Error-Message": f"fake: {code}"}, status)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        kept = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        for name, value in (kept | headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()
