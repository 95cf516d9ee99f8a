"""The session's ciphers, and the replay window for what they number.

AES-256-GCM and ChaCha20-Poly1305 seal from and into the caller's buffers.

Nothing is allocated for a message except its 12-byte nonce. As Noise specifies (section 12), the nonce is
four zero bytes and a 64-bit counter, big-endian for AES-GCM and little-endian for ChaCha20-Poly1305. The
counter must never repeat under one key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from itertools import count, repeat
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from nconnect.crypto.keys import KEY_BYTES
from nconnect.model import Buffer

TAG_BYTES = 16

TRIAL_BYTES = 64 << 10  # what `faster_suite` seals: a super-packet
TRIAL_ROUNDS = (
    3  # measured: 0.1 ms in all with AES instructions, 1.3 ms when it is the first use of the library
)

_BIG, _LITTLE = Struct(">IQ"), Struct("<IQ")


class CipherSuite(Enum):
    """A cipher with the hash that goes with it. The value is the name in configuration and status."""

    AES256GCM = "aes256gcm"
    CHACHA20POLY1305 = "chacha20poly1305"

    @property
    def wire_id(self) -> int:
        """The byte that names it in our frames: 1 or 2."""
        return _WIRE_IDS[self]

    @classmethod
    def of_wire_id(cls, wire_id: int) -> CipherSuite | None:
        """The suite that the byte names; None if it is unknown."""
        return _OF_WIRE_ID.get(wire_id)

    def aead(self, key: bytes) -> Aead:
        """This cipher under a 32-byte key."""
        if len(key) != KEY_BYTES:  # the library's AESGCM would also accept 16 and 24
            raise ValueError("a key is 32 bytes")
        if self is CipherSuite.AES256GCM:
            return Aead(AESGCM(key), _BIG)
        return Aead(ChaCha20Poly1305(key), _LITTLE)


_WIRE_IDS = {CipherSuite.AES256GCM: 1, CipherSuite.CHACHA20POLY1305: 2}
_OF_WIRE_ID = {wire_id: suite for suite, wire_id in _WIRE_IDS.items()}


class Aead:
    """An authenticated cipher under one key, with a counter for a nonce."""

    __slots__ = ("_cipher", "_nonce")

    def __init__(self, cipher: AESGCM | ChaCha20Poly1305, counter_format: Struct) -> None:
        """`CipherSuite.aead` makes it."""
        self._cipher = cipher
        self._nonce = counter_format.pack

    def seal_into(self, counter: int, aad: Buffer, plaintext: Buffer, out: Buffer) -> int:
        """Write ciphertext and tag to the start of `out`; return their size, `len(plaintext)` + 16.

        `out` must be writable, at least that long, and not overlap `plaintext`: otherwise `ValueError`.
        """
        size = len(plaintext) + TAG_BYTES
        if len(out) != size:
            out = memoryview(out)[:size]
        return self._cipher.encrypt_into(self._nonce(0, counter), plaintext, aad, out)

    def open_into(self, counter: int, aad: Buffer, sealed: Buffer, out: Buffer) -> int | None:
        """Write the plaintext to the start of `out`; return its size, or None if it is not authentic.

        If it returns None, the content of `out` must not be used. `out` must be writable and at least
        `len(sealed)` - 16 bytes long. Raises `ValueError` otherwise.
        """
        size = len(sealed) - TAG_BYTES
        if size < 0:
            return None
        if len(out) != size:
            out = memoryview(out)[:size]
        try:
            return self._cipher.decrypt_into(self._nonce(0, counter), sealed, aad, out)
        except InvalidTag:
            return None

    def seal(self, counter: int, aad: Buffer, plaintext: Buffer) -> bytes:
        """As `seal_into`, into a new object: for handshakes."""
        return self._cipher.encrypt(self._nonce(0, counter), plaintext, aad)

    def open(self, counter: int, aad: Buffer, sealed: Buffer) -> bytes | None:
        """As `open_into`, into a new object: for handshakes."""
        try:
            return self._cipher.decrypt(self._nonce(0, counter), sealed, aad)
        except InvalidTag:
            return None

    def seal_run(self, counter: int, aads: Iterable[Buffer], plaintexts: Iterable[Buffer]) -> list[bytes]:
        """Seal each plaintext with its associated data, under `counter` and those after it."""
        nonces = map(self._nonce, repeat(0), count(counter))
        return list(map(self._cipher.encrypt, nonces, plaintexts, aads))

    def open_run(self, counter: int, aads: Iterable[Buffer], sealed: Iterable[Buffer]) -> list[bytes] | None:
        """Open what `seal_run` sealed; None if one of them is not authentic."""
        nonces = map(self._nonce, repeat(0), count(counter))
        try:
            return list(map(self._cipher.decrypt, nonces, sealed, aads))
        except InvalidTag:
            return None


def faster_suite(clock: Callable[[], float]) -> CipherSuite:
    """The suite that seals 64 KiB faster on this machine by `clock` (seconds), in the best of a few rounds.

    The rounds alternate, so that a disturbance affects both. On a tie it is AES-256-GCM.
    """
    key, plaintext, out = bytes(KEY_BYTES), bytes(TRIAL_BYTES), bytearray(TRIAL_BYTES + TAG_BYTES)
    ciphers = [(suite, suite.aead(key)) for suite in CipherSuite]
    best = dict.fromkeys(CipherSuite, float("inf"))
    for counter in range(TRIAL_ROUNDS):
        for suite, cipher in ciphers:
            started_at = clock()
            cipher.seal_into(counter, b"", plaintext, out)
            best[suite] = min(best[suite], clock() - started_at)
    return min(CipherSuite, key=best.__getitem__)


_BLOCK_BITS = 64
_FULL = (1 << _BLOCK_BITS) - 1


class ReplayWindow:
    """Accepts each counter at most once, and none that is `size` or more below the newest.

    `size` is a multiple of 64. RFC 6479's blocks of bits, here one integer a block. Call `is_fresh` before
    the message is opened, and `mark` only after it proved authentic.
    """

    __slots__ = ("_blocks", "_size", "newest")

    def __init__(self, size: int) -> None:
        self.newest = -1  # a counter above it is fresh
        self._size = size
        # One block more than the window: the newest is partly filled.
        self._blocks = [0] * (size // _BLOCK_BITS + 1)

    def is_fresh(self, counter: int) -> bool:
        newest = self.newest
        if counter > newest:
            return True
        if counter + self._size <= newest:
            return False
        blocks = self._blocks
        block = blocks[counter // _BLOCK_BITS % len(blocks)]
        return not block >> counter % _BLOCK_BITS & 1

    def mark(self, counter: int) -> None:
        """Remember a counter that `is_fresh` accepted."""
        block = counter // _BLOCK_BITS
        blocks, newest = self._blocks, self.newest
        count = len(blocks)
        if counter > newest:
            first = newest // _BLOCK_BITS + 1 if newest >= 0 else 0
            if block >= first:
                for passed in range(max(first, block - count + 1), block + 1):
                    blocks[passed % count] = 0
            self.newest = counter
        blocks[block % count] |= 1 << counter % _BLOCK_BITS

    def mark_run(self, first: int, count: int) -> None:
        """Remember `count` counters from `first` on, all above `newest`."""
        self.mark(first)
        last = first + count - 1
        blocks = self._blocks
        block, last_block = first // _BLOCK_BITS, last // _BLOCK_BITS
        bits = -1 << first % _BLOCK_BITS & _FULL
        while block < last_block:
            blocks[block % len(blocks)] |= bits
            block, bits = block + 1, _FULL
            blocks[block % len(blocks)] = 0
        blocks[block % len(blocks)] |= bits & ((2 << last % _BLOCK_BITS) - 1)
        self.newest = last
