"""What others do to this machine's network, as the kernel tells it over netlink.

Two sockets: rtnetlink's groups for links, addresses and routes, and nfnetlink's for the firewall (which
takes CAP_NET_ADMIN; without it the firewall is not watched). Layouts: linux/rtnetlink.h,
linux/netfilter/nfnetlink.h and nf_tables.h; all fields in host order but nfgenmsg's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from enum import Flag, auto

from nconnect.io.netlink import read_attributes

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type, flags
_NFGENMSG_BYTES = 4

_NEWLINK, _DELLINK = 16, 17
_NEWADDR, _DELADDR = 20, 21
_NEWROUTE, _DELROUTE = 24, 25
_RTMGRP = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, IPv4 addresses and routes, IPv6 addresses and routes
_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000
_RTA_OIF = 4
_RT_TABLE_MAIN, _RTM_F_CLONED = 254, 0x200
_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_NFNL_SUBSYS_NFTABLES = 10
_NFT_DELETIONS = {2, 5, 8, 11, 14}  # of a table, chain, rule, set, set element
_NFT_CHAINS_AND_RULES = {2, 3, 5, 6, 8}  # new and deleted ones, and a table that takes its own along
_NFTA_TABLE = 1  # the table's name, in each of these messages
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_RECEIVE_BYTES = 1 << 18
_MAX_READS = 64  # in one call


class Change(Flag):
    """What happened since the last look."""

    NONE = 0
    NETWORK = auto()  # a link, an address or a route of somebody else's came, went or changed
    OURS = auto()  # something of our interface's, or of our table's, went
    FIREWALL = auto()  # a chain or a rule of somebody else's came or went


class Monitor:
    """The changes around one interface. `fds` become readable when there are some; `read` never blocks."""

    def __init__(self, interface: str, table: str) -> None:
        self._interface = interface
        self._table = table.encode() + b"\0"
        self._flags: dict[int, int] = {}
        self._route = _socket(socket.NETLINK_ROUTE)
        self._route.bind((0, _RTMGRP))
        self._firewall: socket.socket | None = None
        firewall = _socket(_NETLINK_NETFILTER)
        try:
            firewall.bind((0, 0))
            firewall.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
            self._firewall = firewall
        except OSError:
            firewall.close()

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(s.fileno() for s in (self._route, self._firewall) if s is not None)

    def close(self) -> None:
        for each in (self._route, self._firewall):
            if each is not None:
                each.close()

    def read(self) -> Change:
        """All that has happened; when the kernel lost count, everything may have."""
        change = Change.NONE
        try:
            ours = socket.if_nametoindex(self._interface)
        except OSError:
            ours = 0
            change |= Change.OURS  # the interface itself is gone
        for data in _messages(self._route):
            if data is None:
                return Change.NETWORK | Change.OURS
            for kind, body in _split(data):
                change |= self._of_route(kind, body, ours)
        if self._firewall is not None:
            for data in _messages(self._firewall):
                if data is None:
                    return change | Change.OURS
                for kind, body in _split(data):
                    change |= self._of_firewall(kind, body)
        return change

    def _of_route(self, kind: int, body: memoryview, ours: int) -> Change:
        if kind in (_NEWLINK, _DELLINK) and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            flags &= _IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
            if index == ours:
                return Change.OURS if kind == _DELLINK or not flags & _IFF_UP else Change.NONE
            before = self._flags.get(index)
            if kind == _DELLINK:
                self._flags.pop(index, None)
                return Change.NETWORK
            self._flags[index] = flags
            return Change.NONE if before == flags else Change.NETWORK  # a counter or a name, perhaps
        if kind in (_NEWADDR, _DELADDR) and len(body) >= _ADDRESS.size:
            index = _ADDRESS.unpack_from(body)[4]
            if index != ours:
                return Change.NETWORK
            return Change.OURS if kind == _DELADDR else Change.NONE
        if kind in (_NEWROUTE, _DELROUTE) and len(body) >= _ROUTE.size:
            _, _, _, _, table, _, _, _, flags = _ROUTE.unpack_from(body)
            if table != _RT_TABLE_MAIN or flags & _RTM_F_CLONED:
                return Change.NONE
            raw = dict(read_attributes(body[_ROUTE.size :])).get(_RTA_OIF)
            index = 0 if raw is None else int.from_bytes(raw, "little" if _LITTLE else "big")
            if index != ours:
                return Change.NETWORK
            return Change.OURS if kind == _DELROUTE else Change.NONE
        return Change.NONE

    def _of_firewall(self, kind: int, body: memoryview) -> Change:
        if kind >> 8 != _NFNL_SUBSYS_NFTABLES:
            return Change.NONE
        name = dict(read_attributes(body[_NFGENMSG_BYTES:])).get(_NFTA_TABLE)
        if name is not None and bytes(name) == self._table:
            return Change.OURS if kind & 0xFF in _NFT_DELETIONS else Change.NONE
        return Change.FIREWALL if kind & 0xFF in _NFT_CHAINS_AND_RULES else Change.NONE


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _socket(protocol: int) -> socket.socket:
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
    )
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return made


def _messages(source: socket.socket) -> Iterator[memoryview | None]:
    """What waits, a datagram at a time; None when some were lost for want of room."""
    for _ in range(_MAX_READS):
        try:
            yield memoryview(source.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None


def _split(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]
