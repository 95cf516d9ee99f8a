"""The connections that the kernel tracks, read and deleted over ctnetlink.

One dump finds the connections; their deletions go back many to a send, so that 20,000 of them take a fraction
of a second. Byte layouts: linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h; headers are in host order,
ports, zones and addresses in network order. Everything blocks, and gives the interpreter away at each
message, which holds about 200 connections: no other thread waits for long.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from nconnect.host.judge import Flow
from nconnect.io.system.netlink_socket import (
    ACK,
    DUMP,
    NETFILTER,
    NetlinkError,
    NetlinkSocket,
    attribute,
    read_attributes,
)
from nconnect.model import Prefix

_NFGENMSG = struct.Struct("=BBH")  # family, version, resource
_PORT = struct.Struct(">H")
# How the kernel begins a connection (nf_conntrack_netlink.c): nfgenmsg;
# length and type of CTA_TUPLE_ORIG, in it of CTA_TUPLE_IP, in it of the source; then that address.
_OPENER = {4: struct.Struct("=4x2xH2xH2xH4s"), 6: struct.Struct("=4x2xH2xH2xH16s")}
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_CTNETLINK = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_NEW, _GET, _DELETE = _CTNETLINK | 0, _CTNETLINK | 1, _CTNETLINK | 2  # IPCTNL_MSG_CT_*
_GET_STATS = _CTNETLINK | 5  # IPCTNL_MSG_CT_GET_STATS
_CTA_TUPLE_ORIG, _CTA_ZONE = 1, 18
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_SOURCE, _CTA_IP_DESTINATION = (1, 3), (2, 4)  # IPv4's and IPv6's
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}

_NOTHING = memoryview(b"")
_DELETIONS = 100  # in one send: as many errors may come back, each up to 1 KiB of a buffer of 208 KiB
_UNAVAILABLE = {errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP}  # the kernel has no ctnetlink


@dataclass(frozen=True, slots=True)
class Entry:
    """One tracked connection. `tuple` and `zone` are the attributes that name it in a deletion."""

    family: int
    source: bytes
    destination: bytes
    protocol: int
    source_port: int | None
    port: int | None
    tuple: bytes
    zone: bytes = b""

    def flow(self) -> Flow:
        """The connection as the rules see it."""
        return Flow(
            _PROTOCOLS.get(self.protocol, str(self.protocol)),
            ip_address(self.source),
            ip_address(self.destination),
            self.source_port,
            self.port,
        )


def forget(prefixes: Iterable[Prefix], keep: Callable[[Flow], bool] | None = None) -> bool:
    """Delete the connections from and to these addresses; False when the kernel has no ctnetlink.

    With `keep`, of those that the addresses opened only the ones for which it is false; the others stay.
    Raises `OSError` when the kernel refuses, such as for want of CAP_NET_ADMIN.
    """
    held = tuple(prefixes)
    try:
        with _Conntrack() as netlink:
            for version in sorted({prefix.version for prefix in held}):
                holds = _membership(held, version)
                allowed = None if keep is None else _remembered(keep)
                gone = [
                    entry
                    for entry in netlink.entries(version)
                    if (
                        holds(entry.source) and not allowed(entry)
                        if allowed is not None
                        else holds(entry.source) or holds(entry.destination)
                    )
                ]
                netlink.delete(gone)
    except OSError as error:
        if error.errno in _UNAVAILABLE:
            return False
        raise
    return True


def count(owner: Callable[[bytes], str | None]) -> dict[str, int]:
    """How many connections each owner has opened. `owner` is asked once for each source address.

    None of what has no owner is counted, and nothing where the kernel has no ctnetlink.
    """
    opened: Counter[bytes] = Counter()
    try:
        with _Conntrack() as netlink:
            for version in _FAMILIES:
                opened.update(netlink.sources(version))
    except OSError as error:
        if error.errno not in _UNAVAILABLE:
            raise
    found: dict[str, int] = {}
    for source, number in opened.items():
        name = owner(source)
        if name is not None:
            found[name] = found.get(name, 0) + number
    return found


def load() -> None:
    """Have the kernel load connection tracking, whose settings are there from then on."""
    try:
        with _Conntrack() as netlink:
            netlink.statistics()
    except OSError:
        pass  # no such module, or no right to ask: then the settings are absent


def parse(message: memoryview) -> Entry | None:
    """One message of a dump, from its nfgenmsg on; None when it is not a connection."""
    attributes = dict(read_attributes(message[_NFGENMSG.size :]))
    original = attributes.get(_CTA_TUPLE_ORIG)
    if original is None:
        return None
    parts = dict(read_attributes(original))
    ends = dict(read_attributes(parts.get(_CTA_TUPLE_IP, _NOTHING)))
    source, destination = (
        bytes(ends.get(ipv4) or ends.get(ipv6, _NOTHING))
        for ipv4, ipv6 in (_CTA_IP_SOURCE, _CTA_IP_DESTINATION)
    )
    transport = dict(read_attributes(parts.get(_CTA_TUPLE_PROTO, _NOTHING)))
    protocol = transport.get(_CTA_PROTO_NUM, _NOTHING)
    source_port, port = (
        _PORT.unpack(transport[field])[0] if len(transport.get(field, _NOTHING)) == _PORT.size else None
        for field in (_CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT)
    )
    if len(source) not in (4, 16) or len(destination) != len(source):
        return None
    return Entry(
        message[0], source, destination, protocol[0] if len(protocol) == 1 else 0,
        source_port, port, bytes(original), bytes(attributes.get(_CTA_ZONE, _NOTHING)),
    )  # fmt: skip


def opener(message: memoryview, version: int) -> bytes:
    """The source address of a connection in a dump, from its nfgenmsg on. Raises `NetlinkError`."""
    layout = _OPENER[version]
    if len(message) >= layout.size:
        original, addresses, end, source = layout.unpack_from(message)
        kinds = (original & _TYPE_MASK, addresses & _TYPE_MASK, end & _TYPE_MASK)
        if kinds == (_CTA_TUPLE_ORIG, _CTA_TUPLE_IP, _CTA_IP_SOURCE[version == 6]):
            return bytes(source)
    raise NetlinkError(errno.EBADMSG, "connection of unknown layout")


class _Conntrack(NetlinkSocket):
    """The kernel's table of connections, over a socket of the calling thread's network namespace.

    A context manager; blocking.
    """

    def __init__(self) -> None:
        super().__init__(NETFILTER)

    def entries(self, version: int) -> Iterator[Entry]:
        """All connections of one IP version. Take all of them before the next call."""
        for kind, body in self._dump(version):
            if kind == _NEW and (entry := parse(body)) is not None:
                yield entry

    def sources(self, version: int) -> Iterator[bytes]:
        """Who opened each connection of one IP version; less work than `entries`."""
        for kind, body in self._dump(version):
            if kind == _NEW:
                yield opener(body, version)

    def statistics(self) -> None:
        """The kernel's own counts, which nobody reads here."""
        self.request(_GET_STATS, 0, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0))

    def delete(self, entries: list[Entry]) -> None:
        """Delete these connections; those that have ended meanwhile are no error."""
        for at in range(0, len(entries), _DELETIONS):
            *others, last = [(_DELETE, 0, _deletion(entry)) for entry in entries[at : at + _DELETIONS]]
            # The kernel answers the others only on an error.
            self.send(*others, (_DELETE, ACK, last[2]))
            for _ in self.answers(ignored=(errno.ENOENT,)):
                pass

    def _dump(self, version: int) -> Iterator[tuple[int, memoryview]]:
        self.send((_GET, DUMP, _NFGENMSG.pack(_FAMILIES[version], 0, 0)))
        return self.answers()


