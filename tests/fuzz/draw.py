"""Structured inputs from a fuzzer's bytes: numbers, choices, pieces. The same bytes give the same input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Takes from the front; when nothing is left, zeros come."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether something is left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """`size` bytes, filled up with zeros."""
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece.ljust(size, b"\0")

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "big")

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1, of at most 256."""
        return self.number() % count

    def flag(self) -> bool:
        return bool(self.number() & 1)

    def of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def piece(self, most: int = 255) -> bytes:
        """Some of what is left: a byte says how much."""
        size = min(self.number(), most, max(0, len(self._data) - self._at))
        return self.take(size)

    def text(self, most: int = 40) -> str:
        return self.piece(most).decode("latin-1")

    def rest(self) -> bytes:
        piece = self._data[self._at :]
        self._at = len(self._data)
        return piece

    def changed(self, data: bytes) -> bytes:
        """`data` with a few bytes flipped, cut short or grown; perhaps as it was."""
        made = bytearray(data)
        for _ in range(self.below(4)):
            made[self.number(2) % len(made)] ^= self.number()
        return bytes(made[: len(made) - self.of((0, 0, 0, 1, 16)) or None]) + self.of((b"", b"", b"\0"))
