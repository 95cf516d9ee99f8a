"""The daemon's own user, which owns what the daemon writes, and becoming it.

`settle` is called once, when all that needs root is open and before any thread starts. The user owns the
configuration's folder, the state folder and the run folder, and nothing else; root keeps access to them.

As root without the right to override permissions (CAP_DAC_OVERRIDE) a daemon may write what is root's only:
so where it has to stay root, what an earlier run gave to the user is taken back.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io import paths
from nconnect.io.errors import reason

USER = "nconnect"
CONFIG_DIR = Path("/etc/nconnect")


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


ROOT = Account("root", 0, 0)


def daemon_account() -> Account | None:
    """The daemon's user, where there is one."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry.pw_uid else None


def settle(interface: str, config: Path) -> str:
    """Keep CAP_NET_ADMIN alone, as the daemon's own user where possible; a sentence for the log.

    No thread may have been started. Raises `HostError` when the kernel refuses.
    """
    from nconnect.io.privileges import CAP_NET_ADMIN, can_change_user, drop_privileges

    if os.geteuid():
        drop_privileges((CAP_NET_ADMIN,))
        return f"running as {_name(os.geteuid())}, with CAP_NET_ADMIN alone"
    config = config.resolve()
    secrets = [config, *_seed_files(config)]
    account = daemon_account()
    obstacle = _obstacle(account, interface, config, secrets, able=can_change_user())
    if account is None or obstacle:
        _give(account or ROOT, ROOT, interface, config, secrets)
        drop_privileges((CAP_NET_ADMIN,))
        return f"running as root, with CAP_NET_ADMIN alone: {obstacle}"
    _give(account, account, interface, config, secrets)
    drop_privileges((CAP_NET_ADMIN,), user=(account.uid, account.gid))
    return f"running as {account.name}, with CAP_NET_ADMIN alone"


def _obstacle(
    account: Account | None, interface: str, config: Path, secrets: list[Path], *, able: bool
) -> str:
    """Why the daemon cannot run as its own user, and what to do about it; empty when it can."""
    if account is None:
        return f"there is no user {USER} (useradd --system --shell /usr/sbin/nologin {USER})"
    if not able:
        return "this container lets nobody change users (it lacks SETUID, SETGID or CHOWN)"
    folder = config.parent
    own = {paths.run_dir().resolve(), paths.state_dir(interface).parent.resolve(), *secrets}
    if folder != CONFIG_DIR and not _is_own(folder, own, account):
        return f"{folder} holds other things as well (put the configuration into a folder of its own)"
    if not os.access(config, os.W_OK) and config.stat().st_uid != account.uid:  # a read-only mount
        return f"{config} cannot be written, so it cannot be given to {account.name}"
    ways = [*(path.parent for path in secrets[1:]), folder.parent]
    ways += [paths.run_dir().resolve().parent, paths.state_dir(interface).resolve().parent]
    ways += [Path(entry) for entry in sys.path if os.path.isdir(entry)]  # of what is imported later
    closed = _as(account, lambda: [way for way in ways if not os.access(way, os.X_OK, effective_ids=True)])
    if closed:
        return f"the user {account.name} cannot enter {closed[0]}"
    return ""


def _is_own(folder: Path, own: set[Path], account: Account) -> bool:
    """Whether a folder holds nothing but configurations and what belongs to them, and is root's or ours."""
    if folder.stat().st_uid not in (0, account.uid) or folder.stat().st_mode & stat.S_ISVTX:
        return False
    ours = re.compile(
        r".*\.(toml|log)|\..*\.toml\.[0-9a-f]+"
    )  # the last is a file that is just being written
    return all(entry in own or ours.fullmatch(entry.name) for entry in folder.iterdir())


def _seed_files(config: Path) -> list[Path]:
    """The secret that the configuration keeps in a file of its own."""
    data = config.read_bytes()
    if b"seed_file" not in data:
        return []
    name = tomllib.loads(data.decode()).get("interface", {}).get("seed_file")
    return [(config.parent / name).resolve()] if isinstance(name, str) else []


def _give(known: Account, to: Account, interface: str, config: Path, secrets: Iterable[Path]) -> None:
    """Make the files `to`'s; of those that are neither root's nor `known`'s, none."""
    owners = {0, known.uid}
    try:
        if to is not ROOT or config.parent == CONFIG_DIR:
            _give_folder(config.parent, to, owners)
        for path in secrets:
            with suppress(FileNotFoundError):
                _give_file(path.name, os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY), to, owners)
        for _, _, names, folder in os.fwalk(paths.make_state_dir(interface)):
            if os.fstat(folder).st_uid in owners:
                os.fchown(folder, to.uid, to.gid)
            for name in names:
                _give_file(name, os.dup(folder), to, owners)
        # Root's group may write here: a node that root started has no other right to remove its socket.
        _give_folder(paths.make_run_dir(), Account(to.name, to.uid, 0), owners, mode=0o775)
    except OSError as error:
        raise HostError(f"cannot give {error.filename or config} to {to.name}: {reason(error)}") from error


def _give_folder(path: Path, to: Account, owners: set[int], *, mode: int | None = None) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(folder)
        if status.st_uid in owners and not status.st_mode & stat.S_ISVTX:
            if not _is_owner(to, status):
                os.fchown(folder, to.uid, to.gid)
            if mode is not None and stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(folder, mode)
    finally:
        os.close(folder)


def _give_file(name: str, folder: int, to: Account, owners: set[int]) -> None:
    """A regular file with one name only: no link of the daemon's user makes another's file its own."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        free = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid in owners
        if free and not _is_owner(to, status):
            os.chown(name, to.uid, to.gid, dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(folder)


def _is_owner(account: Account, status: os.stat_result) -> bool:
    """Then nothing is to be changed: it may be on a read-only mount."""
    return (status.st_uid, status.st_gid) == (account.uid, account.gid)


def _as(account: Account, look: Callable[[], list[Path]]) -> list[Path]:
    """What `look` finds with the user's rights. For a process without threads: rights are the process's."""
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        return look()
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
