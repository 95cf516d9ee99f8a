"""Where a daemon's files are, and the lock that makes it the only one of its interface.

`$NCONNECT_RUN_DIR` (or /run/nconnect) holds sockets and locks of running daemons, `$NCONNECT_STATE_DIR` (or
/var/lib/nconnect) what outlives them, in a folder for each interface. Overriding both lets two sides run on
one machine. An ordinary user has folders of their own, by the XDG Base Directory Specification:
`$XDG_RUNTIME_DIR/nconnect` (or /tmp/nconnect-UID), `$XDG_STATE_HOME/nconnect` (or ~/.local/state/nconnect).
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.errors import as_host_error
from nconnect.io.files.trusted import Folder
from nconnect.io.files.user import UntrustedPath, daemon_account
from nconnect.io.files.walk import closing

RUN_DIR = Path("/run/nconnect")
STATE_DIR = Path("/var/lib/nconnect")
NODE_CERTIFICATE = "tls.pem"  # in the state folder of whatever runs a node
# Who started this process: root's daemon gives up root's rights, and keeps its folders.
IS_ROOTS = os.geteuid() == 0


def run_dir() -> Path:
    """The folder of sockets and locks (not created).

    Raises `HostError` where another user has made what would be this user's folder in /tmp.
    """
    if given := os.environ.get("NCONNECT_RUN_DIR"):
        return Path(given)
    return RUN_DIR if IS_ROOTS else _user_run_dir()


def state_dir(interface: str) -> Path:
    """The folder of an interface's state between runs (not created)."""
    return _state_base() / interface


def user_folder(variable: str, default: str) -> Path:
    """A folder of this user's: nconnect in `$variable`, or in `default` below the home folder."""
    given = os.environ.get(variable, "")
    if os.path.isabs(given):  # the specification wants others to be ignored
        return Path(given) / "nconnect"
    try:
        return Path.home() / default / "nconnect"
    except RuntimeError:
        raise HostError(f"this user has no home folder: set $HOME, or ${variable}") from None


def _user_run_dir() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given):
        return Path(given) / "nconnect"
    path = Path(f"/tmp/nconnect-{os.geteuid()}")
    # Anybody can make a folder of this name and answer in it as the daemon: `forward` would use their tunnel.
    with as_host_error(f"cannot use the folder {path}"), suppress(FileNotFoundError):
        _refuse_others(path)
    return path


def _state_base() -> Path:
    if given := os.environ.get("NCONNECT_STATE_DIR"):
        return Path(given)
    return STATE_DIR if IS_ROOTS else user_folder("XDG_STATE_HOME", ".local/state")


def issued_path(interface: str) -> Path:
    """The file of what was issued to the interface's invitations; its folder's name is no interface's."""
    return state_dir(interface).parent / "issued-invitations" / f"{interface}.json"


def node_dir(port: int) -> Path:
    """The folder of what a node that runs on its own at this port keeps between runs (not created).

    Its name is longer than an interface's can be.
    """
    return _state_base() / f"standalone-node-{port}"


def make_node_dir(port: int) -> Path:
    """Create it, for its owner alone."""
    _make(node_dir(port).parent, 0o755)
    return _make(node_dir(port), 0o700)


def socket_path(interface: str) -> Path:
    """The daemon's control socket."""
    return run_dir() / f"{interface}.sock"


def door_path(interface: str) -> Path:
    """The socket by which `nconnect run` enters the namespaces of a tunnel without root."""
    return run_dir() / f"{interface}.run"


def asked_socket_path(interface: str) -> Path:
    """The socket of the daemon that a command means: an ordinary user's own if there is one, or a file for
    one, else root's.
    """
    own, roots = socket_path(interface), RUN_DIR / f"{interface}.sock"
    if IS_ROOTS or os.environ.get("NCONNECT_RUN_DIR"):
        return own
    file = user_folder("XDG_CONFIG_HOME", ".config") / f"{interface}.toml"
    is_own = any(path.exists() for path in (own, lock_path(interface), file))
    return own if is_own or not roots.exists() else roots


