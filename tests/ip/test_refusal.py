"""Refusals, as a kernel reads them: checksums, sequence numbers, and what must not be answered."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.ip.checksum import checksum, word_sum
from nconnect.ip.packet import is_well_formed
from nconnect.ip.refusal import opens, refusal_of

HERE, THERE = "10.86.0.2", "192.168.50.10"
HERE6, THERE6 = "fd86::2", "fd50::10"
FIN, SYN, RST, ACK = 1, 2, 4, 16


def ip_packet(source: str, target: str, protocol: int, content: bytes, *, fragment: int = 0) -> memoryview:
    a, b = ip_address(source).packed, ip_address(target).packed
    if len(a) == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(content), 7, fragment, 64, protocol, 0)
        return memoryview(head + a + b + content)
    return memoryview(struct.pack(">IHBB", 6 << 28, len(content), protocol, 64) + a + b + content)


def segment(flags: int, *, sequence: int = 1000, acknowledged: int = 0, data: bytes = b"") -> bytes:
    return struct.pack(">HHIIBBHHH", 4321, 80, sequence, acknowledged, 5 << 4, flags, 9, 0, 0) + data


def reset_of(view: memoryview) -> tuple[int, int, int, int, int]:
    """(source port, target port, sequence, acknowledged, flags) of the answer, whose checksums are right."""
    answer = refusal_of(view)
    assert answer is not None
    assert is_well_formed(memoryview(answer))
    is_4 = answer[0] >> 4 == 4
    start, addresses = (20, answer[12:20]) if is_4 else (40, answer[8:40])
    half = len(addresses) // 2
    asked = view[12:20] if is_4 else view[8:40]
    assert addresses == bytes(asked[half:]) + bytes(asked[:half])
    assert answer[9 if is_4 else 6] == 6
    assert checksum(answer[start:], word_sum(addresses) + 6 + 20) == 0
    assert not is_4 or checksum(answer[:20]) == 0
    source, target, sequence, acknowledged, _, flags, *_ = struct.unpack_from(">HHIIBBHHH", answer, start)
    return source, target, sequence, acknowledged, flags


@pytest.mark.parametrize(("here", "there"), [(HERE, THERE), (HERE6, THERE6)])
def test_a_segment_is_reset_as_a_closed_port_does(here: str, there: str) -> None:
    def answer(content: bytes) -> tuple[int, int, int, int, int]:
        return reset_of(ip_packet(here, there, 6, content))

    assert answer(segment(SYN)) == (80, 4321, 0, 1001, RST | ACK)
    assert answer(segment(SYN, sequence=0xFFFFFFFF)) == (80, 4321, 0, 0, RST | ACK)
    assert answer(segment(ACK, acknowledged=77, data=b"abc")) == (80, 4321, 77, 0, RST)
    assert answer(segment(FIN, data=b"abc")) == (80, 4321, 0, 1004, RST | ACK)


def test_what_is_no_tcp_is_prohibited() -> None:
    datagram = ip_packet(HERE, THERE, 17, struct.pack(">HHHH", 1, 2, 1208, 0) + bytes(1200))
    answer = refusal_of(datagram)
    assert answer is not None
    assert (answer[20], answer[21], answer[9], len(answer)) == (3, 13, 1, 576)
    assert (answer[12:16], answer[16:20]) == (ip_address(THERE).packed, ip_address(HERE).packed)
    assert answer[28:] == bytes(datagram)[:548]
    assert checksum(answer[20:]) == checksum(answer[:20]) == 0

    answer6 = refusal_of(ip_packet(HERE6, THERE6, 17, bytes(2000)))
    assert answer6 is not None
    assert (answer6[40], answer6[41], answer6[6], len(answer6)) == (1, 1, 58, 1280)
    assert checksum(answer6[40:], word_sum(answer6[8:40]) + 58 + len(answer6) - 40) == 0


@pytest.mark.parametrize(
    "silent",
    [
        ip_packet(HERE, THERE, 6, segment(RST)),
        ip_packet(HERE, THERE, 6, segment(RST | ACK)),
        ip_packet(HERE, THERE, 6, segment(SYN)[:10]),
        ip_packet(HERE, THERE, 1, bytes((3, 1)) + bytes(30)),  # an ICMP error
        ip_packet(HERE, THERE, 1, bytes(8)),  # an echo reply
        ip_packet(HERE6, THERE6, 58, bytes((129, 0)) + bytes(6)),
        ip_packet(HERE, THERE, 17, bytes(30), fragment=0x2000),
        ip_packet(HERE, THERE, 17, bytes(30), fragment=5),
        ip_packet(HERE, "224.0.0.251", 17, bytes(30)),
        ip_packet(HERE, "255.255.255.255", 17, bytes(30)),
        ip_packet("0.0.0.0", THERE, 17, bytes(30)),
        ip_packet(HERE6, "ff02::fb", 17, bytes(30)),
        ip_packet(HERE, THERE, 17, b""),
    ],
)
def test_what_must_not_be_answered(silent: memoryview) -> None:
    assert refusal_of(silent) is None


def test_what_surely_opens_a_connection() -> None:
    assert opens(ip_packet(HERE, THERE, 6, segment(SYN)))
    assert opens(ip_packet(HERE6, THERE6, 58, bytes((128, 0)) + bytes(6)))
    assert not opens(ip_packet(HERE, THERE, 6, segment(ACK)))
    assert not opens(ip_packet(HERE, THERE, 6, segment(SYN | ACK)))
    assert not opens(ip_packet(HERE, THERE, 6, b""))
    assert not opens(ip_packet(HERE, THERE, 17, bytes(8)))


@given(st.binary(min_size=20, max_size=200))
def test_any_packet_is_answered_by_a_well_formed_one_or_not_at_all(data: bytes) -> None:
    view = memoryview(data)
    if not is_well_formed(view):
        return
    opens(view)
    answer = refusal_of(view)
    assert answer is None or (is_well_formed(memoryview(answer)) and len(answer) <= 1280)
    if answer is not None:
        assert refusal_of(memoryview(answer)) is None  # no two hosts refuse each other for ever
