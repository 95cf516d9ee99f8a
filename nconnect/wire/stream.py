"""The opening of a direct TCP stream: three messages of fixed size, before anything else.

The side that connects is the dialler. Integers are little-endian.

    OPEN     dialler    | receiver index u32 | number u32 | nonce 16 | proof 32 |
    ANSWER   listener   | nonce 16 | proof 32 |
    CONFIRM  dialler    | proof 32 |

Proofs are HMAC-SHA256 (RFC 2104) under the stream key of the direction that the message goes in
(`nconnect.tunnel.paths.stream.keys`), over what `open_proof_of`, `answer_proof_of` and `confirm_proof_of`
return.

After CONFIRM both sides send RFC 6455 frames, without an upgrade. The dialler has the client's part and masks
with zeros. Each binary message is the payload of an NKN message with a data frame (`nconnect.wire.tunnel`).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

NONCE_BYTES = 16
PROOF_BYTES = 32
MAX_NUMBER = (1 << 32) - 1

_OPEN = Struct("<II16s32s")
_ANSWER = Struct("<16s32s")
_PROVED = Struct("<BIII16s")  # label, both indices, number, nonce

OPEN_BYTES = _OPEN.size
ANSWER_BYTES = _ANSWER.size
CONFIRM_BYTES = PROOF_BYTES

# The first byte of what a proof is made over: no proof can stand for another kind.
_OPENS, _ANSWERS, _CONFIRMS = 1, 2, 3


class Open(NamedTuple):
    """The dialler's first message. `receiver`: the listener's index of the session's key pair.

    `number` rises with each message under one key pair, so that a recorded one is refused.
    """

    receiver: int
    number: int
    nonce: bytes
    proof: bytes

    def encode(self) -> bytes:
        return _OPEN.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Open:
        """Read exactly `OPEN_BYTES`; any such bytes are an OPEN."""
        return cls(*_OPEN.unpack(data))


class Answer(NamedTuple):
    """The listener's message."""

    nonce: bytes
    proof: bytes

    def encode(self) -> bytes:
        return _ANSWER.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Read exactly `ANSWER_BYTES`; any such bytes are an ANSWER."""
        return cls(*_ANSWER.unpack(data))


def open_proof_of(receiver: int, sender: int, number: int, nonce: bytes) -> bytes:
    """What OPEN proves: u8 1, u32 receiver index, u32 sender index, u32 number, nonce."""
    return _PROVED.pack(_OPENS, receiver, sender, number, nonce)


def answer_proof_of(opened: bytes, nonce: bytes) -> bytes:
    """What ANSWER proves: u8 2, the whole OPEN, the listener's nonce."""
    return bytes((_ANSWERS,)) + opened + nonce


def confirm_proof_of(opened: bytes, answer: bytes) -> bytes:
    """What CONFIRM proves: u8 3, the whole OPEN, the whole ANSWER."""
    return bytes((_CONFIRMS,)) + opened + answer
