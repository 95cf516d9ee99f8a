"""What others change in this machine's network, as the kernel reports it over netlink.

Two sockets: rtnetlink's groups for links, addresses, routes and forwarding, and nfnetlink's for the firewall
(which takes CAP_NET_ADMIN; without it the firewall is not watched). Layouts: linux/rtnetlink.h,
linux/netconf.h, linux/netfilter/nfnetlink.h and nf_tables.h; all fields in host order but nfgenmsg's.

A burst of messages that no socket buffer holds is normal here: a routing daemon starts, or a program fills a
set. The kernel then drops messages. By default it also sets an error on the socket (ENOBUFS), and with it
POLLERR, on which an event loop may stop to watch the descriptor for good. So that error is switched off, and
what was dropped is read from the socket's own counter: then everything may have changed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from enum import Flag, auto

from nconnect.io.system.netlink import (
    DELADDR,
    DELROUTE,
    IFADDRMSG,
    IFF_UP,
    IFINFOMSG,
    NEWADDR,
    NEWLINK,
    NEWROUTE,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTA_OIF,
    RTM_F_CLONED,
    RTMSG,
)
from nconnect.io.system.netlink_socket import (
    NETFILTER,
    RECEIVE_BYTES,
    NetlinkError,
    messages,
    open_socket,
    read_attributes,
)

_NFGENMSG_BYTES = 4

_DELLINK = 17
_NEWRULE, _DELRULE = 32, 33
# A setting of net.ipv4.conf or net.ipv6.conf changed. netconfmsg is the family, padded to 4 bytes.
_NEWNETCONF, _NETCONF_BYTES, _NETCONFA_IFINDEX, _NETCONFA_FORWARDING = 80, 4, 1, 2
_EVERY_INTERFACE = struct.pack("=i", -1)
# Multicast groups of linux/rtnetlink.h, as bits: links; IPv4 addresses, routes and rules; IPv6 addresses,
# routes and rules; IPv4 and IPv6 settings.
_RTMGRP = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18 | 1 << 23 | 1 << 24
_IFF_RUNNING, _IFF_LOWER_UP = 0x40, 0x10000
_NFNLGRP_NFTABLES = 7
_NFNL_SUBSYS_NFTABLES = 10
_NFT_DELETIONS = {2, 5, 8, 11, 14}  # of a table, chain, rule, set, set element
_NFT_CHAINS_AND_RULES = {2, 3, 5, 6, 8}  # new and deleted ones, and a table that takes its own along
_NFTA_TABLE = 1  # the table's name, in each of these messages
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_NO_ENOBUFS = 270, 1, 5
_SO_MEMINFO, _MEMINFO = 55, struct.Struct("=9I")  # linux/sock_diag.h: the last one is SK_MEMINFO_DROPS
# Read and understood in one call; more are read and taken for a change of everything. Measured: 6 us each.
_MAX_PARSED = 512
_MAX_READS = 8192  # in one call, which is more than a buffer of 1 MiB holds: the rest is for the next call


class Change(Flag):
    """What happened since the last look."""

    NONE = 0
    NETWORK = auto()  # a link, an address or a route of somebody else's came, went or changed
    OURS = auto()  # something of our interface's, or of our table's, went, or forwarding was set
    FIREWALL = auto()  # a chain or a rule of somebody else's came or went
    POLICY = auto()  # a rule of `ip rule`, or a route of a table other than main
    ALL = NETWORK | OURS | FIREWALL | POLICY


class Monitor:
    """The changes around one interface. `fds` become readable when there are some; `read` never blocks."""

    def __init__(self, interface: str, table: str) -> None:
        self._interface = interface
        self._table = table.encode() + b"\0"
        self._flags: dict[int, int] = {}
        self._sources = [_Source(socket.NETLINK_ROUTE, self._of_route)]
        firewall = _Source(NETFILTER, self._of_firewall)
        self._sources[0].socket.bind((0, _RTMGRP))
        try:
            firewall.socket.bind((0, 0))
            firewall.socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
            self._sources.append(firewall)
        except OSError:
            firewall.socket.close()

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(source.socket.fileno() for source in self._sources)

    def close(self) -> None:
        for source in self._sources:
            source.socket.close()

    def read(self) -> Change:
        """All that has happened since the last call. When messages were dropped, everything may have."""
        change = Change.NONE
        try:
            ours = socket.if_nametoindex(self._interface)
        except OSError:
            ours = 0
            change |= Change.OURS  # the interface itself is gone
        for source in self._sources:
            change |= source.read(ours)
        return change

    def _of_route(self, kind: int, body: memoryview, ours: int) -> Change:
        if kind in (NEWLINK, _DELLINK) and len(body) >= IFINFOMSG.size:
            _, _, index, flags, _ = IFINFOMSG.unpack_from(body)
            flags &= IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
            if index == ours:
                return Change.OURS if kind == _DELLINK or not flags & IFF_UP else Change.NONE
            before = self._flags.get(index)
            if kind == _DELLINK:
                self._flags.pop(index, None)
                return Change.NETWORK
            self._flags[index] = flags
            return Change.NONE if before == flags else Change.NETWORK  # a counter or a name, perhaps
        if kind in (NEWADDR, DELADDR) and len(body) >= IFADDRMSG.size:
            index = IFADDRMSG.unpack_from(body)[4]
            if index != ours:
                return Change.NETWORK
            return Change.OURS if kind == DELADDR else Change.NONE
        if kind in (NEWROUTE, DELROUTE) and len(body) >= RTMSG.size:
            _, _, _, _, table, _, _, _, flags = RTMSG.unpack_from(body)
            if flags & RTM_F_CLONED or table == RT_TABLE_LOCAL:
                return Change.NONE
            if table != RT_TABLE_MAIN:
                return Change.POLICY
            raw = dict(read_attributes(body[RTMSG.size :])).get(RTA_OIF)
            index = 0 if raw is None else int.from_bytes(raw, sys.byteorder)
            if index != ours:
                return Change.NETWORK
            return Change.OURS if kind == DELROUTE else Change.NONE
        if kind in (_NEWRULE, _DELRULE):
            return Change.POLICY
        if kind == _NEWNETCONF:
            told = dict(read_attributes(body[_NETCONF_BYTES:]))
            everywhere = bytes(told.get(_NETCONFA_IFINDEX, b"")) == _EVERY_INTERFACE
            return Change.OURS if everywhere and _NETCONFA_FORWARDING in told else Change.NONE
        return Change.NONE

    def _of_firewall(self, kind: int, body: memoryview, ours: int = 0) -> Change:
        if kind >> 8 != _NFNL_SUBSYS_NFTABLES:
            return Change.NONE
        name = dict(read_attributes(body[_NFGENMSG_BYTES:])).get(_NFTA_TABLE)
        if name is not None and bytes(name) == self._table:
            return Change.OURS if kind & 0xFF in _NFT_DELETIONS else Change.NONE
        return Change.FIREWALL if kind & 0xFF in _NFT_CHAINS_AND_RULES else Change.NONE


class _Source:
    """One netlink socket, and who understands its messages."""

    def __init__(self, protocol: int, understand: Callable[[int, memoryview, int], Change]) -> None:
        self.socket = open_socket(protocol, socket.SOCK_NONBLOCK)
        self.socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._understand = understand
        self._dropped = self._drops()

    def read(self, ours: int) -> Change:
        """Empty the socket: what its messages say. `ours` is the index of our interface, or 0."""
        change = Change.NONE
        for number in range(_MAX_READS):
            try:
                data = memoryview(self.socket.recv(RECEIVE_BYTES))
            except BlockingIOError:
                break
            if number >= _MAX_PARSED:
                change = Change.ALL
                continue
            with contextlib.suppress(NetlinkError):
                for kind, _, _, body in messages(data):
                    change |= self._understand(kind, body, ours)
        dropped = self._drops()
        if dropped != self._dropped:
            self._dropped = dropped
            return Change.ALL
        return change

    def _drops(self) -> int:
        """How many messages the kernel dropped since the socket was made, because its buffer was full."""
        told = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack_from(told)[-1])
