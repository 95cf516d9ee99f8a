"""Packets that wait for their turn at the TUN."""

from __future__ import annotations

import pytest

from nconnect.daemon import inflow
from nconnect.daemon.inflow import MAX_BYTES, MAX_PACKETS, Inflow


def packets(count: int, size: int = 40, mark: int = 0) -> list[memoryview]:
    return [memoryview(bytes([mark]) + number.to_bytes(3) + bytes(size - 4)) for number in range(count)]


def test_they_come_in_order_and_end() -> None:
    waiting = Inflow()
    assert not waiting.waiting
    sent = packets(100)
    assert waiting.put("a", sent[:60]) == 0
    assert waiting.put("a", sent[60:]) == 0
    got: list[bytes] = []
    while waiting.waiting:
        assert waiting.holds("a")
        got += waiting.take(7)
    assert got == sent
    assert not waiting.holds("a")
    assert waiting.take(7) == []


def test_what_is_kept_is_a_copy() -> None:
    """The receive buffer is used again at once."""
    buffer = bytearray(40)
    waiting = Inflow()
    waiting.put("a", [memoryview(buffer)])
    buffer[:] = b"x" * 40
    assert waiting.take(1) == [bytes(40)]


def test_sources_have_equal_shares_of_a_turn() -> None:
    waiting = Inflow()
    waiting.put("flood", packets(MAX_PACKETS, mark=1))
    waiting.put("chat", packets(3, mark=2))
    first = waiting.take(100)
    assert len(first) == 100
    assert [packet[0] for packet in first].count(2) == 3, "all of the chat, though the flood was there first"
    for number in range(200):
        waiting.put(f"other {number}", packets(2, mark=3))
    turn = waiting.take(50)
    assert len(turn) == 50
    assert [packet[0] for packet in turn].count(1) <= 1


def test_a_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Inflow()
    assert waiting.put("a", packets(MAX_PACKETS + 10)) == 10
    assert waiting.put("a", packets(5)) == 5
    assert waiting.put("b", packets(100, size=65_000)) == 100 - MAX_BYTES // 65_000
    monkeypatch.setattr(inflow, "MAX_ALL_BYTES", MAX_BYTES + 40 * MAX_PACKETS + 1000)
    assert waiting.put("c", packets(100, size=4000)) > 80, "all together"
    assert waiting.put("d", packets(1, size=1 << 20)) == 1
    assert not waiting.holds("d")
