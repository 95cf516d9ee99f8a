"""rtnetlink: links, addresses and routes, over a socket of our own.

Why not a library: importing one costs 100 ms and 13 MB, this file 1 ms (docs/decisions/0010-rtnetlink.md).
Byte layouts: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h; all
fields in host order.
Every call waits for the kernel's answer, which comes at once; refusals are `NetlinkError`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

from nconnect.host.facts import LocalNeighbour, LocalRoute
from nconnect.host.policy import PolicyRule, Question, RouteAnswer, TableRoute
from nconnect.io.system.netlink_socket import (
    ACK,
    DUMP,
    NetlinkError,
    NetlinkSocket,
    aligned,
    attribute,
    read_attributes,
)
from nconnect.model import Address, InterfaceAddress, Prefix

IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index
_INT = struct.Struct("=i")
_UINT = struct.Struct("=I")

NEWLINK, _GETLINK = 16, 18
NEWADDR, DELADDR, _GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, _GETROUTE = 24, 25, 26
_GETNEIGH = 30
_NEWRULE, _GETRULE = 32, 34
_CREATE, _EXCL, _REPLACE = 0x400, 0x200, 0x100
_MAX_DUMPS = 4  # guessed: of one question, until one was not interrupted
IFF_UP = 0x1
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 3, 4, 18
_IFLA_AF_SPEC, _IFLA_INET6_ADDR_GEN_MODE = 26, 8
_IFLA_INFO_KIND = 1  # within _IFLA_LINKINFO
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_IFA_F_UNUSABLE = 0x08 | 0x20 | 0x40  # DADFAILED, DEPRECATED, TENTATIVE
_RTA_DST, _RTA_SRC, _RTA_IIF, RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 2, 3, 4, 5, 6
_RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE = 7, 9, 15
RT_TABLE_MAIN, RT_TABLE_LOCAL, _RTN_UNICAST, _RTN_LOCAL = 254, 255, 1, 2
_ROUTE_KINDS = {  # as ip-route(8) calls them
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
}
_NDA_DST = 1
_NUD_ANSWERED = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # reachable, stale, delay, probe, permanent
# linux/fib_rules.h: a rule's attributes, flag and actions. Its header is laid out as rtmsg.
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN = 1, 2, 3, 6, 10, 14
_FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 15, 16, 17
_FRA_UNCLEAR = {11, 12, 13, 19, 20, 22, 23, 24}  # realms, tunnel, group, VRF, user, protocol, ports
_FIB_RULE_INVERT = 0x2
_ACTIONS = {1: "lookup", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_HOST = 0, 253, 254
_FR_ACT_TO_TBL = 1
RTM_F_CLONED, _RTM_F_LOOKUP_TABLE = 0x200, 0x1000
_RTNH_F_ONLINK = 4  # the gateway need not be in a network of the interface's
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    index: int
    name: str
    mtu: int
    up: bool
    kind: str  # of a virtual link ("bridge", "tun"); "" for a device


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address and the index of the interface that has it."""

    index: int
    address: InterfaceAddress
    is_unusable: bool = False  # for new communication: deprecated, or not known to be ours alone (RFC 4862)


