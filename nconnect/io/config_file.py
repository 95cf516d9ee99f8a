"""The configuration file on the disk: found, read if it is secret, replaced as a whole under a lock."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nconnect.config import parse
from nconnect.errors import ConfigError, HostError
from nconnect.io.account import CONFIG_DIR, trusted_owners
from nconnect.io.errors import reason
from nconnect.io.files import write_atomically
from nconnect.model import DEFAULT_INTERFACE, Config

MAX_BYTES = 16 << 20  # guessed: far above 10,000 peers
LOCK_TIMEOUT_S = 15.0  # above what one change takes, a reload of the daemon included
_MEND_FILE = "make it with `nconnect init`, or name it with -c"
_MEND_SEED = "write a seed to it (openssl rand -hex 32), or name another file"


def default_path(interface: str = DEFAULT_INTERFACE) -> Path:
    return CONFIG_DIR / f"{interface}.toml"


def choose_path(option: Path | None) -> Path:
    """The file that is meant: the option's, else `$NCONNECT_CONFIG`, else that of nc0."""
    if option is not None:
        return option
    return Path(os.environ.get("NCONNECT_CONFIG") or default_path())


def interface_of(path: Path) -> str:
    """The interface that a configuration file is for: the stem of its name (of a link's own name)."""
    return path.stem


def load(path: Path) -> Config:
    """Read and check a file. Raises `ConfigError`, whose lines carry the path as it was given."""
    return check(path, read(path))


def check(path: Path, text: str) -> Config:
    """Check a text as if it stood at `path`. Raises `ConfigError`."""

    def public_key_of(seed: bytes) -> bytes:
        from nconnect.crypto.keys import Identity

        return Identity(seed).public_key

    def read_seed_file(name: str) -> str:
        return read(path.resolve().parent / name, mend=_MEND_SEED)

    return parse(
        text,
        interface=interface_of(path),
        source=str(path),
        read_seed_file=read_seed_file,
        public_key_of=public_key_of,
    )


def read(path: Path, *, mend: str = _MEND_FILE) -> str:
    """A secret file's text. Raises `ConfigError` when it cannot be read, or when others can read it.

    `mend`: what to do when there is none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO does not hold us up
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: {mend}") from None
    except PermissionError:
        raise ConfigError(f"{path} cannot be read: permission denied (try with sudo)") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from None
    try:
        _check_secret(path, os.fstat(fd))
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 20} MiB: that is no configuration")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not text in UTF-8: correct it with an editor") from None


def refuse_existing(path: Path) -> None:
    """Raise `ConfigError` when there is something at `path` already."""
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{path} exists already: --force overwrites it (the old identity is lost), -c makes another one"
        )


def create(path: Path, text: str, *, force: bool = False) -> None:
    """Write a new file, and its folder if need be. Without `force` one that exists is left alone."""
    if not path.parent.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise HostError(f"cannot make the folder {path.parent}: {reason(error)}{_hint(error)}") from None
    with locked(path):
        if not force:
            refuse_existing(path)
        elif path.is_dir():
            raise ConfigError(f"{path} is a folder: name the configuration's file with -c")
        write(path, text)


def write(path: Path, text: str) -> None:
    """Replace the file as a whole: 0600, its owner kept, a link followed. The caller holds the lock."""
    target = path.resolve()
    try:
        try:
            status = target.stat()
            owner = (status.st_uid, status.st_gid)
        except FileNotFoundError:
            owner = None
        write_atomically(target, text.encode(), owner=owner)
    except OSError as error:
        raise HostError(f"cannot write {path}: {reason(error)}{_hint(error)}") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that every change of this file is made under, from reading it to writing it.

    It is a lock of the folder itself, so no lock file stays behind. Raises `HostError` when somebody else
    holds it for longer than `LOCK_TIMEOUT_S`.
    """
    folder = path.resolve().parent
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot open the folder {folder}: {reason(error)}{_hint(error)}") from None
    try:
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
    finally:
        os.close(fd)


def _check_secret(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a file: name the configuration's file with -c")
    if status.st_uid not in trusted_owners():
        raise ConfigError(f"{path} belongs to another user, who could change it: chown root {path}")
    if status.st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others, and it holds secrets: chmod 600 {path}")


def _hint(error: OSError) -> str:
    return " (try with sudo)" if isinstance(error, PermissionError) and os.geteuid() else ""
