"""The keys that open a direct TCP stream: children of a session's keys.

A child for each direction is HKDF-SHA256 (RFC 5869) of the session's key of that direction, without a salt,
with the info `nconnect 1 stream`. They make proofs (HMAC-SHA256) and encrypt nothing, so no nonce can repeat.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nconnect.crypto.keys import KEY_BYTES
from nconnect.wire.stream import MAX_NUMBER

INFO = b"nconnect 1 stream"


def stream_key(session_key: bytes) -> bytes:
    """The key of proofs for the direction that `session_key` (32 bytes) is for."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=INFO).derive(session_key)


class StreamKeys:
    """One key pair's. Indices are the session's; an OPEN's number is used once on each side."""

    __slots__ = ("_next", "_receive", "_send", "local_index", "newest", "remote_index")

    def __init__(self, keys: tuple[bytes, bytes], local_index: int, remote_index: int) -> None:
        """`keys`: the session's own, to send with and to receive with, 32 bytes each."""
        self._send, self._receive = map(stream_key, keys)
        self.local_index = local_index
        self.remote_index = remote_index
        self.newest = 0  # the highest number of an OPEN that proved genuine; ours begin at 1
        self._next = 1

    def take_number(self) -> int | None:
        """The number of our next OPEN; None when there is none left."""
        number = self._next
        if number > MAX_NUMBER:
            return None
        self._next = number + 1
        return number

    def prove(self, what: bytes) -> bytes:
        return hmac.digest(self._send, what, "sha256")

    def verify(self, what: bytes, proof: bytes) -> bool:
        """Whether the peer made this proof."""
        return hmac.compare_digest(hmac.digest(self._receive, what, "sha256"), proof)
