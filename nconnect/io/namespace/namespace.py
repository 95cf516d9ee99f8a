"""The daemon's end of its namespaces: a device, a host, names and changes as where root runs it.

Every call blocks and may be made by any thread. Raises `HostError`.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from nconnect.errors import HostError
from nconnect.host.facts import HostFacts
from nconnect.host.plan import FORWARDING, HostPlan
from nconnect.io.errors import as_host_error
from nconnect.io.files import paths
from nconnect.io.namespace import inside
from nconnect.io.namespace.dial_out import DialOut
from nconnect.io.namespace.pasta import Pasta
from nconnect.io.net.listening import bind_unix
from nconnect.io.system.host import Host
from nconnect.io.system.monitor import Change, Monitor
from nconnect.io.system.netlink import Netlink
from nconnect.io.system.tun import QUEUES
from nconnect.model import Address, Config
from nconnect.offers.name_codec import Names
from nconnect.wire.tunnel import Feature

log = logging.getLogger(__name__)

_NAMESPACES = 3


class Namespace:
    """One tunnel's (a `daemon.seams.TunnelNetwork`). `device` and `host` are those in it."""

    is_apart = True

    def __init__(
        self, interface: str, pid: int, calls: Connection, changes: socket.socket, door: Path
    ) -> None:
        self.pid = pid
        self._interface = interface
        self._calls = calls
        self._changes = changes
        self._door = door
        self._turn = threading.Lock()
        self._is_closed = False
        self._has_ended = False
        features = self._answer()
        with socket.socket(fileno=os.dup(calls.fileno())) as handed:
            _, fds, _, _ = socket.recv_fds(handed, 1, QUEUES + _NAMESPACES)
        for fd in fds:
            os.set_inheritable(fd, False)
        for fd in fds[QUEUES:]:
            os.close(fd)
        self.device = NamespaceDevice(self, fds[:QUEUES], features)
        self.dial_out = self._take_up()
        self.host = cast(Host, _RemoteHost(self, self.dial_out))
        self.names = self
        self.pasta = Pasta.start(pid)
        if self.pasta.pid:
            self.ask("", "take_along", self.pasta.pid)
        self.ask("", "may_be_joined", False)

    @classmethod
    def start(cls, interface: str) -> Namespace:
        """Fork the process inside. The lock of the interface is held, and no thread has been started."""
        ours, theirs = socket.socketpair()
        changes, changing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = paths.door_path(interface)
        with as_host_error(f"cannot make {path}"):
            path.unlink(missing_ok=True)
            door = bind_unix(path)
        resolver = Pasta.resolver()
        gc.collect()
        gc.freeze()  # so that no collection copies what both processes share
        with as_host_error("cannot start a process"):
            pid = os.fork()
        if not pid:
            try:
                ours.close()
                changes.close()
                inside.run(interface, resolver, theirs, changing, door)
            except Exception:
                log.exception("the process in the tunnel's namespace failed")
            finally:
                os._exit(0)  # no handler, buffer or test runner of the daemon is run twice
        for end in (theirs, changing, door):
            end.close()
        changes.setblocking(False)
        try:
            return cls(interface, pid, Connection(ours.detach()), changes, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Have it end, and wait for that. Commands that `run` started keep an empty network.

        Twice is harmless.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self.device.close()
        self._door.unlink(missing_ok=True)
        self.pasta.close()
        if self.dial_out is not None:
            self.dial_out.close()
        self._calls.close()
        self._changes.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    @property
    def problem(self) -> str:
        return self.pasta.problem

    def monitor(self) -> NamespaceMonitor:
        """The changes inside, and those of the machine's own network."""
        return NamespaceMonitor(self._changes)

    def put_names(self, known: Names) -> bytes:
        """`NameKeeper.put`."""
        return cast(bytes, self.ask("names", "put", known))

    def _take_up(self) -> DialOut | None:
        try:
            return DialOut(self._socket("take_up"))
        except HostError as error:
            log.info("what peers send to provided subnets is forwarded to pasta: %s", error)
            return None

    def listen(self, port: int) -> socket.socket:
        """A TCP socket that listens inside, for connections that come by the tunnel."""
        return self._socket("listen", port)

    def _socket(self, name: str, *arguments: object) -> socket.socket:
        with self._turn:
            self._send("", name, arguments, {})
            self._answer()
            with socket.socket(fileno=os.dup(self._calls.fileno())) as handed:
                _, fds, _, _ = socket.recv_fds(handed, 1, 1)
        return socket.socket(fileno=fds[0])

    def name_server(self) -> socket.socket:
        """Never asked for: names in there stand in the hosts file."""
        raise HostError("this tunnel's names stand in its hosts file")

    def ask(self, part: str, name: str, *arguments: object, **named: object) -> Any:
        """Have the process inside call `part.name(*arguments)`, or read that if it is a value."""
        with self._turn:
            self._send(part, name, arguments, named)
            return self._answer()

    def _send(self, part: str, name: str, arguments: tuple[object, ...], named: dict[str, object]) -> None:
        try:
            self._calls.send((part, name, arguments, named))
        except OSError:
            raise self._gone() from None

    def _gone(self) -> HostError:
        self._end()
        return HostError(
            f"the process in the namespace of {self._interface} has ended: run `nconnect down`, then"
            " `nconnect up`"
        )

    def _end(self) -> None:
        """Without the process inside nothing can be set or taken back: the daemon ends, and fails at that."""
        if not self._is_closed and not self._has_ended:
            self._has_ended = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _answer(self) -> Any:
        try:
            problem, value = self._calls.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if problem is not None:
            raise problem
        return value


class NamespaceDevice:
    """The TUN inside (a `daemon.seams.Device`), read and written out here."""

    def __init__(self, namespace: Namespace, fds: list[int], features: Feature) -> None:
        self.fds = fds
        self.features = features
        self._namespace = namespace

    def index(self) -> int:
        """In its namespace."""
        return cast(int, self._namespace.ask("tun", "index"))

    def renew(self) -> None:
        self._namespace.ask("tun", "renew")

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class NamespaceMonitor(Monitor):
    """What of ours changes inside, and whether the machine's network does, where nothing is ours."""

    def __init__(self, changes: socket.socket) -> None:
        super().__init__("lo", "")
        self._changes = changes

    @property
    def fds(self) -> tuple[int, ...]:
        return (*super().fds, self._changes.fileno())

    def read(self) -> Change:
        change = super().read() & Change.NETWORK
        with suppress(BlockingIOError):
            while told := self._changes.recv(1):
                change |= Change(told[0]) & ~Change.NETWORK
            change |= Change.OURS  # nobody is inside any more: to look at what is ours says so
        return change


class _RemoteHost:
    """Calls each method of `Host` inside.

    While something is provided, the machine's own addresses are there as well (`Inside.hold`): they are
    looked at before each plan, and plans follow changes of the machine's network.
    """

    def __init__(self, namespace: Namespace, dial_out: DialOut | None) -> None:
        self._namespace = namespace
        self._dial_out = dial_out
        self._provides = False
        self._was_applied = False  # else what is removed is a killed daemon's

    def read_facts(self) -> HostFacts:
        self._hold()
        facts = cast(HostFacts, self._namespace.ask("host", "read_facts"))
        return facts if self._dial_out is None else replace(facts, taken_up_at=self._dial_out.port)

    def apply(self, plan: HostPlan) -> None:
        self._was_applied = True
        self._provides = any(name in FORWARDING for name, _ in plan.state.sysctls)
        self._hold()
        if self._provides and self._dial_out is not None:
            self._dial_out.ensure()
        self._namespace.ask("host", "apply", plan)

    def remove(self, *, keep_rules: bool = False) -> None:
        """First the ordinary network: nothing that was meant for the tunnel may leave by it."""
        if self._was_applied:
            self._namespace.pasta.close()
        self._namespace.ask("host", "remove", keep_rules=keep_rules)

    def _hold(self) -> None:
        own: set[Address] = set()
        if self._provides:
            with as_host_error("cannot read the machine's addresses"), Netlink() as netlink:
                own = {held.address.ip for held in netlink.addresses()}
        self._namespace.ask("", "hold", {address for address in own if is_outside(address)})

    def obstacles(self, config: Config, *rest: object) -> tuple[list[str], tuple[str, ...]]:
        """As `Host` finds them; what is dialled out needs no way from in there."""
        if self._dial_out is not None:
            config = replace(config, provide=replace(config.provide, subnets=()))
        found = self._namespace.ask("host", "obstacles", config, *rest)
        return cast(tuple[list[str], tuple[str, ...]], found)

    @property
    def problem(self) -> str:
        return cast(str, self._namespace.ask("host", "problem"))

    def __getattr__(self, name: str) -> Any:
        return partial(self._namespace.ask, "host", name)


def is_outside(address: Address) -> bool:
    """Whether an address of the machine means it to others, too."""
    return not (address.is_loopback or address.is_link_local)
