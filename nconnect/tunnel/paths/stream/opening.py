"""One connection until it is a stream: both sides of the opening, each a machine that takes bytes. Pure.

`receive` takes what arrived, in pieces of any size, and returns what is to be sent, or why the connection is
to be closed without another byte. Once `is_open`, what came behind the opening is in `early`.
"""

from __future__ import annotations

from collections.abc import Callable

from nconnect.errors import DropReason
from nconnect.tunnel.paths.stream.keys import StreamKeys
from nconnect.wire.stream import (
    ANSWER_BYTES,
    CONFIRM_BYTES,
    NONCE_BYTES,
    OPEN_BYTES,
    Answer,
    Open,
    answer_proof_of,
    confirm_proof_of,
    open_proof_of,
)

KeysOf = Callable[[int], tuple[str, StreamKeys] | None]
"""By our index: whose key pair this is (an NKN address), and its keys. None: no such pair now."""


class Dialling:
    """The side that connected. `first` is to be sent at once."""

    def __init__(self, keys: StreamKeys, number: int, nonce: bytes) -> None:
        """`number`: from `keys.take_number`. `nonce`: `NONCE_BYTES` random bytes."""
        assert len(nonce) == NONCE_BYTES
        proof = keys.prove(open_proof_of(keys.remote_index, keys.local_index, number, nonce))
        self.first = Open(keys.remote_index, number, nonce, proof).encode()
        self.is_open = False
        self.early = b""
        self._keys = keys
        self._received = b""

    def receive(self, data: bytes) -> bytes | DropReason:
        """What to send; empty while more bytes are needed."""
        assert not self.is_open
        self._received += data
        if len(self._received) < ANSWER_BYTES:
            return b""
        raw, self.early = self._received[:ANSWER_BYTES], self._received[ANSWER_BYTES:]
        answer = Answer.decode(raw)
        if not self._keys.verify(answer_proof_of(self.first, answer.nonce), answer.proof):
            return DropReason.NOT_AUTHENTIC
        self.is_open = True
        return self._keys.prove(confirm_proof_of(self.first, raw))


class Answering:
    """The side that was connected to. It keeps no more than `OPEN_BYTES` of a stranger's bytes."""

    def __init__(self, keys_of: KeysOf, nonce: bytes) -> None:
        """`nonce`: `NONCE_BYTES` random bytes."""
        assert len(nonce) == NONCE_BYTES
        self.is_open = False
        self.early = b""
        self.peer = ""  # whose stream it is: proved once it is open
        self._keys_of = keys_of
        self._nonce = nonce
        self._keys: StreamKeys | None = None
        self._opened = self._answer = b""
        self._received = b""

    @property
    def wants(self) -> int:
        """How many bytes to read at most: before CONFIRM, no more than what is expected."""
        return (CONFIRM_BYTES if self._keys is not None else OPEN_BYTES) - len(self._received)

    def receive(self, data: bytes) -> bytes | DropReason:
        """What to send; empty while more bytes are needed, and once it is open."""
        assert not self.is_open
        self._received += data
        if self._keys is None:
            return self._on_open() if len(self._received) >= OPEN_BYTES else b""
        return self._on_confirm(self._keys) if len(self._received) >= CONFIRM_BYTES else b""

    def _on_open(self) -> bytes | DropReason:
        if len(self._received) > OPEN_BYTES:  # a dialler waits for the answer
            return DropReason.MALFORMED
        raw, self._received = self._received, b""
        opened = Open.decode(raw)
        found = self._keys_of(opened.receiver)
        if found is None:
            return DropReason.NO_SESSION
        peer, keys = found
        if opened.number <= keys.newest:
            return DropReason.REPLAYED
        proved = open_proof_of(keys.local_index, keys.remote_index, opened.number, opened.nonce)
        if not keys.verify(proved, opened.proof):
            return DropReason.NOT_AUTHENTIC
        keys.newest = opened.number
        self.peer, self._keys, self._opened = peer, keys, raw
        self._answer = Answer(self._nonce, keys.prove(answer_proof_of(raw, self._nonce))).encode()
        return self._answer

    def _on_confirm(self, keys: StreamKeys) -> bytes | DropReason:
        proof, self.early = self._received[:CONFIRM_BYTES], self._received[CONFIRM_BYTES:]
        if self._keys_of(keys.local_index) != (self.peer, keys):  # the session has ended meanwhile
            return DropReason.NO_SESSION
        if not keys.verify(confirm_proof_of(self._opened, self._answer), proof):
            return DropReason.NOT_AUTHENTIC
        self.is_open = True
        return b""