def _deletion(entry: Entry) -> bytes:
    named = attribute(_CTA_TUPLE_ORIG | 0x8000, entry.tuple)  # NLA_F_NESTED
    if entry.zone:
        named += attribute(_CTA_ZONE, entry.zone)
    return _NFGENMSG.pack(entry.family, 0, 0) + named


def _membership(prefixes: Iterable[Prefix], version: int) -> Callable[[bytes], bool]:
    """Whether an address in network order lies in one of the prefixes of this version."""
    networks: dict[int, set[int]] = {}  # by netmask
    for prefix in prefixes:
        if prefix.version == version:
            networks.setdefault(int(prefix.netmask), set()).add(int(prefix.network_address))
    known: dict[bytes, bool] = {}

    def holds(address: bytes) -> bool:
        found = known.get(address)
        if found is None:
            value = int.from_bytes(address)
            found = known[address] = any(value & mask in starts for mask, starts in networks.items())
        return found

    return holds


def _remembered(keep: Callable[[Flow], bool]) -> Callable[[Entry], bool]:
    """`keep`, asked once for all connections that differ in their source ports alone."""
    known: dict[tuple[int, bytes, bytes, int | None], bool] = {}

    def allowed(entry: Entry) -> bool:
        key = (entry.protocol, entry.source, entry.destination, entry.port)
        found = known.get(key)
        if found is None:
            found = known[key] = keep(entry.flow())
        return found

    return allowed
