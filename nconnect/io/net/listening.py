"""Makes listening sockets without an event loop, before a process gives up its rights."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.errors import reason
from nconnect.model import Address

BACKLOG = 1024
_DIRECT_BACKLOG = 128  # of `bind_direct`: peers alone connect
IP_PKTINFO = 8  # linux/in.h; Python names it from 3.14 on


def bind_tcp(host: str, port: int) -> socket.socket:
    """A non-blocking listening socket; `::` accepts IPv4 too. Raises `HostError` in one line."""
    return _bind(host, port, socket.SOCK_STREAM)


def bind_udp(host: str, port: int) -> socket.socket:
    """A datagram socket, not blocking, that says at which of our addresses each datagram came.

    `::` takes IPv4 too. Raises `HostError` in one line.
    """
    return _bind(host, port, socket.SOCK_DGRAM)


def bind_direct(
    version: int, port: int, kind: int, set_options: Callable[[socket.socket], None]
) -> socket.socket:
    """A UDP socket, or a listening TCP one, of direct paths: for IP version 4 or 6 alone, not blocking.

    `set_options` is called before the port is taken. Raises `HostError` in one line.
    """
    is_tcp = kind == socket.SOCK_STREAM
    try:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise HostError(f"cannot use IPv{version} for direct paths: {reason(error)}") from error
    try:
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_options(made)
        made.bind(("", port))
        if is_tcp:
            made.listen(_DIRECT_BACKLOG)
    except OSError as error:
        made.close()
        hint = "choose another direct_port"
        if error.errno == errno.EACCES:
            hint = "ports below 1024 need root, or CAP_NET_BIND_SERVICE: choose a higher direct_port"
        name = f"{'TCP' if is_tcp else 'UDP'} port {port}"
        raise HostError(f"cannot use {name} for direct paths: {reason(error)} ({hint})") from error
    return made


def _bind(host: str, port: int, kind: int) -> socket.socket:
    try:
        infos = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = infos[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "not a host name"
        raise HostError(f"cannot listen on {host}: {why}") from error
    try:
        listener.setblocking(False)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        else:  # without SO_REUSEADDR, which lets several UDP sockets have one port
            _ask_for_destination(listener)
            listener.bind(address)
    except OSError as error:
        listener.close()
        hint = "is another node running? choose another address or port"
        if error.errno == errno.EACCES:
            hint = "ports below 1024 need root, or CAP_NET_BIND_SERVICE"
        name = f"port {port}" if kind == socket.SOCK_STREAM else f"UDP port {port}"
        raise HostError(f"cannot listen on {host} {name}: {reason(error)} ({hint})") from error
    return listener


def _ask_for_destination(listener: socket.socket) -> None:
    """With each datagram comes the address that it was sent to (ip(7), RFC 3542 section 6.1)."""
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def bind_unix(path: Path) -> socket.socket:
    """A listening unix socket, mode 0600, replacing a dead one. Raises `HostError` in one line."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        listener.bind(str(path))
        os.chmod(path, 0o600)  # before listen: until then nobody can connect
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen on {path}: {reason(error)}") from error
    return listener


def is_any_address(host: str) -> bool:
    """Whether this address means all addresses of this machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def outgoing_address() -> str:
    """The address from which this machine reaches others, or its name. Sends nothing."""
    for far in ("192.0.2.1", "2001:db8::1"):  # RFC 5737, 3849
        with suppress(OSError):
            return str(source_for(ip_address(far)))
    return socket.gethostname()


def source_for(to: Address, port: int = 9) -> Address:
    """This machine's own address on the way to another one. Raises `OSError` where no way leads there."""
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(to), port))  # UDP: chooses a route, sends nothing
        return ip_address(probe.getsockname()[0])


def is_orphan(sock: socket.socket) -> bool:
    """Whether the machine no longer has the address that a connection leaves from."""
    host, _, *more = sock.getsockname()
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0, *more))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return False
