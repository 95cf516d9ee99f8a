"""The configuration file on the disk: find it, read it if it is secret, replace it whole under a lock."""

from __future__ import annotations

import fcntl
import os
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nconnect.config.file import parse_config
from nconnect.errors import ConfigError, HostError
from nconnect.io.errors import TRY_SUDO, as_host_error, reason
from nconnect.io.files import paths
from nconnect.io.files.trusted import Folder, status_of
from nconnect.io.files.user import UntrustedPath, User, is_trusted
from nconnect.io.files.walk import closing
from nconnect.model import DEFAULT_INTERFACE, Config

CONFIG_DIR = Path("/etc/nconnect")
MAX_CONFIG_BYTES = 16 << 20  # guessed: far above 10,000 peers
LOCK_TIMEOUT_S = 15.0  # above what one change takes, a reload of the daemon included
_MEND_FILE = "make it with `nconnect init` or `nconnect join`, or name it with -c"
_MEND_SEED = "write a seed to it (openssl rand -hex 32), or name another file"


def default_path(interface: str = DEFAULT_INTERFACE) -> Path:
    """Root's file; an ordinary user's own, unless only root has one."""
    roots = CONFIG_DIR / f"{interface}.toml"
    if paths.IS_ROOTS:
        return roots
    own = own_path(interface)
    return roots if CONFIG_DIR.exists() and not exists(own) else own


def own_path(interface: str = DEFAULT_INTERFACE) -> Path:
    """The file of who started this process: root's, or in `$XDG_CONFIG_HOME/nconnect`."""
    folder = CONFIG_DIR if paths.IS_ROOTS else paths.user_folder("XDG_CONFIG_HOME", ".config")
    return folder / f"{interface}.toml"


def choose_path(option: Path | None, *, to_make: bool = False) -> Path:
    """The file to use: the option's, otherwise `$NCONNECT_CONFIG`, otherwise that of nc0.

    `to_make`: for a command that makes an identity, which is the caller's own.
    """
    if option is not None:
        return option
    given = os.environ.get("NCONNECT_CONFIG")
    if given:
        return Path(given)
    return own_path() if to_make else default_path()


def interface_of(path: Path) -> str:
    """The interface that a configuration file is for: the stem of its name (of a link's own name)."""
    return path.stem


def load(path: Path) -> Config:
    """Read and check a file. Raises `ConfigError`, whose lines contain the path as it was given."""
    return check(path, read(path))


def check(path: Path, text: str, *, read_seed: Callable[[str], str] | None = None) -> Config:
    """Check a text as if it were the content of `path`. Raises `ConfigError`.

    `read_seed` returns the text of the file that `seed_file` names, instead of reading it.
    """

    def public_key_of(seed: bytes) -> bytes:
        from nconnect.crypto.keys import Identity

        return Identity(seed).public_key

    def read_seed_file(name: str) -> str:
        return read(beside(path, name), mend=_MEND_SEED, user=writer(path))

    return parse_config(
        text,
        interface=interface_of(path),
        source=str(path),
        read_seed_file=read_seed or read_seed_file,
        public_key_of=public_key_of,
    )


def read(path: Path, *, mend: str = _MEND_FILE, user: User | None = None) -> str:
    """A secret file's text, as `open_secret`."""
    return text_of(path, open_secret(path, mend=mend, user=user))


