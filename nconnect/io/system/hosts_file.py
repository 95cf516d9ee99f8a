"""Writes our block in this machine's hosts file (`nconnect.host.hosts_block`).

The file is replaced as a whole by one of the same owner, mode and extended attributes. Where that cannot be
(a container's /etc/hosts, or that of `ip netns exec`, is a mount point, and a mount point cannot be replaced;
/etc may be read-only beside it), it is rewritten in place: what stands before the block is not touched.

Where there is no such file, one is made; a line in it says so, and when nothing but that line is left, it is
removed.

Interfaces of ours take turns, by a lock on the file (flock(2)): who reads what another one has half written
would take its own block for removed. Other programs know nothing of it, and two that edit the file at the
same time can undo each other's change, as always with this file; it is looked at again just before it is
replaced, and whoever keeps a block there sets it again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from nconnect.errors import HostError
from nconnect.host import hosts_block
from nconnect.io.errors import as_host_error
from nconnect.offers.name_codec import Names

HOSTS = Path("/etc/hosts")
MAX_BYTES = 32 << 20  # lists of blocked advertisers have some MB
NSSWITCH = Path("/etc/nsswitch.conf")
MADE = b"# nconnect made this file: there was none\n"
_TURN_S = 1.0  # any user may hold a lock on a file that everybody reads: then without a turn
_ATTEMPTS = 5  # another program changed it meanwhile
_MOUNTS = Path("/proc/self/mountinfo")
# The file cannot be replaced, but perhaps rewritten.
_IN_PLACE = (errno.EBUSY, errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP)


def put(interface: str, known: Names, path: Path = HOSTS) -> bool:
    """Have exactly these names in the interface's block; whether the file had to be changed.

    Raises `HostError`.
    """
    what = f"cannot write names into {path}"
    with as_host_error(what):
        real = Path(os.path.realpath(path))
        for _ in range(_ATTEMPTS):
            if not real.exists():
                if not known:
                    return False
                _create(real)
            with open(os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                _take_turn(file.fileno())
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise HostError(f"{what}: it is no file")
                old = file.read(MAX_BYTES + 1)
                if len(old) > MAX_BYTES:
                    raise HostError(f"{what}: it is larger than {MAX_BYTES >> 20} MiB")
                new = hosts_block.with_block(old, interface, known)
                if new == MADE and not _is_mount_point(real):
                    if _is_same(os.stat(real), status):
                        real.unlink()
                        return True
                    continue
                if new == old:
                    return False
                if _write(real, f".{real.name}.{interface}", file.fileno(), status, old, new):
                    return True
    raise HostError(f"{what}: another program keeps changing it")


def nss_sources() -> list[str] | None:
    """What the C library asks for the addresses of a name (nsswitch.conf(5)); None when nothing is said."""
    with suppress(OSError):
        for line in NSSWITCH.read_text(errors="replace").splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["hosts:"]:
                return words[1:]
    return None


def names_in(interface: str, path: Path = HOSTS) -> set[str]:
    """The names that the file has outside of the interface's block, in lower case."""
    try:
        content = path.read_bytes()
    except OSError:
        return set()
    lines = hosts_block.without_block(content, interface).decode(errors="replace").splitlines()
    return {name.lower() for line in lines for name in line.partition("#")[0].split()[1:]}


def _take_turn(fd: int) -> None:
    """Wait until no other interface of ours is at the file; the turn ends when it is closed."""
    until = time.monotonic() + _TURN_S
    while time.monotonic() < until:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.005)


def _create(path: Path) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(MADE)


def _write(path: Path, temporary: str, fd: int, status: os.stat_result, old: bytes, new: bytes) -> bool:
    """False when the file is not as it was read any more. `status`: of `fd`, before it was read."""
    if not _is_mount_point(path):
        try:
            return _replace(path, path.with_name(temporary), fd, status, new)
        except OSError as error:
            if error.errno not in _IN_PLACE:
                raise
    return _rewrite(path, status, old, new)


def _is_mount_point(path: Path) -> bool:
    """Whether the name itself is a mount point, so that nothing can be moved there (proc(5), mountinfo)."""
    wanted = str(path).replace("\\", r"\134").replace(" ", r"\040")
    return any(line.split(" ")[4] == wanted for line in _MOUNTS.read_text().splitlines())


def _replace(path: Path, temporary: Path, fd: int, status: os.stat_result, new: bytes) -> bool:
    temporary.unlink(missing_ok=True)  # of a helper that was killed
    made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(made, "wb") as file:
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(made, status.st_uid, status.st_gid)
            os.fchmod(made, stat.S_IMODE(status.st_mode))
            for name in os.listxattr(fd):
                os.setxattr(made, name, os.getxattr(fd, name))
            file.write(new)
            file.flush()
            os.fsync(made)
        if _is_same(os.stat(path), status):
            os.replace(temporary, path)
            return True
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _rewrite(path: Path, status: os.stat_result, old: bytes, new: bytes) -> bool:
    """In place, from the first byte that differs; what was there comes back when that fails (a full disk)."""
    with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "wb", buffering=0) as file:
        fd = file.fileno()
        if not _is_same(os.fstat(fd), status):
            return False
        shorter = min(len(old), len(new))
        same = next((at for at in range(shorter) if old[at] != new[at]), shorter)
        try:
            _write_all(fd, new, same)
        except OSError:
            _write_all(fd, old, same)
            raise
        return True


def _write_all(fd: int, content: bytes, start: int) -> None:
    at = start
    while at < len(content):
        at += os.pwrite(fd, content[at:], at)
    os.ftruncate(fd, len(content))


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is the same file, unchanged."""
    return os.path.samestat(one, other) and (
        one.st_mtime_ns,
        one.st_size,
    ) == (other.st_mtime_ns, other.st_size)
