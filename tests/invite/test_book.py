from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_interface

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nconnect.errors import ConfigError
from nconnect.invite.book import MAX_OPEN, MAX_REMEMBERED, Book, Invitation, InvitationState
from nconnect.invite.table import table_of
from nconnect.invite.token import Token
from nconnect.model import Config
from tests.invite.examples import DEVICE, NOW, PROVIDER, TOKEN, invitation

CONFIG = Config("nc0", bytes(32), "gpu", (ip_interface("10.86.0.1/24"),))


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
    book.add_peer(TOKEN.token_id, ["10.86.0.2/32"], bytes(32))
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
    book.add_peer(TOKEN.token_id, ["10.86.0.2/32"], bytes(32))
    book.change_peer(TOKEN.token_id, {"allow": ["10.0.0.1/32"], "preshared_key": None})
    issued, used = (json.loads(json.dumps(half)) for half in (book.to_issued(), book.to_used()))
    assert list(Book.of(issued, used)) == list(book)


def test_the_daemons_half_adds_no_invitation_and_reopens_none() -> None:
    book = Book([invitation(), numbered(7)])
    book.close_expired(NOW + 9999)
    forged = Book([invitation(), numbered(7), numbered(8)])
    for each in list(forged):
        forged.use(each.token_id, str(DEVICE), NOW)
        forged.add_peer(each.token_id, ["10.86.0.2/32"], bytes(32))
    assert all(each.is_peer for each in forged)
    again = Book.of(book.to_issued(), forged.to_used())
    assert len(again) == 2
    assert not any(each.is_peer or each.device for each in again)
    book = Book([invitation()])
    book.remove_peer(TOKEN.token_id)
    (only,) = Book.of(book.to_issued(), forged.to_used())
    assert not only.is_peer, "removed stays removed"
    assert only.preshared is None


def test_a_peer_is_never_forgotten() -> None:
    book = Book([invitation()])
    book.use(TOKEN.token_id, str(DEVICE), NOW)
    book.add_peer(TOKEN.token_id, ["10.86.0.2/32"], bytes(32))
    for number in range(MAX_REMEMBERED + 5):
        now = NOW + 10 * number
        book.add(numbered(number, expires_at=now + 1), now)
    assert book.get(TOKEN.token_id) is not None


def test_a_file_of_an_earlier_version() -> None:
    """Both halves in one; its peers stand in the configuration's file, and are none of the book's."""
    one, two = Book([invitation()]).to_issued()["invitations"][0], numbered(7)
    old = {**one, "device": str(DEVICE), "is_added": True, "used_at": NOW}
    new = {**Book([two]).to_issued()["invitations"][0], "device": "", "is_added": False, "used_at": None}
    book = Book.of({"version": 1, "invitations": [old, new]})
    used, unused = book
    assert (used.device, used.is_added, used.is_peer, used.state(NOW)) == (
        str(DEVICE), True, False, InvitationState.USED,
    )  # fmt: skip
    assert unused == two
    assert list(Book.of(book.to_issued(), book.to_used())) == list(book)


def test_the_file_does_not_hold_the_token() -> None:
    book = Book([invitation()])
    text = json.dumps([book.to_issued(), book.to_used()])
    assert TOKEN.secret.hex() not in text
    assert TOKEN.encode() not in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def used_book() -> Book:
    book = Book([invitation()])
    book.use(TOKEN.token_id, str(DEVICE), NOW)
    book.add_peer(TOKEN.token_id, ["10.86.0.2/32"], bytes(32))
    return book


@example(["no address"], "addresses")
@given(json_values, st.sampled_from([*used_book().to_issued()["invitations"][0], None]))
def test_any_json_of_who_invites_is_read_or_refused(value: object, place: str | None) -> None:
    issued, used = used_book().to_issued(), used_book().to_used()
    if place is None:
        issued = value
    else:
        issued["invitations"][0][place] = value
    with suppress(ConfigError):
        table_of(CONFIG, Book.of(issued, used), own_key=bytes(32))


@given(json_values, st.sampled_from([*used_book().to_used()["used"][0], None]))
def test_any_json_of_the_daemons_is_read_or_refused(value: object, place: str | None) -> None:
    issued, used = used_book().to_issued(), used_book().to_used()
    if place is None:
        used = value
    else:
        used["used"][0][place] = value
    with suppress(ConfigError):
        table_of(CONFIG, Book.of(issued, used), own_key=bytes(32))
