"""A change of the configuration or of a peer: a running daemon applies it at once, or it is undone."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path

from nconnect.config.edit import add_peer, remove_peer
from nconnect.control.client import ControlClient, NotRunning, RequestRefused
from nconnect.errors import ConfigError, ControlError, HostError
from nconnect.invite.book import Book, Invitation
from nconnect.invite.table import PeerTable, content_of
from nconnect.io.files import config_file, peer_table
from nconnect.io.files.invitations import InvitationStore
from nconnect.model import Config

_Change = Callable[[str], str]  # of a file's text


class Outcome(Enum):
    """The result of a change; the value is printed."""

    APPLIED = "in force now"
    KEPT = "kept in the file; no daemon is running"
    NOTHING = "it was so already"
    SHOWN = "nothing was changed (--dry-run)"


def change_file(path: Path, change: Callable[[str], str], *, dry_run: bool = False) -> Outcome:
    """Replace the file's text by `change(text)`, under the file's lock, and have the daemon read it again.

    Raises `ConfigError`, with the file unchanged, if the text or the change is wrong. Raises `ControlError`
    if the daemon refuses the change (then the old text is restored), or if it is not known whether the daemon
    has applied it (then the new text stays). With `dry_run` the result is checked and the difference is
    printed, without secrets; the file stays, and the daemon is not asked.
    """
    if dry_run:
        before = config_file.read(path)
        after = change(before)
        _check(path, before, after)
        if after == before:
            return Outcome.NOTHING
        print("\n".join(difference(before, after)))
        return Outcome.SHOWN
    with config_file.locked(path):
        before = config_file.read(path)
        after = change(before)
        checked = _check(path, before, after)
        if after == before:
            return Outcome.NOTHING
        config_file.write(path, after)
        return _put_in_force(checked.interface, "file", lambda: config_file.write(path, before))


def change_peer(path: Path, name: str, change: _Change | None, *, dry_run: bool = False) -> Outcome:
    """Change a peer where it is stored, in the file or with its invitation. `change` None removes it.

    `change` gets the text of a file that contains the peer. Raises as `change_file`.
    """
    table = peer_table.load(path)
    token_id = table.invited.get(name) or _left_out(table, name)
    if token_id is None:
        return change_file(path, change or (lambda text: remove_peer(text, name)), dry_run=dry_run)
    store = InvitationStore.of(table.config.interface)
    invitation = store.read().get(token_id)
    assert invitation is not None, "the table is of this book"
    before = section_of(invitation)
    after = change(before) if change is not None else ""
    if dry_run and before != after:
        _check_peer(path, _changed(store.read(), token_id, before, after))
        print("\n".join(difference(before, after)))
    if dry_run or before == after:
        return Outcome.NOTHING if before == after else Outcome.SHOWN
    with store.issuing() as book:
        _check_peer(path, _changed(book, token_id, before, after))

    def undo() -> None:
        with store.issuing() as book:
            book.put(invitation)

    return _put_in_force(table.config.interface, "peer", undo)


def section_of(invitation: Invitation) -> str:
    """The peer of an invitation as a section of the file."""
    content = content_of(invitation)
    expires = content.pop("expires", None)
    return add_peer("", **content, expires_at=None if expires is None else expires.timestamp())


def _changed(book: Book, token_id: bytes, before: str, after: str) -> Book:
    """The book with the fields changed that differ between the sections; without the peer if it is gone."""
    (old,), new = tomllib.loads(before)["peer"], tomllib.loads(after).get("peer", [])
    if not new:
        book.remove_peer(token_id)
        return book
    values = {key: new[0].get(key) for key in {**old, **new[0]} if old.get(key) != new[0].get(key)}
    texts = {key: v.isoformat() if isinstance(v, datetime) else v for key, v in values.items()}
    book.change_peer(token_id, texts)
    return book


def _check_peer(path: Path, book: Book) -> None:
    before = set(peer_table.load(path).problems)
    after = peer_table.of(config_file.load(path), lambda: book).problems
    if new := [problem for problem in after if problem not in before]:
        raise ConfigError(new)


def _left_out(table: PeerTable, name: str) -> bytes | None:
    """The invitation whose id is `name`, of a peer that is left out of the table."""
    try:
        book = InvitationStore.of(table.config.interface).read()
    except (ConfigError, HostError):
        return None  # the table says why; the file can be changed nevertheless
    for invitation in book:
        if invitation.is_peer and invitation.token_id.hex() == name:
            return invitation.token_id
    return None


def is_left_out(table: PeerTable, name: str) -> bool:
    return _left_out(table, name) is not None


def _put_in_force(interface: str, what: str, undo: Callable[[], object]) -> Outcome:
    """Have a running daemon read what was changed; if it refuses, `undo` the change."""
    try:
        ControlClient(interface).reload()
    except NotRunning:
        return Outcome.KEPT
    except RequestRefused as error:
        undo()
        raise ControlError(f"the daemon refused, and the {what} is as before: {error}") from None
    except ControlError as error:
        # The change may be in force. Undoing it could give back, at the next start, rights that a peer lost.
        raise ControlError(
            f"{error}; the change is saved in the {what}, but it is not known whether it is in force:"
            " try `nconnect reload`"
        ) from None
    return Outcome.APPLIED


def difference(before: str, after: str) -> list[str]:
    """The lines that differ, marked + and -, with their section's header; secrets are hidden."""
    import difflib

    return [
        line[0] + _hide(line[1:])
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]


def _hide(line: str) -> str:
    return re.sub(r"^(\s*(?:seed|preshared_key)\s*=\s*).*", r"\1(hidden)", line)


def _check(path: Path, before: str, after: str) -> Config:
    """Check the new text. Mistakes of the old text are reported with lines, those of the change without.

    A change that would leave out a peer that came by invitation is refused.
    """
    try:
        checked = config_file.check(path, after)
        known = peer_table.of(config_file.check(path, before)).problems
        if new := [problem for problem in peer_table.of(checked).problems if problem not in known]:
            raise ConfigError(new)
        return checked
    except ConfigError as error:
        config_file.check(path, before)
        raise ConfigError(
            re.sub(rf"^{re.escape(str(path))}:\d+: ", "", text) for text in error.problems
        ) from None
