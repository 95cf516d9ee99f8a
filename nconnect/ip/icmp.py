"""The packet that an ICMP error quotes (RFC 792, RFC 4443).

A kernel applies an error to the connection of the quoted packet, whoever sent the error. So the tunnel looks
at the destination of the quoted packet: only the peer to which that packet went may send an error about it.
"""

from __future__ import annotations

from nconnect.ip.packet import IPV6_HEADER_BYTES, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP

NEVER_ERRORS = frozenset((PROTOCOL_TCP, PROTOCOL_UDP))  # next headers of IPv6 that cannot lead to an error

# The types that quote a packet: destination unreachable, source quench, redirect, time exceeded, parameter
# problem.
_IPV4_ERRORS = frozenset((3, 4, 5, 11, 12))
ECHO = frozenset((0, 8))  # in IPv4: a ping and its answer, the usual packets of ICMP
_FIRST_INFORMATIONAL = 128  # RFC 4443, section 2.1: types below are errors
_ICMP_HEADER_BYTES = 8  # the quoted packet follows
LEAST_IPV4_BYTES = 20 + _ICMP_HEADER_BYTES  # of a packet of ICMP whose IPv4 header has no options
_FRAGMENT = 44
_AUTHENTICATION = 51
# The extension headers that Linux skips on its way to ICMPv6 (net/ipv6/exthdrs_core.c): hop-by-hop options,
# routing, fragment, authentication, destination options.
_WALKED = frozenset((0, 43, _FRAGMENT, _AUTHENTICATION, 60))
_MAX_EXTENSION_HEADERS = 8  # RFC 8200, section 4.1 lists at most 7

UNREADABLE = b""


def quoted_destination(view: memoryview) -> bytes | None:
    """The destination (4 or 16 bytes) of the packet that an ICMP error quotes; None if this is not an error.

    `UNREADABLE` if this may be an error but its quoted header cannot be read: it is cut off, in fragments
    (RFC 1812 and RFC 4443 keep errors too small to be fragmented), or behind more extension headers than
    real packets have. The view must be well-formed (`packet.is_well_formed`).
    """
    if view[0] >> 4 == 4:
        return _in_ipv4(view)
    return _in_ipv6(view)


def _in_ipv4(view: memoryview) -> bytes | None:
    if view[9] != PROTOCOL_ICMP:
        return None
    offset = (view[6] & 0x1F) << 8 | view[7]
    if offset:
        return None  # the first fragment has the type, and the kernel drops fragments that overlap it
    icmp = view[(view[0] & 15) << 2 :]
    if len(icmp) < _ICMP_HEADER_BYTES:
        return UNREADABLE
    if icmp[0] not in _IPV4_ERRORS:
        return None
    quoted = icmp[_ICMP_HEADER_BYTES:]
    if view[6] & 0x20 or len(quoted) < 20 or quoted[0] >> 4 != 4:  # more fragments
        return UNREADABLE
    return bytes(quoted[16:20])


def _in_ipv6(view: memoryview) -> bytes | None:
    protocol, at, size = view[6], IPV6_HEADER_BYTES, len(view)
    fragmented = False
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol not in _WALKED:
            break
        if at + 8 > size:
            return UNREADABLE
        following, units = view[at], view[at + 1]
        if protocol == _FRAGMENT:
            if fragmented:
                return UNREADABLE
            fragmented = True
            if view[at + 2] or view[at + 3] & 0xF8:
                return None  # not the first fragment
            at += 8
        else:
            at += (units + 2) << 2 if protocol == _AUTHENTICATION else (units + 1) << 3
        protocol = following
    else:
        return UNREADABLE
    if protocol != PROTOCOL_ICMPV6:
        return None
    icmp = view[at:]
    if len(icmp) < _ICMP_HEADER_BYTES:
        return UNREADABLE
    if icmp[0] >= _FIRST_INFORMATIONAL:
        return None
    quoted = icmp[_ICMP_HEADER_BYTES:]
    if fragmented or len(quoted) < IPV6_HEADER_BYTES or quoted[0] >> 4 != 6:
        return UNREADABLE
    return bytes(quoted[24:40])
