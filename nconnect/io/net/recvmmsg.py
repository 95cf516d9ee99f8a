"""recvmmsg(2): many datagrams of one size in one call, one behind the other in a buffer.

The kernel joins datagrams only where the sender's interface or this one's lets it (UDP_GRO). Elsewhere each
datagram costs a call, which takes as long as all that is done with it afterwards. Python has no name for
recvmmsg.

Each datagram has two places: as many bytes as are expected of it, behind the datagram before it, and room
of its own for what is longer. So datagrams of the expected size are one run as they lie.
"""

from __future__ import annotations

import ctypes
import socket
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from mmap import mmap

from nconnect.model import Buffer

MOST = 64  # datagrams in one call
NAME_BYTES = 28  # sockaddr_in6; sockaddr_in is shorter
LARGEST_BYTES = 1 << 16  # of a datagram, or of several that the kernel has joined
_INT = ctypes.sizeof(ctypes.c_uint)
_SIZE = ctypes.sizeof(ctypes.c_size_t)  # Linux: also that of a long


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr (sys/socket.h)."""

    _fields_ = (
        ("name", ctypes.c_size_t),
        ("name_size", ctypes.c_uint),
        ("iov", ctypes.c_size_t),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_size_t),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("size", ctypes.c_uint))


_WORDS = ctypes.sizeof(_Message) // _INT
_NAME_SIZE_AT = _Header.name_size.offset // _INT
_CONTROL_SIZE_AT = _Header.control_size.offset // _SIZE
_SIZE_AT = _Message.size.offset // _INT
_MESSAGE_SIZES = ctypes.sizeof(_Message) // _SIZE

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Controls = Sequence[tuple[int, int, bytes]]  # level, kind, value of each
Came = tuple[bytes, Controls, SocketAddress]  # a datagram, its control messages, where it came from


class Recvmmsg:
    """Receives into `buffer`, which it holds: it cannot be resized. 4 MiB of address space, hardly used."""

    def __init__(self, buffer: bytearray, control_bytes: int) -> None:
        """`control_bytes`: room for the control messages of each."""
        self._call = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._arrived = memoryview(buffer)
        self._held = [
            (ctypes.c_char * len(each)).from_buffer(each)
            for each in (
                buffer,
                bytearray(MOST * NAME_BYTES),
                bytearray(MOST * control_bytes),
                mmap(-1, MOST * LARGEST_BYTES),  # pages that nothing is written to take no memory
            )
        ]
        self._base, names, controls, rest = map(ctypes.addressof, self._held)
        self._names, self._controls, self._rest = (memoryview(each).cast("B") for each in self._held[1:])
        self._control_bytes = control_bytes
        self._iovecs = (_Iovec * (2 * MOST))()
        self._messages = (_Message * MOST)()
        for n, each in enumerate(self._messages):
            message = each.header
            message.name, message.name_size = names + n * NAME_BYTES, NAME_BYTES
            message.iov = ctypes.addressof(self._iovecs) + 2 * n * ctypes.sizeof(_Iovec)
            message.iov_count = 2
            message.control, message.control_size = controls + n * control_bytes, control_bytes
            spill = self._iovecs[2 * n + 1]
            spill.base, spill.size = rest + n * LARGEST_BYTES, LARGEST_BYTES
        self._headers = memoryview(self._messages).cast("B")
        self._fresh = bytes(self._headers)  # the kernel writes into them what it has filled
        words, sizes = self._headers.cast("I"), self._headers.cast("L")
        self._sizes = words[_SIZE_AT::_WORDS]
        self._name_sizes = words[_NAME_SIZE_AT::_WORDS]
        self._control_sizes = sizes[_CONTROL_SIZE_AT::_MESSAGE_SIZES]
        iovecs = memoryview(self._iovecs).cast("B").cast("L")
        self._bases, self._lengths = iovecs[0::4], iovecs[1::4]
        self._expected = 0

    def receive(
        self, fd: int, at: int, size: int, most: int
    ) -> tuple[Sequence[int], Came | None, Sequence[Came]]:
        """Receive at most `most` (and `MOST`) datagrams, into places of `size` bytes from `at` on.

        (the sizes of those that came first, alike in source and control messages, none larger than its place
        and no two in a row smaller; what these are, without bytes; the others, in the order in which they
        came). Nothing where nothing is there, or the socket reports an error. Does not block.
        """
        most = min(most, MOST)
        self._headers[:] = self._fresh
        if size != self._expected:
            self._expected = size
            self._lengths[:] = memoryview(array("L", [size]) * MOST)
        first = self._base + at
        self._bases[:] = memoryview(array("L", range(first, first + MOST * size, size)))
        came: int = self._call(fd, ctypes.byref(self._messages), most, socket.MSG_DONTWAIT, None)
        if came <= 0:
            return (), None, ()
        sizes = self._sizes[:came].tolist()
        alike = came
        if sizes.count(size) < came:
            alike = _fitting(sizes, size)
        if alike > 1 and not self._are_alike(alike):
            alike = 0
        head = (b"", *self._about(0)) if alike else None
        return sizes[:alike], head, [self._message(n, at, sizes[n]) for n in range(alike, came)]

    def _are_alike(self, number: int) -> bool:
        """Whether the first so many have the same source and control messages."""
        space = self._control_bytes
        sizes = self._control_sizes[:number].tolist()
        return (
            sizes.count(sizes[0]) == number
            and bytes(self._names[: number * NAME_BYTES]) == bytes(self._names[:NAME_BYTES]) * number
            and bytes(self._controls[: number * space]) == bytes(self._controls[:space]) * number
        )

    def _about(self, n: int) -> tuple[Controls, SocketAddress]:
        start = n * self._control_bytes
        control = bytes(self._controls[start : start + self._control_sizes[n]])
        name = bytes(self._names[n * NAME_BYTES :][: self._name_sizes[n]])
        return control_messages(control), address(name)

    def _message(self, n: int, at: int, size: int) -> Came:
        start, expected = at + n * self._expected, self._expected
        data = bytes(self._arrived[start : start + min(size, expected)])
        if size > expected:
            rest = n * LARGEST_BYTES
            data += self._rest[rest : rest + size - expected]
        return data, *self._about(n)


_ORDER = sys.byteorder


def _fitting(sizes: Sequence[int], size: int) -> int:
    """How many of the first are no larger than `size`, with no two in a row that are smaller."""
    was_full = True
    for n, each in enumerate(sizes):
        if each > size or not (was_full or each == size):
            return n
        was_full = each == size
    return len(sizes)


@lru_cache(maxsize=64)
def control_messages(data: bytes) -> Controls:
    """What recvmsg(2) wrote as control messages: (level, kind, value) of each (cmsg(3))."""
    found = []
    at, head = 0, socket.CMSG_LEN(0)
    while at + head <= len(data):
        size = int.from_bytes(data[at : at + _SIZE], _ORDER)
        if not head <= size <= len(data) - at:
            break
        level = int.from_bytes(data[at + _SIZE : at + _SIZE + _INT], _ORDER, signed=True)
        kind = int.from_bytes(data[at + _SIZE + _INT : at + _SIZE + 2 * _INT], _ORDER, signed=True)
        found.append((level, kind, data[at + head : at + size]))
        at += socket.CMSG_SPACE(size - head)
    return tuple(found)


@lru_cache(maxsize=1024)
def address(name: Buffer) -> SocketAddress:
    """A sockaddr_in or sockaddr_in6 as Python's sockets give it (ip(7), ipv6(7))."""
    port = int.from_bytes(name[2:4], "big")
    if len(name) < NAME_BYTES:
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port
    host = socket.inet_ntop(socket.AF_INET6, name[8:24])
    return host, port, int.from_bytes(name[4:8], "big"), int.from_bytes(name[24:28], _ORDER)
