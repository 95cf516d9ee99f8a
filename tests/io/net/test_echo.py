from __future__ import annotations

import pytest

from nconnect.io.net import echo


@pytest.fixture(autouse=True)
def _allowed() -> None:
    try:
        echo.answers("127.0.0.1")
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW or a place in ping_group_range")


def test_loopback_answers_with_packets_up_to_its_mtu() -> None:
    assert echo.answers("127.0.0.1", 1500)
    assert echo.answers("127.0.0.1", 65_535)
    assert echo.largest("127.0.0.1", (1500, 576)) == 1500


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        ((), 1280),
        ((1280,), 1280),
        ((1280, 1000), 1280),
        ((1280, 1280), 1000),
    ],
)
def test_a_packet_lost_by_chance_does_not_count(
    monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...], found: int
) -> None:
    """Of a path that takes 1300 bytes; `lost` are the sizes of packets that are lost, once each."""
    left = list(lost)

    def answers(host: str, size: int) -> bool:
        if size in left:
            left.remove(size)
            return False
        return size <= 1300

    monkeypatch.setattr(echo, "answers", answers)
    assert echo.largest("host", (1500, 1400, 1280, 1000, 576)) == found


def test_a_packet_that_does_not_fit_is_no_answer() -> None:
    assert not echo.answers("127.0.0.1", 70_000)


def test_who_is_not_there_does_not_answer() -> None:
    assert not echo.answers("127.255.255.255", wait_s=0.05)


def test_the_checksum_is_rfc_1071s() -> None:
    assert echo._checksum(bytes([0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])) == 0x220D
    assert echo._checksum(b"\xff") == 0x00FF
