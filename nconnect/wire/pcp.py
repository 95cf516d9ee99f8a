"""Asking a router for a port: PCP (RFC 6887) and its predecessor NAT-PMP (RFC 6886), both on UDP 5351. Pure.

All numbers are big endian. PCP, version 2:

    request   0 version 2 | 1 opcode | 2 zeros | 4 lifetime u32, s | 8 client's address, 16 bytes
    answer    0 version 2 | 1 opcode + 128 | 2 zero | 3 result | 4 lifetime u32, s | 8 epoch u32, s | 12 zeros
    MAP (1)  24 nonce, 12 bytes | 36 protocol | 37 zeros | 40 internal port | 42 external port
             44 external address, 16 bytes
    ANNOUNCE (0) has nothing more. IPv4 addresses are IPv4-mapped ones; options may follow, and are skipped.
    For an IPv6 address without NAT a mapping is a hole in the router's firewall: the external address and
    port are then the internal ones (section 5).

NAT-PMP, version 0:

    address   0 version 0 | 1 opcode 0
    answer    0 version 0 | 1 128 | 2 result u16 | 4 epoch u32, s | 8 IPv4 address
    map       0 version 0 | 1 opcode 1 UDP, 2 TCP | 2 zeros | 4 internal port | 6 external port
              8 lifetime u32, s
    answer    0 version 0 | 1 opcode + 128 | 2 result u16 | 4 epoch u32 | 8 internal port
             10 external port | 12 lifetime u32

A router that knows NAT-PMP alone answers a PCP request in version 0 with the result UNSUPPORTED_VERSION.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Buffer

SERVER_PORT = 5351
PCP_NONCE_BYTES = 12
_MAX_BYTES = 1100  # RFC 6887, section 7
UNSUPPORTED_VERSION = 1  # the same in both

_PCP, _NAT_PMP = 2, 0
_RESPONSE = 128
_ANNOUNCE, _MAP = 0, 1
_PROTOCOL = {"udp": 17, "tcp": 6}
_PMP_OPCODE = {"udp": 1, "tcp": 2}
_REQUEST = struct.Struct("!BBHI16s")
_ANSWER = struct.Struct("!BBBBII12x")
_MAPPING = struct.Struct("!12sB3xHH16s")
_PMP_MAP = struct.Struct("!BBHHHI")
_PMP_HEAD = struct.Struct("!BBHI")
_PMP_MAPPED = struct.Struct("!HHI")
_NO_ADDRESS = {4: IPv6Address("::ffff:0.0.0.0").packed, 6: bytes(16)}  # section 5


class PcpResult(IntEnum):
    """RFC 6887, section 7.4."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPPORTED_OPCODE = 4
    UNSUPPORTED_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPPORTED_PROTOCOL = 9
    QUOTA_EXCEEDED = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    TOO_MANY_REMOTE_PEERS = 13


