"""The small part of a daemon that stays root, for what the daemon's own user may not do.

It is a separate process, forked before anything is open. A request is one byte, once followed by names, and
what each request does is fixed at the start. So a daemon in an attacker's hands can ask only for these:

    C   open the configuration, and hand over the descriptor
    S   the same with the file that holds the seed, if there is one
    K   take the interface's lock, and hand it over
    U   remove the lock's file
    L   make the control socket, and hand it over
    A   let all users of this machine connect to the socket; the daemon decides what they may ask
    O   let its owner alone connect
    R   remove the socket's file
    N   and lines of `ADDRESS NAME`: have this machine resolve these names, all of them beneath `.internal`,
        and no other ones of ours (`io.process.name_keeper`)
    D   hand over the socket on which the daemon answers when systemd-resolved asks for these names

It parses nothing but those lines (`offers.name_codec.decode`, which refuses whatever is not exactly of that
form). It has no capability, except if another user can change the configuration: then it has those that it
needs to read with that user's rights. It ends with the daemon, also when that is killed, and takes the names
back.

An answer is `.` with the descriptor, or the error's class and its text; for N `.` and a letter
(`name_keeper`).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nconnect.errors import ConfigError, HostError, NconnectError
from nconnect.io.errors import as_host_error, reason
from nconnect.io.files import config_file, paths
from nconnect.io.files.run_files import OwnRunFiles
from nconnect.io.process.name_keeper import NameKeeper
from nconnect.io.process.privileges import CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID, drop_privileges
from nconnect.io.system import hosts_file
from nconnect.offers import name_codec

_TIMEOUT_S = 20.0  # above what a slow disk takes
MAX_TEXT = 8192
_ERRORS: dict[bytes, type[NconnectError]] = {b"c": ConfigError, b"h": HostError}


class Helper:
    """The daemon's end (a `run_files.RunFiles`). Every call blocks; any thread may."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self._pid = pid
        self._channel = channel
        self._turn = threading.Lock()

    @classmethod
    def start(
        cls, interface: str, config: Path, seed_file: str | None, *, hosts: Path = hosts_file.HOSTS
    ) -> Helper:
        """Fork it. `seed_file`: as the configuration names it. No thread may have been started.

        Raises `HostError`.
        """
        user = config_file.writer(config)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # so that no collection copies what both processes share
        with as_host_error("cannot start a process"):
            pid = os.fork()
        if not pid:
            try:
                _become(theirs.fileno(), (CAP_SETUID, CAP_SETGID, CAP_DAC_READ_SEARCH) if user else ())
                _Work(interface, config, seed_file, hosts).serve(theirs)
            finally:
                os._exit(0)  # no handler, buffer or test runner of the daemon is run twice
        theirs.close()
        ours.settimeout(_TIMEOUT_S)
        return cls(pid, ours)

    def close(self) -> None:
        """Have it end, and wait for that."""
        self._channel.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def open_config(self) -> int:
        return self._ask_for(b"C")

    def open_seed(self) -> int:
        return self._ask_for(b"S")

    def put_names(self, known: name_codec.Names) -> bytes:
        """`NameKeeper.put`."""
        return self._ask(b"N" + name_codec.encode(known))[0]

    def name_server(self) -> socket.socket:
        """A UDP socket on loopback."""
        return socket.socket(fileno=self._ask_for(b"D"))

    def lock(self) -> int:
        lock = self._ask_for(b"K")
        paths.sign_lock(lock)
        return lock

    def unlock(self, lock: int) -> None:
        with suppress(HostError):
            self._ask(b"U")
        os.close(lock)

    def listen(self) -> socket.socket:
        return socket.socket(fileno=self._ask_for(b"L"))

    def let_in(self, *, everybody: bool) -> None:
        with suppress(HostError):
            self._ask(b"A" if everybody else b"O")

    def remove_socket(self) -> None:
        with suppress(HostError):
            self._ask(b"R")

    def _ask_for(self, request: bytes) -> int:
        """A descriptor."""
        return self._ask(request)[1][0]

    def _ask(self, request: bytes) -> tuple[bytes, list[int]]:
        """What the answer says, and its descriptors."""
        with as_host_error("the daemon's helper process does not answer"), self._turn:
            self._channel.send(request)
            answer, descriptors, _, _ = socket.recv_fds(self._channel, MAX_TEXT, 1)
        for fd in descriptors:
            os.set_inheritable(fd, False)
        if answer[:1] == b".":
            return answer[1:], descriptors
        if not answer:
            raise HostError("the daemon's helper process has ended: run `nconnect down`, then `nconnect up`")
        raise _ERRORS[answer[:1]](answer[1:].decode())


class _Work:
    """In the helper."""

    def __init__(self, interface: str, config: Path, seed_file: str | None, hosts: Path) -> None:
        self._interface = interface
        self._config = config
        self._seed_file = None if seed_file is None else config_file.beside(config, seed_file)
        self._files = OwnRunFiles(interface)
        self._lock: os.stat_result | None = None
        self._names = NameKeeper(interface, hosts)
        self._actions: dict[bytes, Callable[[], int | None]] = {
            b"C": lambda: config_file.open_secret(self._config),
            b"S": self._open_seed,
            b"K": self._take_lock,
            b"U": self._remove_lock,
            b"L": lambda: self._files.listen().detach(),
            b"A": lambda: self._files.let_in(everybody=True),
            b"O": lambda: self._files.let_in(everybody=False),
            b"R": self._files.remove_socket,
            b"D": self._names.server,
        }

    def serve(self, channel: socket.socket) -> None:
        while request := channel.recv(1 + name_codec.MAX_BYTES + 1):
            fd, said = None, b""
            try:
                if request[:1] == b"N":
                    said = self._put_names(request[1:])
                else:
                    fd = self._actions[request]()
                socket.send_fds(channel, [b"." + said], [] if fd is None else [fd])
            except KeyError:
                channel.send(b"hthere is no such request")
            except ConfigError as error:
                channel.send(b"c" + str(error).encode()[: MAX_TEXT - 1])
            except HostError as error:
                channel.send(b"h" + str(error).encode()[: MAX_TEXT - 1])
            except OSError as error:
                channel.send(b"h" + reason(error).encode())
            if fd is not None:
                os.close(fd)
        with suppress(HostError, OSError):
            self._names.take_back()

    def _put_names(self, lines: bytes) -> bytes:
        try:
            known = name_codec.decode(lines)
        except ValueError:
            raise HostError("these are not names of peers") from None
        return self._names.put(known)

    def _open_seed(self) -> int:
        if self._seed_file is None:
            raise ConfigError("seed_file cannot change while the interface is up")
        return config_file.open_secret(self._seed_file, user=config_file.writer(self._config))

    def _take_lock(self) -> int:
        lock = self._files.lock()
        self._lock = os.fstat(lock)
        return lock

    def _remove_lock(self) -> None:
        path = paths.lock_path(self._interface)
        if self._lock is not None and path.exists() and os.path.samestat(self._lock, os.lstat(path)):
            path.unlink()


def _become(channel: int, keep: tuple[int, ...]) -> None:
    """Hold nothing of the daemon's but the channel, and no right that is not needed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)  # the daemon gets them too, and decides
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.closerange(3, channel)
    os.closerange(channel + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    drop_privileges(keep)