def open_secret(path: Path, *, mend: str = _MEND_FILE, user: User | None = None) -> int:
    """A secret file's descriptor. Raises `ConfigError` if it cannot be read, or if others can read it.

    `mend`: what to do if there is none. `user`: the user who named the file, if not the caller: it is read
    with that user's rights.
    """
    owner = user
    try:
        with Folder.around(path, user=user) as (folder, name):
            owner, is_shared = folder.user, folder.is_shared()
            fd = folder.open_regular(name, also_own=user is None)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: {mend}") from None
    except UntrustedPath as error:
        hint = ": name the configuration's file with -c" if error.strerror == "is not a file" else ""
        raise ConfigError(f"{path} {error.strerror}{hint}") from None
    except PermissionError:
        why = f"permission denied{TRY_SUDO if os.geteuid() else ''}"
        if user is not None:
            why = f"{user.name}, who named it, may not read it"
        elif owner is not None:
            why = f"it lies in a folder of {owner.name}, who may not read it (chown {owner.name})"
        raise ConfigError(f"{path} cannot be read: {why}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from None
    try:
        _check_secret(path, os.fstat(fd), owner, is_shared=is_shared)
    except BaseException:
        os.close(fd)
        raise
    return fd


def text_of(path: Path, fd: int) -> str:
    """The text of the file at `path`, whose descriptor is closed. Raises `ConfigError`."""
    with open(fd, "rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES >> 20} MiB: that is no configuration")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not text in UTF-8: correct it with an editor") from None


def seed_file(text: str) -> str | None:
    """What `seed_file` is in a text that was checked."""
    if "seed_file" not in text:
        return None
    name = tomllib.loads(text).get("interface", {}).get("seed_file")
    return name if isinstance(name, str) else None


def beside(path: Path, name: str) -> Path:
    """A file that the configuration names: relative names count from the file itself, not from a link."""
    with Folder.around(path) as (folder, _):
        return folder.path / name


def writer(path: Path) -> User | None:
    """The other user who could have written the file: files that it names are opened with his rights."""
    with Folder.around(path) as (folder, name):
        status = folder.status(name)
    if folder.user is not None or os.geteuid() or status is None or is_trusted(status.st_uid):
        return folder.user
    return User.of(status.st_uid, status.st_gid)


def exists(path: Path) -> bool:
    """Whether there is a file, or a link, of that name."""
    try:
        with Folder.around(path, follow=False) as (folder, name):
            return folder.status(name) is not None
    except OSError:
        return False  # whoever opens it says why


def refuse_existing(path: Path) -> None:
    """Raise `ConfigError` when there is something at `path` already."""
    if exists(path):
        raise ConfigError(
            f"{path} exists already: --force overwrites it (the old identity is lost), -c makes another one"
        )


def refuse_missing(path: Path) -> None:
    """Raise `ConfigError` when there is nothing at `path`, as far as we may know."""
    try:
        with Folder.around(path, follow=False) as (folder, name):
            is_missing = folder.status(name) is None
    except FileNotFoundError:
        is_missing = True
    except OSError:
        return
    if is_missing:
        raise ConfigError(f"{path} does not exist: {_MEND_FILE}")


def create(path: Path, text: str, *, force: bool = False) -> None:
    """Write a new file, and its folder if necessary. Without `force` an existing file is not changed."""
    with as_host_error(f"cannot make the folder {path.parent}", denied=TRY_SUDO):
        Folder.make(path.parent, mode=0o700).close()
    with locked(path):
        if not force:
            refuse_existing(path)
        elif (status := status_of(path)) is not None and stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{path} is a folder: name the configuration's file with -c")
        write(path, text)


def write(path: Path, text: str) -> None:
    """Replace the file as a whole and keep its owner and mode; a new one belongs to the folder's user, 0600.

    A link is followed only if nobody else can have made it. The caller holds the lock.
    """
    with as_host_error(f"cannot write {path}", denied=TRY_SUDO), Folder.around(path) as (folder, name):
        status = folder.status(name)
        if status is None:
            folder.replace(name, text.encode())
            return
        mode, owner = status.st_mode & 0o700, (status.st_uid, status.st_gid)
        if folder.user is not None and is_trusted(status.st_uid):
            # Ours, in another user's folder: it stays ours. No name there is followed.
            with folder.with_own_rights() as own:
                own.replace(name, text.encode(), mode=mode, owner=owner)
        else:
            folder.replace(name, text.encode(), mode=mode, owner=owner)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for a change of this file, from reading it to writing it.

    The folder itself is locked, so no lock file remains. Raises `HostError` if another process holds the lock
    for longer than `LOCK_TIMEOUT_S`.
    """
    with (
        as_host_error(f"cannot open the folder {path.parent}", denied=TRY_SUDO),
        Folder.around(path) as (folder, _),
    ):
        fd = folder.open_again()
    with closing(fd):
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"another nconnect is changing {path}: try again when it has ended"
                    ) from None
                time.sleep(0.02)
        yield


def _check_secret(path: Path, status: os.stat_result, user: User | None, *, is_shared: bool) -> None:
    """Root takes the file of anybody in whose folder it lies, or who was given it in root's own folder."""
    mine = is_trusted(status.st_uid) or (user is not None and status.st_uid == user.uid)
    if not mine and (os.geteuid() or user is not None or is_shared):
        raise ConfigError(f"{path} belongs to another user, who could change it: chown root {path}")
    if status.st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others, and it holds secrets: chmod 600 {path}")
