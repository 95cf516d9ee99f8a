"""STUN messages (RFC 8489): binding requests and their answers. Pure.

A message is a header of 20 bytes and attributes, all numbers big endian:

    0  type, 2 bytes, the two highest bits 0      4  magic cookie 0x2112A442
    2  length of the attributes, a multiple of 4  8  transaction id, 12 bytes

    attribute: type, 2 bytes; length of the value, 2 bytes; value; padding to a multiple of 4

What a server adds to an answer (MESSAGE-INTEGRITY and so on) is not looked at: nothing here has a password.
FINGERPRINT is checked where it is there.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Buffer, Endpoint

BINDING_REQUEST = 0x0001
BINDING_RESPONSE = 0x0101
BINDING_ERROR = 0x0111

# Attributes (RFC 8489, section 14; PADDING is RFC 5780's). Below 0x8000 stand those that a receiver must
# understand, or refuse the message.
MAPPED_ADDRESS = 0x0001
XOR_MAPPED_ADDRESS = 0x0020
PADDING = 0x0026
SOFTWARE = 0x8022
FINGERPRINT = 0x8028
OPTIONAL = 0x8000

_HEADER_BYTES = 20
TRANSACTION_BYTES = 12
MAX_STUN_BYTES = 1280  # guessed: any binding request or answer; more would not pass every path whole
_COOKIE = 0x2112A442
_COOKIE_BYTES = _COOKIE.to_bytes(4, "big")
_FINGERPRINT_XOR = 0x5354554E
_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_IPV4, _IPV6 = 1, 2  # address families in attributes
_RESPONSE_BYTES = {4: _HEADER_BYTES + 12, 6: _HEADER_BYTES + 24}


@dataclass(frozen=True, slots=True)
class StunMessage:
    """A well-formed STUN message."""

    type: int
    transaction: bytes  # 12 bytes
    attributes: tuple[tuple[int, bytes], ...]  # (type, value), in their order

    def first(self, type: int) -> bytes | None:
        """The value of the first attribute of this type: later ones do not count (RFC 8489, section 14)."""
        return next((value for found, value in self.attributes if found == type), None)


def decode(data: Buffer) -> StunMessage:
    """Read a datagram. Raises `RemoteProtocolError`, also where its FINGERPRINT is wrong or not the last."""
    data = bytes(data)
    if not _HEADER_BYTES <= len(data) <= MAX_STUN_BYTES:
        raise RemoteProtocolError("STUN: too short or too long")
    type, length, cookie, transaction = _HEADER.unpack_from(data)
    if type >> 14 or cookie != _COOKIE or length != len(data) - _HEADER_BYTES or length % 4:
        raise RemoteProtocolError("STUN: not a STUN header")
    attributes: list[tuple[int, bytes]] = []
    at = _HEADER_BYTES
    while at < len(data):
        if attributes and attributes[-1][0] == FINGERPRINT:
            raise RemoteProtocolError("STUN: FINGERPRINT is not the last attribute")
        kind, size = _ATTRIBUTE.unpack_from(data, at)  # fits: what is left is a multiple of 4
        begin, end = at + 4, at + 4 + size
        if end > len(data):
            raise RemoteProtocolError("STUN: an attribute ends beyond the message")
        value = data[begin:end]
        if kind == FINGERPRINT and value != _fingerprint(data[:at]):
            raise RemoteProtocolError("STUN: wrong FINGERPRINT")
        attributes.append((kind, value))
        at = end + -size % 4
    return StunMessage(type, transaction, tuple(attributes))


def encode_request(transaction: bytes, *, size: int = _HEADER_BYTES) -> bytes:
    """A binding request of `size` bytes: a multiple of 4, 20 without padding, else at least 24.

    The padding is a SOFTWARE attribute of spaces, which every server ignores. PADDING would say what it is
    for, but servers must refuse it unless they know RFC 5780.
    """
    padding = b""
    if size > _HEADER_BYTES:
        value = b" " * (size - _HEADER_BYTES - _ATTRIBUTE.size)
        padding = _ATTRIBUTE.pack(SOFTWARE, len(value)) + value
    assert size % 4 == 0, "attributes are padded to it"
    return _HEADER.pack(BINDING_REQUEST, len(padding), _COOKIE, transaction) + padding


def encode_response(transaction: bytes, address: Address, port: int) -> bytes:
    """The answer to a binding request that came from this address and port: 32 bytes, of IPv6 44."""
    host = _xor(address.packed, transaction)
    family = _IPV4 if address.version == 4 else _IPV6
    value = struct.pack("!xBH", family, port ^ _COOKIE >> 16) + host
    attribute = _ATTRIBUTE.pack(XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(BINDING_RESPONSE, len(attribute), _COOKIE, transaction) + attribute


def response_bytes(version: int) -> int:
    """How long an answer is that tells an IPv4 or an IPv6 address."""
    return _RESPONSE_BYTES[version]


def mapped_address(message: StunMessage) -> Endpoint:
    """The address and port that a binding response tells. Raises `RemoteProtocolError`.

    Servers of RFC 3489's time tell MAPPED-ADDRESS alone, which some NATs rewrite: it is the second choice.
    """
    if message.type != BINDING_RESPONSE:
        raise RemoteProtocolError("STUN: not a binding response")
    value = message.first(XOR_MAPPED_ADDRESS)
    plain = value is None
    if value is None:
        value = message.first(MAPPED_ADDRESS)
    if value is None or len(value) not in (8, 20):
        raise RemoteProtocolError("STUN: an answer without an address")
    family, port = struct.unpack_from("!xBH", value)
    if (family, len(value)) not in ((_IPV4, 8), (_IPV6, 20)):
        raise RemoteProtocolError("STUN: an address of unknown kind")
    host = value[4:]
    if not plain:
        port ^= _COOKIE >> 16
        host = _xor(host, message.transaction)
    return Endpoint(IPv4Address(host) if family == _IPV4 else IPv6Address(host), port)


def unknown_required(message: StunMessage) -> bool:
    """Whether a request holds an attribute that a plain server would have to understand, and does not."""
    return any(kind < OPTIONAL and kind != PADDING for kind, _ in message.attributes)


def _xor(host: bytes, transaction: bytes) -> bytes:
    """XOR with cookie and transaction id (RFC 8489, section 14.2): its own inverse."""
    key = (_COOKIE_BYTES + transaction)[: len(host)]
    return bytes(a ^ b for a, b in zip(host, key, strict=True))


def _fingerprint(before: bytes) -> bytes:
    """Section 14.7: the CRC-32 of all that stands before the attribute; the length counts it already."""
    return (zlib.crc32(before) ^ _FINGERPRINT_XOR).to_bytes(4, "big")
