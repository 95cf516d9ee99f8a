"""Proves that a message of the cluster comes from one of its nodes and is not a repetition. Pure.

All nodes of a cluster share one key. A sealed message is

    u8[16] BLAKE2b of the rest and of the subject, under that key (RFC 7693) | u8[8] run of the sender
    | u64 number (big-endian) | body

The number is the sender's wall clock in microseconds, or the last number plus one if that is larger. A clock
that is set back further than receivers tolerate begins a new run. For each run and lane (`CONTROL`,
`FRAGMENTS`: NATS keeps the order within one), a receiver accepts increasing numbers only, and only those
within `TOLERANCE_S` of its own clock, so that a recorded message is useless later. The tag covers the
subject, so that a message for one node cannot be given to another.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer

CONTROL, FRAGMENTS = 0, 1
LEAST_KEY_CHARS = 32
TOLERANCE_S = 60.0  # guessed: servers keep their clocks much better than this
_MAX_RUNS = 1024  # remembered, each for at least `TOLERANCE_S` unless more nodes restart within that time
_TAG_BYTES = 16
_HEAD = struct.Struct(">8sQ")
_OVERHEAD_BYTES = _TAG_BYTES + _HEAD.size


class Seal:
    """One node's. Times are seconds of the wall clock."""

    def __init__(self, secret: bytes, run: bytes) -> None:
        self._key = hashlib.blake2b(secret, person=b"nconnect cluster").digest()
        self._run = run
        self._last = 0
        self._seen: dict[tuple[bytes, int], int] = {}  # run and lane -> the newest number

    def close(self, subject: str, body: Buffer, now: float) -> bytes:
        """The message for this subject."""
        if self._last / 1e6 - now > TOLERANCE_S / 2:
            self._run = hashlib.blake2b(self._run, digest_size=len(self._run)).digest()
            self._last = 0
        self._last = max(self._last + 1, int(now * 1e6))
        head = _HEAD.pack(self._run, self._last)
        return b"".join((self._tag(subject, head, body), head, body))

    def open(self, subject: str, lane: int, data: bytes, now: float) -> bytes:
        """The body of a node's message, maybe our own. Raises `RemoteProtocolError`."""
        if len(data) < _OVERHEAD_BYTES:
            raise RemoteProtocolError("cluster: a message without a seal")
        view = memoryview(data)
        head, body = view[_TAG_BYTES:_OVERHEAD_BYTES], view[_OVERHEAD_BYTES:]
        if not hmac.compare_digest(self._tag(subject, head, body), view[:_TAG_BYTES]):
            raise RemoteProtocolError("cluster: a message that was not made with the cluster's key")
        run, number = _HEAD.unpack(head)
        if abs(number / 1e6 - now) > TOLERANCE_S:
            raise RemoteProtocolError("cluster: an old message, or a wrong clock")
        if number <= self._seen.get((run, lane), 0):
            raise RemoteProtocolError("cluster: a repeated message")
        self._seen.pop((run, lane), None)  # so that the newest is the last entry
        if len(self._seen) >= _MAX_RUNS:
            del self._seen[next(iter(self._seen))]
        self._seen[run, lane] = number
        return bytes(body)

    def _tag(self, subject: str, head: Buffer, body: Buffer) -> bytes:
        name = subject.encode()
        digest = hashlib.blake2b(len(name).to_bytes(2, "big") + name, digest_size=_TAG_BYTES, key=self._key)
        digest.update(head)
        digest.update(body)
        return digest.digest()
