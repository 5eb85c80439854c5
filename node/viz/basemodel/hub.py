"""Fetch a model's files from a Hugging Face hub, at one pinned commit, and verify each.

Owns the notation ``organisation/name@commit``, the choice of files, and the folder of fetched
files. Invariants: a folder appears complete or not at all; every file in it has the digest in the
hub's listing of that commit (sha256 of large files, git's of small ones); only safetensors, JSON
and templates are fetched; an interrupted fetch continues where it stopped. After that the hub is
not asked again. Importing this module does not import the hub's library.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.checkpoint import INDEX, SINGLE
from viz.basemodel.safetensor_file import file_digest
from viz.errors import ModelUnavailable
from viz.process_lock import ProcessLock

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_SPELLED: Final = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(.+))?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHARD: Final = re.compile(r"[\w-]{1,96}\.safetensors")
# Fetched besides the weights, if the model has them.
_SMALL: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_NEEDED: Final = ("config.json", "tokenizer.json", "tokenizer_config.json")
_MAX_SMALL_BYTES: Final = 64 << 20
_MAX_SHARDS: Final = 512
_CALL_TIMEOUT_S: Final = 30.0
# The conversion writes about as much again as the fetched files.
_COPIES: Final = 2


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of a hub (``organisation/name``) at one commit (40 hex digits)."""

    repository: str
    commit: str

    @property
    def name(self) -> str:
        return self.repository.rpartition("/")[2]

    def folder(self, cache_dir: Path) -> Path:
        """Return the folder of the fetched files; it may not exist yet."""
        return cache_dir / "hub" / f"{self.repository.replace('/', '--')}-{self.commit}"


def hub_model(source: str) -> HubModel | None:
    """Return the hub model that ``source`` names; None if it does not have that form.

    Raises ModelUnavailable if it does not name a commit: a branch or a tag may move.
    """
    found = _SPELLED.fullmatch(source)
    if found is None or Path(source).is_dir():
        return None
    repository, revision = found.groups()
    if revision is None or not _COMMIT.fullmatch(revision):
        said = f"names the revision {revision[:60]!r}" if revision else "names no commit"
        raise ModelUnavailable(
            f"base_model {source[:200]} is not a directory here, and as a model of a hub it "
            f"{said}, so its content may change: write {repository}@COMMIT with the 40 digits of a "
            "commit (listed on the model's page under Files and versions)"
        )
    return HubModel(repository, revision)


