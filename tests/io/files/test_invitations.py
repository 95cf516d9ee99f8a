from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from nconnect.errors import ConfigError, HostError
from nconnect.invite.book import Book
from nconnect.invite.token import Token
from nconnect.io.files import invitations, paths
from nconnect.io.files.invitations import VERSION_1, InvitationStore
from nconnect.io.files.user import User
from tests.invite.examples import DEVICE, NOW, PROVIDER, TOKEN, invitation

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCONNECT_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(invitations, "daemon_account", lambda: None)
    return tmp_path / "nc0"


def store() -> InvitationStore:
    return InvitationStore.of("nc0")


def test_two_processes_see_each_others_changes(state: Path) -> None:
    one, two = store(), store()
    assert len(one.current()) == len(two.current()) == 0
    with one.issuing() as book:
        book.add(invitation(), NOW)
    assert two.current().get(TOKEN.token_id) == invitation()
    with two.using() as book:
        book.use(TOKEN.token_id, str(DEVICE), NOW)
    seen = one.current().get(TOKEN.token_id)
    assert seen is not None
    assert seen.device == str(DEVICE)
    for path in (paths.issued_path("nc0"), state / invitations.USED):
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
    assert len(one.current()) == 0


def test_each_side_writes_its_own_half_alone() -> None:
    with store().issuing() as book:
        book.add(invitation(), NOW)
        book.use(TOKEN.token_id, str(DEVICE), NOW)
    (only,) = store().read()
    assert only.device == ""
    with store().using() as book:
        book.use(TOKEN.token_id, str(DEVICE), NOW)
        book.change_peer(TOKEN.token_id, {"allow": None})
        book.add(invitation(Token(PROVIDER, b"other-id", bytes(16)), name="more"), NOW)
    (only,) = store().read()
    assert (only.device, only.changes) == (str(DEVICE), {})


def test_it_is_read_again_only_when_it_is_another() -> None:
    one = store()
    with one.issuing() as book:
        book.add(invitation(), NOW)
    assert one.current() is one.current()


def test_a_change_that_fails_changes_nothing() -> None:
    with pytest.raises(ZeroDivisionError), store().issuing() as book:
        _add_and_fail(book)
    assert len(store().current()) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"invitations": 7}', b"\xff"])
def test_a_damaged_file_is_no_invitation_and_is_not_overwritten(
    caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = paths.issued_path("nc0")
    path.parent.mkdir()
    path.write_bytes(content)
    one = store()
    with caplog.at_level(logging.WARNING):
        assert len(one.current()) == 0
        assert len(one.current()) == 0
    assert len(caplog.records) == 1
    with pytest.raises(ConfigError, match="damaged: delete"), one.issuing() as book:
        book.add(invitation(Token(PROVIDER, b"other-id", bytes(16))), NOW)
    assert path.read_bytes() == content


def test_what_an_earlier_version_kept_is_carried_over_once(state: Path) -> None:
    old = Book([invitation()]).to_issued()["invitations"][0]
    content: dict[str, Any] = {
        "version": 1,
        "invitations": [{**old, "device": str(DEVICE), "is_added": True, "used_at": NOW}],
    }
    state.mkdir()
    (state / VERSION_1).write_text(json.dumps(content))
    (before,) = store().read()
    assert before.device == str(DEVICE), "also before the first start"
    store().carry_over()
    assert list(store().read()) == [before]
    assert not (state / VERSION_1).exists()
    (state / VERSION_1).write_text(
        json.dumps({"invitations": [{**content["invitations"][0], "id": "00" * 8}]})
    )
    store().carry_over()
    assert list(store().read()) == [before], "what is put there later means nothing"


def test_nothing_to_carry_over_is_remembered_too(state: Path) -> None:
    store().carry_over()
    old = {
        **Book([invitation()]).to_issued()["invitations"][0],
        "device": "",
        "is_added": False,
        "used_at": None,
    }
    (state / VERSION_1).write_text(json.dumps({"invitations": [old]}))
    assert len(store().read()) == 0


@needs_root
def test_the_daemons_user_reads_what_is_issued_and_cannot_change_it(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "daemon_account", lambda: User(54321, 54322, (), "daemon"))
    store().carry_over()
    os.chown(state, 54321, 54322)
    with store().issuing() as book:
        book.add(invitation(), NOW)
    path = paths.issued_path("nc0")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 54322, 0o640)
    assert path.parent.stat().st_uid == 0
    assert path.parent.stat().st_mode & 0o022 == 0
    (state / invitations.USED).symlink_to(path)
    with pytest.raises(HostError, match="is a link"):
        store().read()


def _add_and_fail(book: Book) -> None:
    book.add(invitation(), NOW)
    raise ZeroDivisionError
