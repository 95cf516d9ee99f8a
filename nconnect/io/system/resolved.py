"""Tells systemd-resolved which server answers for names of ours: org.freedesktop.resolve1(5), over D-Bus.

The interface gets one DNS server, our own on loopback, and *routing-only* domains: PROVIDER.internal for each
provider. So resolved sends it questions for names beneath these and no other name, and asks other servers for
everything else. resolved forgets all of it when the interface goes, also when a daemon is killed.

The port needs SetLinkDNSEx, which resolved has since version 246 (2020). jeepney speaks D-Bus.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import closing, suppress
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from nconnect.errors import HostError
from nconnect.io.net import name_servers
from nconnect.io.system import hosts_file

if TYPE_CHECKING:
    from jeepney.io.blocking import DBusConnection

# resolved's own addresses on this machine (systemd-resolved.service(8), /etc/resolv.conf)
STUBS = frozenset(("127.0.0.53", "127.0.0.54"))
_SERVICE, _OBJECT = "org.freedesktop.resolve1", "/org/freedesktop/resolve1"
_TIMEOUT_S = 2.0


def is_asked() -> bool:
    """Whether programs of this machine ask systemd-resolved: by resolv.conf alone, or by nss-resolve(8)."""
    servers = name_servers.servers()
    if servers and STUBS.issuperset(servers):
        return True
    return "resolve" in (hosts_file.nss_sources() or ())


def set_names(interface: str, server: tuple[str, int], domains: Iterable[str]) -> None:
    """Have names in `domains` asked of `server`, IPv4 address and port. Blocks; raises `HostError`."""
    with _Resolved(interface) as resolved:
        # First what else the link would be asked for: nothing.
        resolved.call("SetLinkDefaultRoute", "ib", False)
        resolved.call("SetLinkLLMNR", "is", "no")
        resolved.call("SetLinkMulticastDNS", "is", "no")
        # The answers come from this machine: they are not signed, and need no encryption.
        resolved.call("SetLinkDNSSEC", "is", "no")
        resolved.call("SetLinkDNSOverTLS", "is", "no")
        resolved.call("SetLinkDomains", "ia(sb)", [(domain, True) for domain in domains])
        address = IPv4Address(server[0]).packed
        resolved.call("SetLinkDNSEx", "ia(iayqs)", [(socket.AF_INET, address, server[1], "")])


def revert(interface: str) -> None:
    """Take it back; nothing happens when the interface, or resolved, is not there any more."""
    with suppress(HostError), _Resolved(interface) as resolved:
        resolved.call("RevertLink", "i")


class _Resolved:
    """A connection to the system's bus, for calls about one interface."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._index = 0
        self._connection: DBusConnection | None = None

    def __enter__(self) -> _Resolved:
        try:
            from jeepney.io.blocking import open_dbus_connection

            self._index = socket.if_nametoindex(self._interface)
            self._connection = open_dbus_connection(bus="SYSTEM")
        except Exception as error:  # jeepney has errors of its own, and of the standard library
            raise HostError(f"systemd-resolved cannot be told: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self._connection is not None
        with suppress(OSError), closing(self._connection):
            pass

    def call(self, method: str, signature: str, *arguments: Any) -> None:
        from jeepney import DBusAddress, MessageFlag, MessageType, new_method_call

        assert self._connection is not None
        target = DBusAddress(_OBJECT, _SERVICE, f"{_SERVICE}.Manager")
        message = new_method_call(target, method, signature, (self._index, *arguments))
        message.header.flags |= MessageFlag.no_auto_start
        try:
            answer = self._connection.send_and_get_reply(message, timeout=_TIMEOUT_S)
        except Exception as error:
            raise HostError(f"systemd-resolved does not answer: {error or type(error).__name__}") from None
        if answer.header.message_type is not MessageType.method_return:
            why = answer.body[0] if answer.body else "no reason given"
            raise HostError(f"systemd-resolved refused {method}: {why}")
