"""`python -m lab.bench.flood receive PORT SKIP_S SECONDS`, or `send HOST PORT SIZE SECONDS RATE [FROM]`: UDP.

The sender numbers its datagrams (32 bits, big-endian, at the front) and hands them to the kernel 64 at a time
(`sendmmsg`, without segmentation offload: each is a packet of its own from here on); RATE in packets a
second, 0 as fast as it goes; FROM the port that it sends from. The receiver waits for the first one, leaves
SKIP_S out, counts for SECONDS and prints one JSON object: {"packets": arrived, "sent": how many the numbers
span, "seconds"}; the sender prints {"rate": packets a second}.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import time

BATCH = 64
BUFFER_BYTES = 2048
RECEIVE_BUFFER_BYTES = 16 << 20
FIRST_TIMEOUT_S = 20.0  # a sender is started after the receiver: seconds on a busy machine
TICK_S = 0.001  # how often a sender with a rate sends
MSG_WAITFORONE = 0x10000
NUMBER = struct.Struct("!I")


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint32))


class Batch:
    """Buffers for `BATCH` datagrams that one system call sends or receives."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = bytearray(BATCH * size)
        self._pin = (ctypes.c_char * len(self.memory)).from_buffer(self.memory)
        start = ctypes.addressof(self._pin)
        self._vectors = (_IoVec * BATCH)(*(_IoVec(start + n * size, size) for n in range(BATCH)))
        self.messages = (_MMsgHdr * BATCH)()
        for n, message in enumerate(self.messages):
            message.hdr.iov = ctypes.pointer(self._vectors[n])
            message.hdr.iovlen = 1

    def number(self, index: int) -> int:
        return int(NUMBER.unpack_from(self.memory, index * self.size)[0])


_libc = ctypes.CDLL(None, use_errno=True)


def receive(port: int, skip_s: float, seconds: float) -> dict[str, float]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER_BYTES)  # SO_RCVBUFFORCE
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
        listening.bind(("0.0.0.0", port))
        print("listening", flush=True)
        batch = Batch(BUFFER_BYTES)
        fd = listening.fileno()
        begin: float | None = None
        give_up = time.monotonic() + FIRST_TIMEOUT_S
        packets, first, last = 0, -1, 0
        while True:
            got = _libc.recvmmsg(fd, batch.messages, BATCH, MSG_WAITFORONE, None)
            now = time.monotonic()
            if got > 0 and begin is None:
                begin = now + skip_s
            if begin is None:
                if now > give_up:
                    return {"packets": 0, "sent": 0, "seconds": seconds}
                continue
            if now >= begin + seconds:
                break
            if got > 0 and now >= begin:
                if first < 0:
                    first = batch.number(0)
                packets += got
                last = max(last, batch.number(got - 1))
        return {"packets": packets, "sent": max(packets, last - first + 1), "seconds": seconds}


def send(host: str, port: int, size: int, seconds: float, rate: float, source: int = 0) -> dict[str, float]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind(("", source))
        sending.connect((host, port))
        batch = Batch(size)
        pack, memory, messages, fd = NUMBER.pack_into, batch.memory, batch.messages, sending.fileno()
        number = 0
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            count = BATCH if not rate else min(BATCH, int(passed * rate) - number)
            if count <= 0:
                time.sleep(TICK_S)
                continue
            for n in range(count):
                pack(memory, n * size, (number + n) & 0xFFFFFFFF)
            sent = _libc.sendmmsg(fd, messages, count, 0)
            if sent < 0:
                code = ctypes.get_errno()
                if code not in (11, 105, 111):  # EAGAIN; ENOBUFS; ECONNREFUSED: not there yet, or gone
                    raise OSError(code, os.strerror(code))
                continue
            number += sent
        return {"rate": number / passed}


def main() -> None:
    match sys.argv[1:]:
        case ["receive", port, skip_s, seconds]:
            print(json.dumps(receive(int(port), float(skip_s), float(seconds))), flush=True)
        case ["send", host, port, size, seconds, rate, *source]:
            sent = send(host, int(port), int(size), float(seconds), float(rate), *map(int, source))
            print(json.dumps(sent), flush=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
