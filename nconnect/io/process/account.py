"""The daemon's own user: who it is on this machine."""

from __future__ import annotations

import pwd
from dataclasses import dataclass

USER = "nconnect"


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def daemon_account() -> Account | None:
    """The daemon's user, where there is one."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry.pw_uid else None
