"""SOCKS version 5, the server's side (RFC 1928), and its login by user and password (RFC 1929). Pure.

    greeting   05 | number of methods | methods       -> 05 | method (00 no login, 02 password, FF none)
    login      01 | length, user | length, password   -> 01 | status (00 right)
    request    05 | command | 00 | address | port     -> 05 | reply | 00 | address | port

Numbers are big endian. Commands are CONNECT (1) and UDP ASSOCIATE (3); BIND (2) is answered with 07. An
address is its type (1 IPv4, 3 a name of one length byte, 4 IPv6) and its bytes. With a password, any user is
taken: there is one password for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from nconnect.model import Buffer
from nconnect.streams.dialler import RefusalCode
from nconnect.streams.target import DialTarget, RefusedRequest, clean_host, is_password

FIRST_BYTE = 5
MAX_BYTES = 2 + 255 + 3 + 2 * 255 + 7 + 255  # of everything before the first byte of data
_LOGIN_VERSION = 1
_NO_LOGIN, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_CONNECT, _BIND, _ASSOCIATE = 1, 2, 3
_IPV4, _NAME, _IPV6 = 1, 3, 4

# RFC 1928, section 6
DONE, FAILED, NOT_ALLOWED, NET_UNREACHABLE, HOST_UNREACHABLE, CONNECTION_REFUSED = 0, 1, 2, 3, 4, 5
TTL_EXPIRED, BAD_COMMAND, BAD_ADDRESS = 6, 7, 8
REPLIES: Mapping[RefusalCode, int] = {
    RefusalCode.FAILED: FAILED,
    RefusalCode.NOT_ALLOWED: NOT_ALLOWED,
    RefusalCode.NO_ROUTE: NOT_ALLOWED,  # there is no exit
    RefusalCode.UNKNOWN_NAME: HOST_UNREACHABLE,
    RefusalCode.NET_UNREACHABLE: NET_UNREACHABLE,
    RefusalCode.HOST_UNREACHABLE: HOST_UNREACHABLE,
    RefusalCode.CONNECTION_REFUSED: CONNECTION_REFUSED,
    RefusalCode.TIMED_OUT: TTL_EXPIRED,  # as other servers tell it
    RefusalCode.TOO_MANY: FAILED,
    RefusalCode.NO_PEER: TTL_EXPIRED,
}


class Socks5:
    """One connection until its request. `receive` returns what to send; then `target` may be set."""

    def __init__(self, password: bytes | None = None) -> None:
        """Without a `password` nobody has to log in."""
        self.target: DialTarget | None = None
        self.is_udp = False  # UDP ASSOCIATE; `target` is then None
        self.early = b""  # what came after the request: the beginning of the data
        self._password = password
        self._data = bytearray()
        self._steps = [self._greeting]

    @property
    def is_complete(self) -> bool:
        """Whether the request is there."""
        return not self._steps

    def receive(self, data: Buffer) -> bytes:
        """Take bytes, cut anywhere, and return what to send. Raises `RefusedRequest`.

        After the request, everything is `early` data, and nothing is received any more.
        """
        self._data += data
        said = b""
        while self._steps:
            try:
                used, answer = self._steps[0]()
            except RefusedRequest as refusal:
                refusal.answer = said + refusal.answer  # it may have sent several steps at once
                raise
            if not used:
                return said
            del self._data[:used], self._steps[0]
            said += answer
        self.early, self._data = bytes(self._data), bytearray()
        return said

    def _greeting(self) -> tuple[int, bytes]:
        """Bytes used, 0 while not all are there, and the answer."""
        data = self._data
        if len(data) < 2 or len(data) < 2 + data[1]:
            if data and data[0] != FIRST_BYTE:
                raise RefusedRequest("not SOCKS version 5")
            return 0, b""
        if data[0] != FIRST_BYTE:
            raise RefusedRequest("not SOCKS version 5")
        wanted = _NO_LOGIN if self._password is None else _PASSWORD
        if wanted not in data[2 : 2 + data[1]]:
            why = "it does not offer to give a password" if self._password else "it insists on a login"
            raise RefusedRequest(why, bytes([FIRST_BYTE, _NO_METHOD]), is_login=self._password is not None)
        if self._password is not None:
            self._steps.append(self._login)
        self._steps.append(self._request)
        return 2 + data[1], bytes([FIRST_BYTE, wanted])

    def _login(self) -> tuple[int, bytes]:
        data = self._data
        if data and data[0] != _LOGIN_VERSION:
            raise RefusedRequest("a login of an unknown version", bytes([_LOGIN_VERSION, 1]))
        if len(data) < 2 or len(data) < 3 + data[1]:
            return 0, b""
        begin = 3 + data[1]
        end = begin + data[begin - 1]
        if len(data) < end:
            return 0, b""
        assert self._password is not None
        if not is_password(bytes(data[begin:end]), self._password):
            raise RefusedRequest("a wrong password", bytes([_LOGIN_VERSION, 1]), is_login=True)
        return end, bytes([_LOGIN_VERSION, 0])

    def _request(self) -> tuple[int, bytes]:
        data = self._data
        if data and data[0] != FIRST_BYTE:
            raise RefusedRequest("no SOCKS version 5 after the greeting", reply(FAILED))
        if len(data) > 1 and data[1] not in (_CONNECT, _ASSOCIATE):
            what = "BIND" if data[1] == _BIND else f"command {data[1]}"
            raise RefusedRequest(f"{what} is not supported", reply(BAD_COMMAND))
        if len(data) > 3 and data[3] not in (_IPV4, _NAME, _IPV6):
            raise RefusedRequest(f"address type {data[3]} is unknown", reply(BAD_ADDRESS))
        if (found := _read_address(data, 3)) is None:
            return 0, b""
        host, port, used = found
        self.is_udp = data[1] == _ASSOCIATE
        if not self.is_udp:  # there the address is where its datagrams come from, which the socket shows
            try:
                self.target = DialTarget.of(host, port)
            except ValueError as error:
                raise RefusedRequest(str(error), reply(BAD_ADDRESS)) from None
        return used, b""


def reply(code: int, host: str = "0.0.0.0", port: int = 0) -> bytes:
    """The answer to a request, with the address that stands for it here."""
    return bytes([FIRST_BYTE, code, 0]) + _address(host, port)


# UDP (section 7): 0000 | fragment | address | port | data


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram of a program, or for it."""

    host: str
    port: int
    data: memoryview

    @classmethod
    def decode(cls, data: Buffer) -> Datagram | None:
        """None for what is no datagram, for a fragment (which may be dropped), and for a bad target."""
        if len(data) < 4 or data[0] or data[1] or data[2]:
            return None
        if data[3] not in (_IPV4, _NAME, _IPV6) or (found := _read_address(data, 3)) is None:
            return None
        host, port, used = found
        try:
            return cls(clean_host(host), port, memoryview(data)[used:]) if port else None
        except ValueError:
            return None


def encode_datagram(host: str, port: int, data: Buffer) -> bytes:
    """`host`: an address, or a name."""
    return bytes(3) + _address(host, port) + bytes(data)


def _read_address(data: Buffer, at: int) -> tuple[str, int, int] | None:
    """Host, port, and where they end; None if they are cut off. The type at `at` is known."""
    size = {_IPV4: 4, _IPV6: 16}.get(data[at] if len(data) > at else 0, 0)
    begin = at + 1
    if not size:
        if len(data) <= begin:
            return None
        size = data[begin]
        begin += 1
    end = begin + size
    if len(data) < end + 2:
        return None
    raw = bytes(data[begin:end])
    port = int.from_bytes(data[end : end + 2], "big")
    if data[at] == _NAME:
        return raw.decode("latin-1"), port, end + 2
    return str(IPv4Address(raw) if size == 4 else IPv6Address(raw)), port, end + 2


def _address(host: str, port: int) -> bytes:
    try:
        address = ip_address(host)
    except ValueError:
        name = host.encode()
        return bytes([_NAME, len(name)]) + name + port.to_bytes(2, "big")
    kind = _IPV4 if address.version == 4 else _IPV6
    return bytes([kind]) + address.packed + port.to_bytes(2, "big")
