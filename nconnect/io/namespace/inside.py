"""The process in the tunnel's namespaces: makes what is there, and answers the daemon and `nconnect run`.

It has CAP_NET_ADMIN over its own network namespace and no other right. The daemon's requests come as pickled
tuples over a socket that nobody else has; who asks by the run socket gets the namespaces, and is asked for
nothing but its uid.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_interface
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nconnect.errors import HostError, NconnectError
from nconnect.host.expressions import VERSIONS
from nconnect.host.nft import TAKEN_UP, taken_up
from nconnect.host.ruleset import AddressSet, Ruleset, deletion, table_name, transactions
from nconnect.io.errors import as_host_error, reason
from nconnect.io.files import paths
from nconnect.io.namespace import userns
from nconnect.io.process.name_keeper import NameKeeper
from nconnect.io.process.privileges import CAP_NET_ADMIN, drop_privileges, set_dumpable
from nconnect.io.system import nftables, sysctl
from nconnect.io.system.host import Host
from nconnect.io.system.host_operations import ignoring
from nconnect.io.system.hosts_file import HOSTS
from nconnect.io.system.monitor import Change, Monitor
from nconnect.io.system.netlink import Netlink
from nconnect.io.system.tun import Tun
from nconnect.model import Address, InterfaceAddress

RESOLVER = Path("/etc/resolv.conf")
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_SEND_TIMEOUT_S = 1.0
_BACKLOG = 128
_IPV6_TRANSPARENT = 75  # linux/in6.h
_TAKEN_UP_TABLE = 110  # a number that nobody else uses in here


class Inside:
    """Everything of the namespaces, made when this is. In the forked process, before it has a thread."""

    def __init__(self, interface: str, resolver: str) -> None:
        """`resolver`: what is to stand in resolv.conf. Raises `HostError`."""
        self._taken_along: list[int] = []
        self._held: set[InterfaceAddress] = set()
        userns.make()
        with as_host_error("cannot set up the tunnel's namespace"):
            self.namespaces = [
                os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "net", "mnt")
            ]
            self._put_files(resolver)
            self._set_up_network()
        drop_privileges((CAP_NET_ADMIN,))
        self.may_be_joined(True)
        self.tun = Tun(interface)
        self.host = Host(interface, paths.state_dir(interface), device=self.tun.index)
        self.names = NameKeeper(interface, HOSTS, ask_resolved=False)
        self.monitor = Monitor(interface, table_name(interface))

    def hold(self, addresses: Iterable[Address]) -> None:
        """Have these addresses here, those of the machine, so that packets to them are not forwarded.

        What peers may reach of the machine itself is decided by the rules for local packets, as elsewhere.
        """
        wanted = {ip_interface(address) for address in addresses}
        with as_host_error("cannot set addresses of lo"), Netlink() as netlink:
            (lo,) = (link.index for link in netlink.links() if link.name == "lo")
            for address in self._held - wanted:
                with ignoring(errno.EADDRNOTAVAIL):
                    netlink.delete_address(lo, address)
            for address in wanted - self._held:
                with ignoring(errno.EEXIST):
                    netlink.add_address(lo, address)
        self._held = wanted

    def take_up(self) -> socket.socket:
        """As `listen`, for connections to any address that the rules hand to it; raises `HostError`."""
        sets = {f"provided{version}": AddressSet(version, ()) for version in VERSIONS}
        trial = Ruleset(f"{table_name(self.tun.name)}_trial", {"taken_up": taken_up(self.tun.name, 1)}, sets)
        nftables.run([*transactions(None, trial), deletion(trial.table)])  # does this kernel have it?
        with Netlink() as netlink:
            (lo,) = (link.index for link in netlink.links() if link.name == "lo")
            for version in VERSIONS:
                with ignoring(errno.EAFNOSUPPORT):
                    netlink.add_marked_as_local(version, TAKEN_UP, _TAKEN_UP_TABLE, lo)
        return self.listen(0, is_transparent=True)

    def listen(self, port: int, *, is_transparent: bool = False) -> socket.socket:
        """A TCP socket on all addresses here, for connections that come by the tunnel."""
        listener = socket.socket(socket.AF_INET6)
        try:
            if is_transparent:
                listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.tun.name.encode())
            listener.bind(("::", port))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def take_along(self, pid: int) -> None:
        """Have a process of this user end when the daemon does, also when that is killed."""
        self._taken_along.append(os.pidfd_open(pid))

    def close(self) -> None:
        for process in self._taken_along:
            with suppress(OSError):
                signal.pidfd_send_signal(process, signal.SIGTERM)

    def may_be_joined(self, may: bool) -> None:
        """Whether other programs of this user may enter the namespaces by our process id, as pasta does."""
        set_dumpable(may)

    @staticmethod
    def _put_files(resolver: str) -> None:
        """Files of our own in /etc, and nothing in the folder of control sockets."""
        folder, hosts = paths.run_dir(), HOSTS.read_bytes() if HOSTS.exists() else b"127.0.0.1 localhost\n"
        userns.hide(folder)
        for target, content in ((HOSTS, hosts), (RESOLVER, resolver.encode())):
            (folder / target.name).write_bytes(content)
            if target.exists():
                userns.bind(folder / target.name, target)

    @staticmethod
    def _set_up_network() -> None:
        with Netlink() as netlink:
            for link in netlink.links():
                if link.name == "lo":
                    netlink.set_link(link.index, mtu=link.mtu, up=True)
        with suppress(HostError):  # so that `ping` needs no capability
            sysctl.write("net/ipv4/ping_group_range", f"{os.getegid()} {os.getegid()}")


def run(
    interface: str, resolver: str, channel: socket.socket, changes: socket.socket, door: socket.socket
) -> None:
    """In the forked process: until the daemon ends.

    `channel`: requests and answers. `changes`: bytes that are `Change`s. `door`: the run socket, listening.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to follow: it takes all back first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    calls = Connection(channel.detach())
    try:
        inside = Inside(interface, resolver)
    except NconnectError as error:
        calls.send((error, None))
        return
    calls.send((None, inside.tun.features))
    with socket.socket(fileno=os.dup(calls.fileno())) as handing:
        socket.send_fds(handing, [b"."], [*inside.tun.fds, *inside.namespaces])
    _serve(inside, calls, changes, door)