class PmpResult(IntEnum):
    """RFC 6886, section 3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    NO_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class Mapped:
    """A router maps a port. With a lifetime of 0 it maps it no longer."""

    protocol: str  # "udp" or "tcp"
    internal_port: int
    external_port: int
    external_address: Address | None  # None: NAT-PMP tells it in an answer of its own
    lifetime_s: int
    epoch_s: int  # since the router lost its mappings, usually its start
    nonce: bytes  # b"" of NAT-PMP


@dataclass(frozen=True, slots=True)
class Told:
    """A router is there: the answer to ANNOUNCE, or NAT-PMP's external address."""

    external_address: Address | None
    epoch_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A router answered with an error. `why` is its name in words."""

    is_pcp: bool
    result: int
    why: str
    lifetime_s: int  # how long the router expects it to last; 0 of NAT-PMP, which does not say
    protocol: str | None  # of the mapping that was asked for; None: it does not say
    nonce: bytes  # of the request; b"" of NAT-PMP, and where the answer has none


PcpAnswer = Mapped | Told | Refused


def announce(client: Address) -> bytes:
    """A PCP request that changes nothing: is a server there?"""
    return _REQUEST.pack(_PCP, _ANNOUNCE, 0, 0, _packed(client))


def map_request(
    client: Address,
    protocol: str,
    port: int,
    *,
    nonce: bytes,
    lifetime_s: int,
    external: tuple[Address, int] | None = None,
) -> bytes:
    """A PCP request for a port, or with a lifetime of 0 to give it up. `external`: what we would like."""
    address, external_port = external or (None, port if lifetime_s else 0)
    head = _REQUEST.pack(_PCP, _MAP, 0, lifetime_s, _packed(client))
    wanted = _NO_ADDRESS[client.version] if address is None else _packed(address)
    return head + _MAPPING.pack(nonce, _PROTOCOL[protocol], port, external_port, wanted)


def pmp_address_request() -> bytes:
    """A NAT-PMP request that changes nothing: which address has the router outside?"""
    return bytes((_NAT_PMP, 0))


def pmp_map_request(protocol: str, port: int, *, lifetime_s: int, external_port: int | None = None) -> bytes:
    """A NAT-PMP request for a port, or with a lifetime of 0 to give it up."""
    wanted = (port if external_port is None else external_port) if lifetime_s else 0
    return _PMP_MAP.pack(_NAT_PMP, _PMP_OPCODE[protocol], 0, port, wanted, lifetime_s)


def decode(data: Buffer) -> PcpAnswer:
    """Read a router's answer. Raises `RemoteProtocolError`."""
    data = bytes(data)
    if not 2 <= len(data) <= _MAX_BYTES or not data[1] & _RESPONSE:
        raise RemoteProtocolError("port mapping: not an answer")
    try:
        return _decode_pcp(data) if data[0] == _PCP else _decode_pmp(data)
    except struct.error:
        raise RemoteProtocolError("port mapping: an answer that is too short") from None


def _decode_pcp(data: bytes) -> PcpAnswer:
    _, opcode, _, result, lifetime_s, epoch_s = _ANSWER.unpack_from(data)
    opcode &= ~_RESPONSE
    if len(data) % 4:
        raise RemoteProtocolError("PCP: not a multiple of 4 bytes")
    if result:
        nonce, protocol = b"", None
        if opcode == _MAP and len(data) >= _ANSWER.size + _MAPPING.size:
            nonce, number = _MAPPING.unpack_from(data, _ANSWER.size)[:2]
            protocol = _name(_PROTOCOL, number)
        return Refused(True, result, _words(PcpResult, result), lifetime_s, protocol, nonce)
    if opcode == _ANNOUNCE:
        return Told(None, epoch_s)
    if opcode != _MAP:
        raise RemoteProtocolError("PCP: an answer to nothing that is asked")
    nonce, number, internal, external, address = _MAPPING.unpack_from(data, _ANSWER.size)
    name = _name(_PROTOCOL, number)
    if name is None:
        raise RemoteProtocolError("PCP: a mapping of another protocol")
    return Mapped(name, internal, external, _address(address), lifetime_s, epoch_s, nonce)


def _decode_pmp(data: bytes) -> PcpAnswer:
    version, opcode, result, epoch_s = _PMP_HEAD.unpack_from(data)
    if version != _NAT_PMP:
        raise RemoteProtocolError("port mapping: an unknown version")
    opcode &= ~_RESPONSE
    name = _name(_PMP_OPCODE, opcode)
    if result:
        return Refused(False, result, _words(PmpResult, result), 0, name, b"")
    if opcode == 0:
        if len(data) < _PMP_HEAD.size + 4:
            raise RemoteProtocolError("NAT-PMP: an answer without an address")
        return Told(IPv4Address(data[8:12]), epoch_s)
    if name is None:
        raise RemoteProtocolError("NAT-PMP: an answer to nothing that is asked")
    internal, external, lifetime_s = _PMP_MAPPED.unpack_from(data, _PMP_HEAD.size)
    return Mapped(name, internal, external, None, lifetime_s, epoch_s, b"")


def _packed(address: Address) -> bytes:
    if isinstance(address, IPv4Address):
        return _NO_ADDRESS[4][:12] + address.packed
    return address.packed


def _address(packed: bytes) -> Address:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _name(numbers: dict[str, int], number: int) -> str | None:
    return next((name for name, known in numbers.items() if known == number), None)


def _words(kind: type[PcpResult] | type[PmpResult], result: int) -> str:
    try:
        return kind(result).name.lower().replace("_", " ")
    except ValueError:
        return f"error {result}"