class Netlink(NetlinkSocket):
    """One rtnetlink socket of the calling thread's network namespace. A context manager; blocking."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    def links(self) -> list[NetworkInterface]:
        found = []
        for body in self._dump(_GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0)):
            _, _, index, flags, _ = IFINFOMSG.unpack_from(body)
            attributes = dict(read_attributes(body[IFINFOMSG.size :]))
            name = _name(attributes[_IFLA_IFNAME])
            (mtu,) = _UINT.unpack(attributes[_IFLA_MTU])
            info = dict(read_attributes(attributes.get(_IFLA_LINKINFO, memoryview(b""))))
            kind = bytes(info.get(_IFLA_INFO_KIND, b"")).rstrip(b"\0").decode(errors="replace")
            found.append(NetworkInterface(index, name, mtu, bool(flags & IFF_UP), kind))
        return found

    def addresses(self, only: int | None = None) -> list[LinkAddress]:
        """All addresses, or those of the interface with the index `only`."""
        found = []
        every = IFADDRMSG.pack(0, 0, 0, 0, 0)
        for body in self._dump(_GETADDR, every, every if only is None else IFADDRMSG.pack(0, 0, 0, 0, only)):
            _, length, flags, _, index = IFADDRMSG.unpack_from(body)
            if only not in (None, index):
                continue
            attributes = dict(read_attributes(body[IFADDRMSG.size :]))
            raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
            if raw is not None:
                unusable = bool(_number(attributes, _IFA_FLAGS, flags) & _IFA_F_UNUSABLE)
                found.append(LinkAddress(index, ip_interface((bytes(raw), length)), unusable))
        return found

    def routes(self, names: dict[int, str], *, through: int = 0, protocol: int = 0) -> list[LocalRoute]:
        """The routes of the main table; `names` of the interfaces by index.

        `through` (an interface's index) and `protocol`: the kernel leaves out the others where it can.
        """
        return [
            LocalRoute(
                route.prefix,
                route.interface or "#0",
                route.gateway,
                route.protocol,
                "" if route.kind == "unicast" else route.kind,
                route.metric,
                route.source,
            )
            for route in self.all_routes(names, through=through, protocol=protocol)
            if route.table == RT_TABLE_MAIN
        ]

    def neighbours(self, names: dict[int, str]) -> list[LocalNeighbour]:
        """Who has answered in the networks of this machine; `names` of the interfaces by index."""
        found = []
        for body in self._dump(_GETNEIGH, _NEIGHBOUR.pack(0, 0, 0, 0, 0)):
            family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
            raw = dict(read_attributes(body[_NEIGHBOUR.size :])).get(_NDA_DST)
            if family in _FAMILY.values() and state & _NUD_ANSWERED and raw is not None:
                found.append(LocalNeighbour(ip_address(bytes(raw)), names.get(index, f"#{index}")))
        return found

    def all_routes(self, names: dict[int, str], *, through: int = 0, protocol: int = 0) -> list[TableRoute]:
        """The routes of all kinds and tables, except those that the kernel makes for its own addresses.

        `through`, `protocol`: as for `routes`.
        """
        found = []
        wanted = RTMSG.pack(0, 0, 0, 0, 0, protocol, 0, 0, 0)
        if through:
            wanted += attribute(RTA_OIF, _INT.pack(through))
        for body in self._dump(_GETROUTE, RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), wanted):
            family, length, _, _, table, protocol, _, kind, flags = RTMSG.unpack_from(body)
            if family not in _FAMILY.values() or table == RT_TABLE_LOCAL or flags & RTM_F_CLONED:
                continue
            attributes = dict(read_attributes(body[RTMSG.size :]))
            table = _number(attributes, _RTA_TABLE, table)
            prefix = _prefix(family, attributes.get(_RTA_DST), length)
            metric = _number(attributes, _RTA_PRIORITY, 0)
            raw = attributes.get(_RTA_PREFSRC)
            source = None if raw is None else ip_address(bytes(raw))
            word = _kind(kind)
            for index, gateway in _hops(attributes):
                name = names.get(index, f"#{index}") if index else ""
                found.append(TableRoute(prefix, table, word, name, gateway, protocol, metric, source))
        return found

    def rules(self) -> list[PolicyRule]:
        """What `ip rule` and `ip -6 rule` list."""
        found = []
        for version, family in _FAMILY.items():
            for body in self._dump(_GETRULE, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                _, dst, src, tos, table, _, _, action, flags = RTMSG.unpack_from(body)
                attributes = dict(read_attributes(body[RTMSG.size :]))
                mark = _number(attributes, _FRA_FWMARK, 0)
                found.append(
                    PolicyRule(
                        version,
                        priority=_number(attributes, _FRA_PRIORITY, 0),
                        action=_ACTIONS.get(action, ""),
                        table=_number(attributes, _FRA_TABLE, table),
                        source=_prefix(family, attributes.get(_FRA_SRC), src) if src else None,
                        destination=_prefix(family, attributes.get(_FRA_DST), dst) if dst else None,
                        iif=_name(attributes.get(_FRA_IIFNAME)),
                        oif=_name(attributes.get(_FRA_OIFNAME)),
                        mark=mark,
                        mask=_number(attributes, _FRA_FWMASK, 0xFFFFFFFF if mark else 0),
                        inverted=bool(flags & _FIB_RULE_INVERT),
                        shortest=_number(attributes, _FRA_SUPPRESS_PREFIXLEN, -1, _INT),
                        unclear=bool(tos or _FRA_UNCLEAR & attributes.keys()),
                    )
                )
        return found

    def where(self, packet: Question, names: dict[int, str]) -> RouteAnswer:
        """Where the kernel would send a packet. `names` of the interfaces by index."""
        family = _FAMILY[packet.destination.version]
        bits = packet.destination.max_prefixlen
        body = RTMSG.pack(
            *(family, bits, bits if packet.source else 0, 0, 0, 0, 0, 0), _RTM_F_LOOKUP_TABLE
        ) + attribute(_RTA_DST, packet.destination.packed)  # fmt: skip
        if packet.source is not None:
            body += attribute(_RTA_SRC, packet.source.packed)
        if packet.iif:
            index = next((index for index, name in names.items() if name == packet.iif), 0)
            body += attribute(_RTA_IIF, _INT.pack(index))
        self.send((_GETROUTE, ACK, body))
        try:
            (_, answer), *_ = list(self.answers())
        except NetlinkError as error:
            return RouteAnswer("error", why=error.strerror or "", errno=error.errno or 0)
        _, _, _, _, table, _, _, kind, _ = RTMSG.unpack_from(answer)
        attributes = dict(read_attributes(answer[RTMSG.size :]))
        return RouteAnswer(
            _kind(kind),
            names.get(_number(attributes, RTA_OIF, 0), ""),
            _number(attributes, _RTA_TABLE, table),
        )

    def set_link(self, index: int, *, mtu: int, up: bool) -> None:
        body = IFINFOMSG.pack(0, 0, index, IFF_UP if up else 0, IFF_UP)
        self.request(NEWLINK, 0, body + attribute(_IFLA_MTU, _UINT.pack(mtu)))

    def no_link_local(self, index: int) -> None:
        """Let the kernel make no IPv6 address of its own for this interface (IN6_ADDR_GEN_MODE_NONE)."""
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([1]))
        family = attribute(socket.AF_INET6, mode)
        self.request(NEWLINK, 0, IFINFOMSG.pack(0, 0, index, 0, 0) + attribute(_IFLA_AF_SPEC, family))

    def rename(self, index: int, name: str) -> None:
        """Down, as kernels before 6.2 want it: the interface's routes go, and its IPv6 addresses."""
        self.request(NEWLINK, 0, IFINFOMSG.pack(0, 0, index, 0, IFF_UP))
        self.request(
            NEWLINK, 0, IFINFOMSG.pack(0, 0, index, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        )

    def add_address(self, index: int, address: InterfaceAddress) -> None:
        """IPv6 addresses are usable at once (no duplicate address detection: nobody else is on the link)."""
        self.request(NEWADDR, _CREATE | _EXCL, _address_body(index, address))

    def delete_address(self, index: int, address: InterfaceAddress) -> None:
        self.request(DELADDR, 0, _address_body(index, address))

    def add_route(
        self,
        index: int,
        prefix: Prefix,
        protocol: int,
        gateway: Address | None = None,
        source: Address | None = None,
        *,
        replaces: bool = False,
    ) -> None:
        """`source`: preferred, of packets that this machine sends along it. `replaces`: what is there."""
        body = _route_body(index, prefix, protocol, gateway)
        if source is not None:
            body += attribute(_RTA_PREFSRC, source.packed)
        self.request(NEWROUTE, _CREATE | (_REPLACE if replaces else _EXCL), body)

    def delete_route(self, index: int, prefix: Prefix, protocol: int, gateway: Address | None = None) -> None:
        self.request(DELROUTE, 0, _route_body(index, prefix, protocol, gateway))

    def add_marked_as_local(self, version: int, mark: int, table: int, lo: int) -> None:
        """Have packets with this mark taken for this network's own, whatever their destination is.

        By a rule for the mark and a route in `table`, which is below 256; `lo`: the index of the loopback.
        """
        family = _FAMILY[version]
        route = RTMSG.pack(family, 0, 0, 0, table, 0, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
        self.request(NEWROUTE, _CREATE | _EXCL, route + attribute(RTA_OIF, _INT.pack(lo)))
        rule = RTMSG.pack(family, 0, 0, 0, table, 0, 0, _FR_ACT_TO_TBL, 0)
        self.request(_NEWRULE, _CREATE | _EXCL, rule + attribute(_FRA_FWMARK, _UINT.pack(mark)))

    def _dump(self, kind: int, every: bytes, wanted: bytes | None = None) -> list[memoryview]:
        """All answers to `every`; only those to `wanted` where the kernel can choose, which costs it less."""
        if wanted not in (None, every):
            try:
                self.filter_dumps(True)
                return self._whole_dump(kind, wanted or every)
            except OSError:
                pass  # an older kernel
            finally:
                with contextlib.suppress(OSError):
                    self.filter_dumps(False)
        return self._whole_dump(kind, every)

    def _whole_dump(self, kind: int, body: bytes) -> list[memoryview]:
        """Asked for again when a change meanwhile may have hidden some of the answers."""
        for _ in range(_MAX_DUMPS):
            self.send((kind, DUMP, body))
            found = [answer for _, answer in self.answers()]
            if not self.was_interrupted:
                break
        return found


def _hops(attributes: dict[int, memoryview]) -> Iterator[tuple[int, Address | None]]:
    """Interface index and gateway of a route: one, or each of a multipath route."""
    multipath = attributes.get(_RTA_MULTIPATH)
    if multipath is None:
        yield _number(attributes, RTA_OIF, 0), _gateway(attributes)
        return
    while len(multipath) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(multipath)
        if not _NEXT_HOP.size <= length <= len(multipath):
            return
        yield index, _gateway(dict(read_attributes(multipath[_NEXT_HOP.size : length])))
        multipath = multipath[aligned(length) :]


def _kind(kind: int) -> str:
    return _ROUTE_KINDS.get(kind, f"type {kind}")


def _prefix(family: int, raw: memoryview | None, length: int) -> Prefix:
    address = bytes(raw or b"")
    return ip_network((address.ljust(4 if family == socket.AF_INET else 16, b"\0"), length))


def _number(attributes: dict[int, memoryview], kind: int, default: int, layout: struct.Struct = _UINT) -> int:
    raw = attributes.get(kind)
    return default if raw is None else int(layout.unpack(raw)[0])


def _name(raw: memoryview | None) -> str:
    return bytes(raw or b"").rstrip(b"\0").decode(errors="surrogateescape")


def _gateway(attributes: dict[int, memoryview]) -> Address | None:
    raw = attributes.get(_RTA_GATEWAY)
    return None if raw is None else ip_address(bytes(raw))


def _address_body(index: int, address: InterfaceAddress) -> bytes:
    packed = address.ip.packed
    body = IFADDRMSG.pack(_FAMILY[address.version], address.network.prefixlen, 0, _RT_SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if address.version == 6:
        body += attribute(_IFA_FLAGS, _UINT.pack(_IFA_F_NODAD))
    return body


def _route_body(index: int, prefix: Prefix, protocol: int, gateway: Address | None = None) -> bytes:
    on_link = prefix.version == 4 and gateway is None  # IPv6 knows no other scope
    scope = _RT_SCOPE_LINK if on_link else _RT_SCOPE_UNIVERSE
    flags = 0 if gateway is None else _RTNH_F_ONLINK
    family = _FAMILY[prefix.version]
    body = RTMSG.pack(family, prefix.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, scope, _RTN_UNICAST, flags)
    body += attribute(_RTA_DST, prefix.network_address.packed) + attribute(RTA_OIF, _INT.pack(index))
    return body if gateway is None else body + attribute(_RTA_GATEWAY, gateway.packed)