def _serve(inside: Inside, calls: Connection, changes: socket.socket, door: socket.socket) -> None:
    door.setblocking(False)
    changes.setblocking(False)
    with selectors.DefaultSelector() as selector:
        for fd in (calls.fileno(), door.fileno(), *inside.monitor.fds):
            selector.register(fd, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == calls.fileno():
                    if not _answer(inside, calls):
                        inside.close()
                        return
                elif key.fd == door.fileno():
                    _hand_out(inside, door)
                elif (change := inside.monitor.read()) != Change.NONE:
                    with suppress(BlockingIOError):  # what it was told before is not read yet
                        changes.send(bytes([change.value]))


def _answer(inside: Inside, calls: Connection) -> bool:
    """One request: (part, name, arguments, named ones). False when the daemon has gone."""
    try:
        part, name, arguments, named = calls.recv()
    except (EOFError, ConnectionError):
        return False
    asked: Any = getattr(inside, part) if part else inside
    value: Any = None
    problem: BaseException | None = None
    try:
        found = getattr(asked, name)
        value = found(*arguments, **named) if callable(found) else found
    except OSError as error:
        problem = HostError(reason(error))
    except Exception as error:
        problem = error if isinstance(error, NconnectError) else HostError(f"{type(error).__name__}: {error}")
    fds = [] if value is None or not isinstance(value, socket.socket) else [value.detach()]
    calls.send((problem, None if fds else value))
    if fds:
        with socket.socket(fileno=os.dup(calls.fileno())) as handing:
            socket.send_fds(handing, [b"."], fds)
        os.close(fds[0])
    return True


def _hand_out(inside: Inside, door: socket.socket) -> None:
    """The namespaces, to a process of this user."""
    with suppress(OSError):
        visitor, _ = door.accept()
        with visitor:
            visitor.settimeout(_SEND_TIMEOUT_S)
            _, uid, _ = _UCRED.unpack(visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            if uid == os.geteuid():
                socket.send_fds(visitor, [b"."], inside.namespaces)
