"""Whose a socket at the other end of a loopback connection is: sock_diag(7), an exact look-up.

The kernel answers any user, at once. Byte layouts: linux/inet_diag.h (inet_diag_req_v2, inet_diag_msg); ports
and addresses are big endian, the rest is in host order.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv6Address, ip_address
from typing import Any

from nconnect.io.system.netlink_socket import ACK, NetlinkSocket

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_HEADER = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ENDPOINTS = struct.Struct(">HH16s16s")
_ANY_INTERFACE = struct.pack("=I", 0)
_NO_COOKIE = struct.pack("=II", 0xFFFFFFFF, 0xFFFFFFFF)  # INET_DIAG_NOCOOKIE
_ALL_STATES = 0xFFFFFFFF
_OWNER = struct.Struct("=II")  # uid, inode
_OWNER_AT = 4 + 48 + 3 * 4  # after four bytes, the socket's id, and three numbers


def uid_of_tcp(own: Any, other: Any) -> int:
    """The uid of the socket that connected from `other` (as getpeername says it) to `own` (getsockname).

    Raises `OSError`: there is no such socket, or no way to ask.
    """
    return _uid(socket.IPPROTO_TCP, source=other, dest=own)


def uid_of_udp(own: Any, other: Any) -> int:
    """The uid of the socket at `other` that sends to `own`. Raises `OSError` as `uid_of_tcp`."""
    # For UDP the kernel looks for the socket that would receive: "src and dst are swapped for historical
    # reasons" (udp_dump_one).
    return _uid(socket.IPPROTO_UDP, source=own, dest=other)


def _uid(protocol: int, *, source: Any, dest: Any) -> int:
    addresses = [ip_address(end[0].partition("%")[0]) for end in (source, dest)]
    mapped = [a.ipv4_mapped for a in addresses if isinstance(a, IPv6Address) and a.ipv4_mapped is not None]
    packed = [a.packed for a in (mapped if len(mapped) == 2 else addresses)]
    family = socket.AF_INET if len(packed[0]) == 4 else socket.AF_INET6
    body = (
        _HEADER.pack(family, protocol, 0, _ALL_STATES)
        + _ENDPOINTS.pack(source[1], dest[1], *packed)
        + _ANY_INTERFACE
        + _NO_COOKIE
    )
    with NetlinkSocket(_SOCK_DIAG) as netlink:
        netlink.send((_BY_FAMILY, ACK, body))
        for _, answer in netlink.answers():
            uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
            if inode:  # else it was closed, is nobody's, and has uid 0 whoever had opened it
                return int(uid)
    raise ConnectionResetError(errno.ECONNRESET, "it is closed already")
