"""Who the daemon runs as, and what belongs to that user.

`settle` is called once, when all that needs root is open and before any thread starts. The daemon's own user
owns the interface's state folder and nothing else: neither a configuration nor a folder that somebody named.

As root without the right to override permissions (CAP_DAC_OVERRIDE) a daemon may write what is root's only:
so where it has to stay root, the state that an earlier run gave to the user is taken back.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from nconnect.errors import ConfigError, HostError
from nconnect.io.errors import as_host_error, reason
from nconnect.io.files import config_file, paths
from nconnect.io.files.trusted import Folder, status_of
from nconnect.io.files.user import DAEMON, User, acting_as, daemon_account
from nconnect.io.process.privileges import CAP_NET_ADMIN, can_become, drop_privileges

log = logging.getLogger(__name__)


def settle(interface: str, *, is_rootless: bool = False) -> str:
    """Keep CAP_NET_ADMIN alone, as the daemon's own user where possible; a sentence for the log.

    `is_rootless`: an ordinary user's daemon, which keeps nothing.

    No thread may have been started. Raises `HostError` when the kernel refuses.
    """
    if is_rootless:
        drop_privileges()
        name = User.of(os.geteuid(), os.getegid()).name
        return (
            f"running without root, as {name}: the tunnel is in a network of its own;"
            " `nconnect run -- COMMAND` runs a program there"
        )
    if os.geteuid():
        drop_privileges((CAP_NET_ADMIN,))
        return f"running as {User.of(os.geteuid(), os.getegid()).name}, with CAP_NET_ADMIN alone"
    account = daemon_account()
    obstacle = _obstacle(account, interface)
    if account is None or obstacle:
        _take_state_back(interface)
        drop_privileges((CAP_NET_ADMIN,))
        return f"running as root, with CAP_NET_ADMIN alone: {obstacle}"
    _give_state(account, interface)
    drop_privileges((CAP_NET_ADMIN,), user=(account.uid, account.gid))
    return f"running as {account.name}, with CAP_NET_ADMIN alone"


def take_back(config: Path, interface: str) -> None:
    """Earlier versions gave a configuration and its folder to the daemon's user: root takes them back, once.

    Only below a folder of root's; a person's file stays that person's. Raises `ConfigError` for one that the
    daemon's user can change afterwards.
    """
    account = daemon_account()
    if account is None:
        return
    if status_of(paths.issued_path(interface)) is None:
        try:
            _take_back(config, account)
            name = config_file.seed_file(config_file.read(config))
            if name is not None:
                _take_back(config_file.beside(config, name), account)
        except OSError as error:
            log.warning("cannot take %s back from %s: %s", config, account.name, reason(error))
    owner = config_file.writer(config)
    if owner is not None and owner.uid == account.uid:
        raise ConfigError(
            f"{config} belongs to {account.name}, the daemon's own user, who must not change it: give it and"
            " its folder to root, or to whoever writes it (chown)"
        )


def _take_back(path: Path, account: User) -> None:
    with Folder.around(path) as (folder, _), Folder.open(folder.path.parent) as above:
        if above.user is not None:
            return
        if folder.user is not None and folder.user.uid == account.uid:
            folder.take_back()
    with Folder.around(path) as (folder, name):
        status = folder.status(name)
        if folder.user is None and status is not None and status.st_uid == account.uid:
            # A new file: the old one may still be open somewhere.
            folder.replace(name, folder.read(name, config_file.MAX_CONFIG_BYTES), owner=(0, 0))


def _obstacle(account: User | None, interface: str) -> str:
    """Why the daemon cannot run as its own user, and what to do about it; empty when it can."""
    if account is None:
        return f"there is no user {DAEMON} (useradd --system --shell /usr/sbin/nologin {DAEMON})"
    if why := can_become(account.uid, account.gid):
        return why
    ways = [paths.run_dir().absolute(), paths.state_dir(interface).absolute().parent]
    ways += [Path(entry) for entry in sys.path if os.path.isdir(entry)]  # of what is imported later
    with acting_as(account):
        closed = [way for way in ways if not _may_enter(way)]
    return f"the user {account.name} cannot enter {closed[0]}" if closed else ""


def _may_enter(folder: Path) -> bool:
    """With the file system's uid: access(2) goes by another."""
    try:
        os.close(os.open(folder / ".", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _give_state(account: User, interface: str) -> None:
    """Have the state folder be the user's: one of root's is given away, with what is root's in it."""
    path = paths.make_state_dir(interface)
    with as_host_error(f"cannot give {path} to {account.name}"):
        with Folder.open(path.parent) as above:
            if above.user is not None:
                raise HostError(
                    f"{path.parent} belongs to {above.user.name}, who could forge what invitations allow:"
                    " chown root it, or name another folder with $NCONNECT_STATE_DIR"
                )
        with Folder.open(path) as folder:
            if folder.user is None:
                folder.give(account.uid, account.gid)
            elif folder.user.uid != account.uid:
                raise HostError(f"{path} belongs to {folder.user.name}: the state cannot be kept there")


def _take_state_back(interface: str) -> None:
    path = paths.make_state_dir(interface)
    with as_host_error(f"cannot take {path} back from {DAEMON}"):
        with Folder.open(path.parent) as above:
            is_roots = above.user is None
        with Folder.open(path) as folder:
            if folder.user is not None and is_roots:
                folder.take_back(0o700)
                with Folder.open(path) as ours:
                    ours.take_files_back()
