"""Sealing and opening messages between clients, as the official SDKs do.

For one recipient: NaCl's box of the payload. For several: the payload is sealed once under a random key, and
that key is boxed for each, so that a `Message` is

    one       payload = box(payload)          nonce = 24 bytes
    several   payload = secretbox(payload)    nonce = key nonce || payload nonce, 48 bytes
              encrypted_key = box(key)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from nconnect.crypto.keys import (
    BOX_NONCE_BYTES,
    BOX_OVERHEAD_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    Box,
    Identity,
    InvalidKey,
)
from nconnect.errors import ConfigError, TooBig
from nconnect.model import NknAddress, Rng
from nconnect.wire.message import Message
from nconnect.wire.nkn import MAX_MESSAGE_BYTES
from nconnect.wire.protobuf import bytes_head, uint_field

MAX_BOXES = 1024  # shared keys kept, least used forgotten; guessed: 60 us to work one out again
MAX_BATCH_DESTS = 128  # guessed: what nodes take in one message (ours: 256)
# Of a message around its payload: nonces, boxed key, field heads, a sub-client's prefix.
_HEADROOM_BYTES = BOX_OVERHEAD_BYTES + 2 * BOX_NONCE_BYTES + KEY_BYTES + BOX_OVERHEAD_BYTES + 64
# Of a `Message` to one recipient, with the payload last: encrypted, and the head of the nonce.
_SEALED_HEAD = uint_field(2, 1) + bytes_head(3, BOX_NONCE_BYTES)


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into one outbound message: one payload for all `dests`, or one for each."""

    dests: tuple[NknAddress, ...]
    payloads: tuple[bytes, ...]


class Envelopes:
    """The boxes of one identity."""

    def __init__(self, identity: Identity, *, rng: Rng) -> None:
        self._rng = rng
        self._box = lru_cache(MAX_BOXES)(partial(Box, identity))  # by the other side's public key

    def batches(self, dests: Sequence[NknAddress], payload: bytes, *, encrypt: bool) -> Iterator[Batch]:
        """`payload` for `dests`, in messages that the network carries; each is sealed when it is iterated.

        Raises `TooBig` at once, and `ConfigError` during iteration for an address without a valid key.
        """
        longest = max(len(str(dest)) for dest in dests)
        size = len(payload) + longest + SIGNATURE_BYTES + _HEADROOM_BYTES
        if size > MAX_MESSAGE_BYTES:
            raise TooBig(
                f"{len(payload)} bytes are too many for one message: the network takes"
                f" {MAX_MESSAGE_BYTES - size + len(payload)} (send it in pieces)"
            )
        return self._sealed(dests, payload, size) if encrypt else self._open_batches(dests, payload)

    def seal_parts(self, dest: NknAddress, payload: bytes) -> tuple[bytes, bytes]:
        """The message that has `payload` sealed for `dest`, in two parts. Raises `ConfigError`."""
        nonce = self._rng(BOX_NONCE_BYTES)
        sealed = self._box_for(dest).seal(payload, nonce)
        return _SEALED_HEAD + nonce + bytes_head(1, len(sealed)), sealed

    def open(self, sender_key: bytes, message: Message) -> bytes | None:
        """The payload of a sealed message; None when it is not authentic. Raises `InvalidKey`."""
        box = self._box(sender_key)
        nonce = message.nonce
        if not message.encrypted_key:
            return box.open(message.payload, nonce)
        if len(nonce) != 2 * BOX_NONCE_BYTES:
            return None
        key = box.open(message.encrypted_key, nonce[:BOX_NONCE_BYTES])
        if key is None or len(key) != KEY_BYTES:
            return None
        return Box.of_key(key).open(message.payload, nonce[BOX_NONCE_BYTES:])

    def _sealed(self, dests: Sequence[NknAddress], payload: bytes, size: int) -> Iterator[Batch]:
        if len(dests) == 1:
            nonce = self._rng(BOX_NONCE_BYTES)
            sealed = self._box_for(dests[0]).seal(payload, nonce)
            yield Batch(tuple(dests), (Message(sealed, True, nonce).encode(),))
            return
        key, payload_nonce = self._rng(KEY_BYTES), self._rng(BOX_NONCE_BYTES)
        sealed = Box.of_key(key).seal(payload, payload_nonce)
        for some in _parts(dests, max(1, min(MAX_BATCH_DESTS, MAX_MESSAGE_BYTES // size))):
            yield Batch(tuple(some), tuple(self._with_key(dest, sealed, key, payload_nonce) for dest in some))

    def _with_key(self, dest: NknAddress, sealed: bytes, key: bytes, payload_nonce: bytes) -> bytes:
        nonce = self._rng(BOX_NONCE_BYTES)
        boxed = self._box_for(dest).seal(key, nonce)
        return Message(sealed, True, nonce + payload_nonce, boxed).encode()

    def _open_batches(self, dests: Sequence[NknAddress], payload: bytes) -> Iterator[Batch]:
        message = Message(payload).encode()
        for some in _parts(dests, MAX_BATCH_DESTS):
            yield Batch(tuple(some), (message,))

    def _box_for(self, dest: NknAddress) -> Box:
        try:
            return self._box(dest.public_key)
        except InvalidKey:
            raise ConfigError(f"{dest} is not an NKN address: what it ends in is no public key") from None


def _parts(dests: Sequence[NknAddress], most: int) -> Iterator[Sequence[NknAddress]]:
    for start in range(0, len(dests), most):
        yield dests[start : start + most]