def fetch(
    model: HubModel, cache_dir: Path, report: Callable[[float], None] = lambda part: None
) -> Path:
    """Return the folder of the model's files; fetch and verify what is missing.

    ``report`` gets the finished fraction, 0 to 1. Blocks as long as the network takes, but gives up
    a connection after 30 seconds without data. Raises ModelUnavailable.
    """
    target = model.folder(cache_dir)
    if target.is_dir():
        return target
    try:
        partial = target.with_name(f".{target.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        with _alone(partial):
            _fetch_all(model, partial, report)
            (partial / _LOCK).unlink()
            partial.rename(target)
    except ModelUnavailable:
        raise
    except Exception as error:
        # The hub's library raises errors of its HTTP library, which is not our dependency.
        raise _unavailable(model, error) from error
    return target


_LOCK: Final = ".lock"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = ProcessLock.take(folder / _LOCK)
    if lock is None:
        raise ModelUnavailable(
            f"another process fetches this model into {folder}: wait until it has ended"
        )
    try:
        yield
    finally:
        lock.release()


def _fetch_all(model: HubModel, folder: Path, report: Callable[[float], None]) -> None:
    listed = _listed(model)
    small = [name for name in _SMALL if name in listed]
    if missing := [name for name in _NEEDED if name not in listed]:
        raise ModelUnavailable(
            f"{model.repository} has no {missing[0]} at this commit: the embedded engine needs it"
        )
    for name in small:
        if (listed[name].size or 0) > _MAX_SMALL_BYTES:
            raise ModelUnavailable(f"{model.repository}: {name} has more than 64 MiB")
    fetched = _Progress(report)
    if INDEX in listed:
        if (listed[INDEX].size or 0) > _MAX_SMALL_BYTES:
            raise ModelUnavailable(f"{model.repository}: {INDEX} has more than 64 MiB")
        _fetch_one(model, listed[INDEX], folder, fetched)
    weights = _weights(model, listed, folder)
    wanted = [listed[name] for name in (*small, *weights)]
    fetched.total = sum(each.size or 0 for each in wanted)
    _require_room(folder, fetched.total)
    for each in wanted:
        _fetch_one(model, each, folder, fetched)


def _listed(model: HubModel) -> Mapping[str, RepoSibling]:
    """Return the files of the commit, by name, with their sizes and digests."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(
        model.repository, revision=model.commit, files_metadata=True, timeout=_CALL_TIMEOUT_S
    )
    if info.sha != model.commit:
        raise ModelUnavailable(
            f"the hub sent commit {str(info.sha)[:40]} of {model.repository} instead of "
            f"{model.commit}: do not use this hub"
        )
    return {each.rfilename: each for each in info.siblings or ()}


def _weights(model: HubModel, listed: Mapping[str, RepoSibling], folder: Path) -> Sequence[str]:
    """Return the files of weights: the shards of the index, or the single file."""
    if INDEX not in listed:
        if SINGLE in listed:
            return (SINGLE,)
        pickled = sorted(name for name in listed if name.endswith((".bin", ".pt", ".pth")))
        raise ModelUnavailable(
            f"{model.repository} has no safetensors weights at this commit"
            + (
                f", only pickles ({pickled[0]}), which can run code and are never read: choose a "
                "commit or a model that has them"
                if pickled
                else ""
            )
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{model.repository}: {INDEX} is not an index of shards") from error
    wrong = [name for name in names if not _SHARD.fullmatch(name) or name not in listed]
    if wrong or not 0 < len(names) <= _MAX_SHARDS:
        raise ModelUnavailable(
            f"{model.repository}: {INDEX} names "
            + (f"{wrong[0][:80]!r}, which the commit does not have" if wrong else "too many files")
        )
    return (INDEX, *names)


def _require_room(folder: Path, total: int) -> None:
    there = sum(path.stat().st_size for path in folder.iterdir())
    needed, free = _COPIES * total - there, shutil.disk_usage(folder).free
    if needed > free:
        raise ModelUnavailable(
            f"the model needs {needed / 2**30:.1f} GiB in {folder.parent}, for its files and the "
            f"weights that are served, and {free / 2**30:.1f} GiB are free: make room"
        )


def _fetch_one(model: HubModel, file: RepoSibling, folder: Path, fetched: _Progress) -> None:
    """Fetch one file, continuing an earlier attempt; raise ModelUnavailable if it differs."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # by its docs

    target, size = folder / file.rfilename, file.size
    if size is None or not (file.lfs or file.blob_id):
        raise ModelUnavailable(
            f"the hub gives no size or digest of {file.rfilename}: choose another mirror"
        )
    if target.exists() and target.stat().st_size == size and _is_right(target, file):
        fetched.add(size)
        return
    partial = target.with_name(f"{target.name}.incomplete")
    if not partial.exists() or partial.stat().st_size > size:
        partial.write_bytes(b"")
    before = partial.stat().st_size
    fetched.add(before)
    if before < size:
        url = hf_hub_url(model.repository, file.rfilename, revision=model.commit)
        with partial.open("ab") as into:
            http_get(
                url,
                into,
                resume_size=before,
                headers=build_hf_headers(),
                expected_size=size,
                tqdm_class=fetched.bar(),
            )
    if not _is_right(partial, file):
        partial.unlink()
        raise ModelUnavailable(
            f"{file.rfilename} of {model.repository} arrived with another digest than its commit "
            "has: start again; if it happens again, the hub or a proxy on the way changes files"
        )
    partial.replace(target)


def _is_right(path: Path, file: RepoSibling) -> bool:
    """Return whether a file has the digest of the hub's listing."""
    if file.lfs is not None:
        return file_digest(path).hex() == file.lfs.sha256
    # Git's own digest: the listing has no other one for small files.
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest() == file.blob_id


class _Progress:
    """Counts the received bytes, and reports their fraction of ``total``."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.total = 0
        self._report, self._done = report, 0

    def add(self, count: int) -> None:
        self._done += count
        if self.total:
            self._report(max(0.0, min(1.0, self._done / self.total)))

    def bar(self) -> Any:
        """Return a class that the hub's library uses instead of its own progress bar."""
        outer = self

        class Bar:
            def __init__(self, *_given: Any, **_named: Any) -> None: ...

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_error: object) -> None: ...

            def update(self, count: float = 1) -> None:
                outer.add(int(count))

        return Bar


def _unavailable(model: HubModel, error: Exception) -> ModelUnavailable:
    """Convert an error of the hub's library, the network or the disk; say what to do about it."""
    from huggingface_hub import errors

    where = f"{model.repository}@{model.commit[:12]}"
    said: Mapping[type[Exception], str] = {
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set: unset it for the first start",
        errors.GatedRepoError: "the model is gated: accept its terms on its page, and set HF_TOKEN",
        errors.DisabledRepoError: "the hub has disabled this model",
        errors.RepositoryNotFoundError: "the hub has no such model, or it is private: compare the "
        "name, and set HF_TOKEN if it is yours",
        errors.RevisionNotFoundError: "the model does not have this commit (any more): its history "
        "was rewritten, or the commit is of another model. Choose another commit; if its files "
        "differ, so does its digest",
    }
    for kind, advice in said.items():
        if isinstance(error, kind):
            return ModelUnavailable(f"{where} cannot be fetched: {advice}")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelUnavailable(
        f"{where} cannot be fetched ({reason}): is the hub reachable, and space on the disk? What "
        "arrived is kept, and the next start continues from there"
    )
