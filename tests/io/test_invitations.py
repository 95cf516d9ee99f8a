from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nconnect.errors import ConfigError
from nconnect.invite.book import Book
from nconnect.invite.token import Token
from nconnect.io.invitations import NAME, InvitationStore
from tests.invite.examples import DEVICE, NOW, PROVIDER, TOKEN, invitation


def test_two_processes_see_each_others_changes(tmp_path: Path) -> None:
    one, two = InvitationStore(tmp_path / NAME), InvitationStore(tmp_path / NAME)
    assert len(one.current()) == len(two.current()) == 0
    with one.changing() as book:
        book.add(invitation(), NOW)
    assert two.current().get(TOKEN.token_id) == invitation()
    with two.changing() as book:
        book.use(TOKEN.token_id, str(DEVICE), NOW)
    seen = one.current().get(TOKEN.token_id)
    assert seen is not None
    assert seen.device == str(DEVICE)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    (tmp_path / NAME).unlink()
    assert len(one.current()) == 0


def test_it_is_read_again_only_when_it_is_another(tmp_path: Path) -> None:
    store = InvitationStore(tmp_path / NAME)
    with store.changing() as book:
        book.add(invitation(), NOW)
    assert store.current() is store.current()


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = InvitationStore(tmp_path / NAME)
    with pytest.raises(ZeroDivisionError), store.changing() as book:
        _add_and_fail(book)
    assert len(store.current()) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"invitations": 7}', b"\xff"])
def test_a_damaged_file_is_no_invitation_and_is_not_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    store = InvitationStore(path)
    with caplog.at_level(logging.WARNING):
        assert len(store.current()) == 0
        assert len(store.current()) == 0
    assert len(caplog.records) == 1
    with pytest.raises(ConfigError, match="is damaged: delete it"), store.changing() as book:
        book.add(invitation(Token(PROVIDER, b"other-id", bytes(16))), NOW)
    assert path.read_bytes() == content


def _add_and_fail(book: Book) -> None:
    book.add(invitation(), NOW)
    raise ZeroDivisionError
