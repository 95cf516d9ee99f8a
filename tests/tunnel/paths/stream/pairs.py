"""Both sides' keys of one session, and a stream's opening between them."""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.tunnel.paths.stream.keys import StreamKeys
from nconnect.tunnel.paths.stream.opening import Answering, Dialling

A_TO_B, B_TO_A = b"\x01" * 32, b"\x02" * 32
A_INDEX, B_INDEX = 0x0A0A0A0A, 0x0B0B0B0B
PEER = "a." + "aa" * 32  # whose keys the listener finds


class Pair:
    """A dials, B listens."""

    def __init__(self) -> None:
        self.a = StreamKeys((A_TO_B, B_TO_A), A_INDEX, B_INDEX)
        self.b = StreamKeys((B_TO_A, A_TO_B), B_INDEX, A_INDEX)
        self.known = {B_INDEX: (PEER, self.b)}

    def dial(self, nonce: bytes = b"n" * 16) -> Dialling:
        number = self.a.take_number()
        assert number is not None
        return Dialling(self.a, number, nonce)

    def listen(self, nonce: bytes = b"m" * 16) -> Answering:
        return Answering(self.known.get, nonce)


def sent(what: bytes | DropReason) -> bytes:
    """What a side sent; it must not have refused."""
    assert isinstance(what, bytes), what
    return what
