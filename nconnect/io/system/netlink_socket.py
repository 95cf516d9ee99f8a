"""A netlink socket: requests to the kernel, its answers and their attributes.

What the messages say is the business of the modules that use it: `netlink` (rtnetlink), `conntrack`,
`nftables` and `monitor`. Byte layouts: linux/netlink.h; all fields in host order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

NETFILTER = 12  # a protocol, as socket.NETLINK_ROUTE is
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300  # flags of a request
RECEIVE_BYTES = 1 << 18  # the kernel's dumps come in messages of at most 32 KiB

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_INT = struct.Struct("=i")
_ERROR, _DONE = 2, 3
_DUMP_INTERRUPTED = 0x10  # something changed between two parts of a dump, which may lack entries
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class NetlinkError(OSError):
    """The kernel refused a request; `errno` says why."""


def open_socket(protocol: int, flags: int = 0) -> socket.socket:
    """A socket of the calling thread's network namespace, not bound yet."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | flags, protocol)


class NetlinkSocket:
    """Requests, one after the other, in the calling thread's network namespace. A context manager; blocking.

    The kernel answers at once. Raises `NetlinkError` where it refuses.
    """

    def __init__(self, protocol: int) -> None:
        self.socket = open_socket(protocol)
        self.socket.bind((0, 0))
        self.was_interrupted = False  # the last dump
        self._first = self._last = 0  # sequence numbers of what was sent last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *requests: tuple[int, int, bytes]) -> None:
        """Send requests (type, flags, body) in one piece. The last one must ask for an answer."""
        self._first = self._last + 1
        self.was_interrupted = False
        messages = bytearray()
        for kind, flags, body in requests:
            self._last += 1
            messages += _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, self._last, 0) + body
        self.socket.send(messages)

    def answers(self, ignored: tuple[int, ...] = ()) -> Iterator[tuple[int, memoryview]]:
        """Type and body of each answer to what was sent last. `ignored`: errors that are none."""
        while True:
            for kind, flags, sequence, body in messages(memoryview(self.socket.recv(RECEIVE_BYTES))):
                if not self._first <= sequence <= self._last:
                    continue  # of an earlier request that was given up
                if flags & _DUMP_INTERRUPTED:
                    self.was_interrupted = True
                if kind not in (_ERROR, _DONE):
                    yield kind, body
                    continue
                (code,) = (
                    _INT.unpack_from(body) if len(body) >= _INT.size else (0,)
                )  # a dump's end has one too
                if code and -code not in ignored:
                    raise NetlinkError(-code, os.strerror(-code))
                if sequence == self._last:
                    return

    def filter_dumps(self, wanted: bool) -> None:
        """Whether the fields of a dump's request choose what is in it (NETLINK_GET_STRICT_CHK, Linux 4.20).

        Raises `OSError` where the kernel cannot.
        """
        self.socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, wanted)

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """Send one request, and wait until the kernel has carried it out."""
        self.send((kind, ACK | flags, body))
        for _ in self.answers():
            pass


def messages(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Type, flags, sequence number and body of each message that was received together.

    Raises `NetlinkError` at the first that is none; fewer bytes than a header has end them.
    """
    while len(data) >= _HEADER.size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            raise NetlinkError(errno.EBADMSG, "netlink message of impossible length")
        yield kind, flags, sequence, data[_HEADER.size : length]
        data = data[aligned(length) :]


def aligned(length: int) -> int:
    """Up to where a part of this length goes on: parts begin at multiples of 4."""
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(aligned(length) - length)


def read_attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kind and value of each attribute; ends at the first that is no attribute."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[aligned(length) :]