def lock_path(interface: str) -> Path:
    """The file that a running daemon holds locked."""
    return run_dir() / f"{interface}.lock"


def log_path(interface: str) -> Path:
    """The file that a detached daemon writes to."""
    return state_dir(interface) / "nconnect.log"


def make_run_dir() -> Path:
    """Create the run folder. Others may list it; the sockets in it are 0600.

    Only root may replace what root creates in it: a folder that an earlier version gave to the daemon's
    user is taken back, and another user's folder is refused. An ordinary user's folder is closed to others,
    and refused if it is another's or a link: in /tmp anybody could have made it.
    """
    if not IS_ROOTS and not os.environ.get("NCONNECT_RUN_DIR"):
        return _make_private(_user_run_dir())
    path = _make(run_dir(), 0o755)
    if os.geteuid():
        return path
    account = daemon_account()
    with as_host_error(f"cannot use the folder {path}"), Folder.open(path) as folder:
        if folder.user is None:
            return path
        if account is None or folder.user.uid != account.uid or not _is_roots(path.parent):
            raise UntrustedPath(f"it belongs to {folder.user.name} (chown root it, or use another)")
        folder.take_back(0o755)
    return path


def make_state_dir(interface: str) -> Path:
    """Create an interface's state folder, for its owner alone."""
    if not IS_ROOTS:
        with as_host_error(f"cannot make the folder {state_dir(interface)}"):
            state_dir(interface).parent.mkdir(0o700, parents=True, exist_ok=True)
    _make(state_dir(interface).parent, 0o755)
    return _make(state_dir(interface), 0o700)


def acquire_lock(interface: str) -> int:
    """Become the only daemon of `interface`, until `release_lock` or the end of the process.

    Returns the lock's descriptor, which programs that are started do not inherit. Raises `HostError` when
    another process holds the lock.
    """
    make_run_dir()
    path = lock_path(interface)
    while True:
        with as_host_error(f"cannot open {path}"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):  # else its holder removed it, in between
                break
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            by = f" (process {holder})" if holder.isdecimal() else ""
            raise HostError(
                f"{interface} is up already{by}: see `nconnect status`, or end it with `nconnect down`"
            ) from None
        os.close(fd)
    sign_lock(fd)
    return fd


def sign_lock(fd: int) -> None:
    """Say in the lock's file which process holds it: ours."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def release_lock(interface: str, fd: int) -> None:
    """Give up the lock, and leave no file behind."""
    try:
        if holds_lock(interface, fd):
            lock_path(interface).unlink()  # first: who locks it now finds that it is gone
    except OSError:
        pass  # the folder is not ours any more: without its holder the file means nothing
    finally:
        os.close(fd)


def holds_lock(interface: str, fd: int) -> bool:
    """Whether the lock's file is still the one that was locked: somebody may have removed it."""
    return _is_at(fd, lock_path(interface))


def is_locked(interface: str) -> bool:
    """Whether a daemon of `interface` lives (only its owner and root can tell)."""
    try:
        with as_host_error(f"cannot open {lock_path(interface)}", passes=FileNotFoundError):
            fd = os.open(lock_path(interface), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with closing(fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _make_private(path: Path) -> Path:
    with as_host_error(f"cannot make the folder {path}"):
        try:
            path.mkdir(0o700, parents=True)
        except FileExistsError:
            if _refuse_others(path).st_mode & 0o077:
                path.chmod(0o700)
    return path


def _refuse_others(path: Path) -> os.stat_result:
    """The state of a folder that is this user's. Raises `OSError`."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UntrustedPath("it is a link, or another user's (set $XDG_RUNTIME_DIR)")
    return status


def _is_roots(path: Path) -> bool:
    with Folder.open(path) as folder:
        return folder.user is None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False  # gone, or in a folder that is closed to us


def _make(path: Path, mode: int) -> Path:
    with (
        as_host_error(f"cannot make the folder {path}", denied=" (are you root?)"),
        Folder.make(path, mode=mode) as folder,
    ):
        status = folder.status()
        assert status is not None
        if folder.user is None and status.st_uid == os.geteuid() and mode == 0o700:
            folder.set_mode(mode)
    return path
