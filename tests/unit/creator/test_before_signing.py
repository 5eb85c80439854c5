"""What a creator is told before anything is signed or sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viz.creator import until_seen
from viz.creator.notices import NoticeDraft
from viz.creator.owner import require_record_of
from viz.creator.work_view import WorkView
from viz.creator.works import NodeWorks, require_registered
from viz.domain.license import Terms, Use
from viz.domain.notices import NoticeKind
from viz.domain.ports.chain import ContentState, TermsState
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, AdapterId, ContentId
from viz.errors import InvalidRequest, InvalidWork, LicenseError
from viz.protocol.notices import MAX_CONTACT_CHARS, MAX_STATEMENT_CHARS
from viz.protocol.registration import STATE_KEPT_S, WorkDescription
from viz.services.work_records import draft, read_description, save_record


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("statement", " \n"),
        ("statement", "x" * (MAX_STATEMENT_CHARS + 1)),
        ("contact", "x" * (MAX_CONTACT_CHARS + 1)),
        ("statement", "It names me.\x1b]0;title\x07"),
        ("contact", "me\u202e@example.org"),
    ],
)
def test_a_notice_that_no_node_takes_is_refused_before_it_is_signed(field: str, text: str) -> None:
    """The sentence names the field, and what it may hold; a node would only say 413."""
    words: dict[str, Any] = {"statement": "It names me.", "contact": ""}
    with pytest.raises(InvalidRequest, match=f"the {field} (is empty|has [0-9]* ?char)") as caught:
        NoticeDraft(AdapterId(0), ContentId(1), NoticeKind.COPYRIGHT, **{**words, field: text})
    assert caught.value.extensions["param"] == field
    NoticeDraft(AdapterId(0), ContentId(1), NoticeKind.COPYRIGHT, **words)


def test_terms_of_another_work_s_folder_are_refused(tmp_path: Path) -> None:
    """A wrong folder would offer a work on another one's terms, and leave no record of it."""
    work = tmp_path / "work.txt"
    work.write_text("The lamp is lit at dusk.")
    require_record_of(work, ContentId(1))
    terms = Terms(0, 800, 0, 0, 0, Use.TRAIN, approval_required=False)
    described = WorkDescription("The lamp", "text", work.name, terms, {"text": "Name me."})
    made = draft(work, described, ZERO_ADDRESS)
    require_record_of(work, ContentId(1))
    save_record(work, replace(made, content_id=ContentId(2)))
    require_record_of(work, ContentId(2))
    with pytest.raises(InvalidRequest, match="is work 2, and the terms would be of work 1: give"):
        require_record_of(work, ContentId(1))


def test_terms_beside_a_replaced_file_are_refused(tmp_path: Path) -> None:
    """The new record would have the license of one text and the file of another."""
    work = tmp_path / "work.txt"
    work.write_text("The lamp is lit at dusk.")
    terms = Terms(0, 800, 0, 0, 0, Use.TRAIN, approval_required=False)
    described = WorkDescription("The lamp", "text", work.name, terms, {"text": "Name me."})
    made = draft(work, described, ZERO_ADDRESS)
    save_record(work, replace(made, content_id=ContentId(2)))
    require_record_of(work, ContentId(2))
    work.write_text("The lamp is lit at dawn.")
    with pytest.raises(InvalidRequest, match="not the file that was registered as work 2"):
        require_record_of(work, ContentId(2))
    work.unlink()
    require_record_of(work, ContentId(2))  # the chain's terms need no file


def test_a_folder_without_terms_or_license_says_what_to_do(tmp_path: Path) -> None:
    """The first command after an import must not end with a missing file alone."""
    path = tmp_path / "terms.toml"
    with pytest.raises(InvalidWork, match=r"no terms file .*write title, kind and file"):
        read_description(path, token_decimals=6)
    path.write_text('title = "The lamp"\nkind = "text"\nfile = "work.txt"\n')
    with pytest.raises(InvalidWork, match=r"lacks \[license\].*viz license new"):
        read_description(path, token_decimals=6)
    path.write_text("It was dark.")
    with pytest.raises(InvalidWork, match=r"not TOML: .*Name the work's folder"):
        read_description(path, token_decimals=6)


class Late(NodeWorks):
    """A node that knows the work only from its ``knows_at``-th answer on; 0 is never."""

    def __init__(self, found: WorkView, knows_at: int = 0) -> None:
        super().__init__("http://node.test")
        self.found, self.knows_at, self.asked = found, knows_at, 0

    async def work(self, content_id: ContentId) -> WorkView:
        self.asked += 1
        if self.asked < self.knows_at or not self.knows_at:
            raise LicenseError(f"there is no work {content_id}: check the id")
        return self.found


async def test_a_publication_waits_longer_than_nodes_repeat_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects who publishes right after a registration or new terms: it waits, and says why."""
    wait = until_seen.EVERY_S
    monkeypatch.setattr(until_seen, "EVERY_S", 0.0)
    work = tmp_path / "work.txt"
    work.write_text("The lamp is lit at dusk.")
    terms = Terms(0, 800, 0, 0, 0, Use.TRAIN, approval_required=False)
    described = WorkDescription("The lamp", "text", work.name, terms, {"text": "Name me."})
    record = replace(draft(work, described, ZERO_ADDRESS), content_id=ContentId(1))
    content = ContentState(
        ContentId(1), ZERO_ADDRESS, ZERO_ADDRESS, record.commitment, ZERO_HASH, withdrawn_at=0
    )
    view = WorkView(content, TermsState(terms, record.license_hash))
    told: list[str] = []
    await require_registered(record, ZERO_ADDRESS, Late(view, knows_at=1), told.append)
    assert told == []
    never = Late(view)
    with pytest.raises(LicenseError, match="no work 1"):
        await require_registered(record, ZERO_ADDRESS, never, told.append)
    assert (never.asked - 1) * wait > STATE_KEPT_S
    (why,) = told
    assert f"for up to {STATE_KEPT_S} seconds" in why
    await require_registered(record, ZERO_ADDRESS, Late(view, never.asked), told.append)
