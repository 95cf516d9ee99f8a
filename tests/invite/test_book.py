from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.errors import ConfigError
from nconnect.invite.book import MAX_OPEN, MAX_REMEMBERED, Book, Invitation, InvitationState
from nconnect.invite.token import Token
from tests.invite.examples import DEVICE, NOW, PROVIDER, TOKEN, invitation


def numbered(number: int, **changes: float) -> Invitation:
    token = Token(PROVIDER, number.to_bytes(8), bytes(16))
    return invitation(token, name=f"d{number}", **changes)


def test_states() -> None:
    book = Book()
    book.add(invitation(), NOW)
    (only,) = book
    assert only.state(NOW) is InvitationState.OPEN
    assert only.state(NOW + 3600) is InvitationState.EXPIRED
    book.use(TOKEN.token_id, str(DEVICE), NOW + 1)
    (only,) = book
    assert only.state(NOW + 2) is InvitationState.USED
    assert only.state(NOW + 9999) is InvitationState.USED, "used stays used"
    assert only.preshared is not None
    book.added(TOKEN.token_id)
    assert book.seal(str(DEVICE))
    assert not book.seal(str(DEVICE)), "once"
    (only,) = book
    assert (only.preshared, only.is_added) == (None, True)


def test_a_use_that_failed_is_taken_back() -> None:
    book = Book([invitation()])
    book.use(TOKEN.token_id, str(DEVICE), NOW)
    book.release(TOKEN.token_id)
    assert next(iter(book)).state(NOW) is InvitationState.OPEN


def test_a_name_can_be_invited_once_at_a_time() -> None:
    book = Book([invitation()])
    again = invitation(Token(PROVIDER, b"other-id", bytes(16)))
    with pytest.raises(ConfigError, match="nconnect invite revoke laptop"):
        book.add(again, NOW)
    book.add(again, NOW + 3600)  # the first has expired


@pytest.mark.parametrize("by", ["laptop", TOKEN.token_id.hex()])
def test_revoke(by: str) -> None:
    book = Book([invitation()])
    assert book.revoke(by, NOW).name == "laptop"
    (only,) = book
    assert only.state(NOW) is InvitationState.REVOKED
    assert only.preshared is None, "its secret goes at once"
    with pytest.raises(ConfigError, match="is revoked already"):
        book.revoke(by, NOW)


def test_what_cannot_be_revoked() -> None:
    with pytest.raises(ConfigError, match="none is open"):
        Book().revoke("laptop", NOW)
    with pytest.raises(ConfigError, match="open are laptop"):
        Book([invitation()]).revoke("tablet", NOW)
    with pytest.raises(ConfigError, match="is expired already"):
        Book([invitation()]).revoke("laptop", NOW + 3600)
    book = Book([invitation()])
    book.use(TOKEN.token_id, str(DEVICE), NOW)
    with pytest.raises(ConfigError, match="nconnect peer remove laptop"):
        book.revoke("laptop", NOW)


def test_it_is_bounded() -> None:
    book = Book()
    for number in range(MAX_OPEN):
        book.add(numbered(number), NOW)
    with pytest.raises(ConfigError, match="256 open invitations"):
        book.add(numbered(999), NOW)
    later = NOW + 7200
    for number in range(1000, 1000 + MAX_OPEN):
        book.add(numbered(number, expires_at=later + 60), later)
    assert len(book) == MAX_OPEN + MAX_REMEMBERED
    muchlater = later + 120
    book.add(numbered(5000, expires_at=muchlater + 60), muchlater)
    assert len(book) == 1 + MAX_REMEMBERED
    assert book.get((3).to_bytes(8)) is None, "the oldest are forgotten"
    assert book.get((1003).to_bytes(8)) is not None


def test_it_survives_a_file() -> None:
    book = Book([invitation(), numbered(7)])
    book.use(TOKEN.token_id, str(DEVICE), NOW + 1)
    book.revoke("d7", NOW + 2)
    again = Book.from_json(json.loads(json.dumps(book.to_json())))
    assert list(again) == list(book)


def test_the_file_does_not_hold_the_token() -> None:
    text = json.dumps(Book([invitation()]).to_json())
    assert TOKEN.secret.hex() not in text
    assert TOKEN.encode() not in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.sampled_from([*Book([invitation()]).to_json()["invitations"][0], None]))
def test_any_json_is_read_or_refused(value: object, place: str | None) -> None:
    whole = Book([invitation()]).to_json()
    if place is None:
        whole = value
    else:
        whole["invitations"][0][place] = value
    try:
        Book.from_json(whole)
    except ConfigError:
        pass
