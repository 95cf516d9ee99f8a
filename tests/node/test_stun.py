"""The node as a STUN server: what it answers, and that it cannot be used against others."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.node.stun import PLAIN_BURST, PLAIN_RATE_PER_S, StunDrop, StunServer, prefix_of
from nconnect.wire import stun

ID = b"transaction!"
PLAIN = stun.encode_request(ID)
PADDED = stun.encode_request(ID, size=44)


def test_it_tells_from_where_a_request_came() -> None:
    server = StunServer()
    for host, shown in (
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%2", "fe80::1"),
    ):
        answer = server.answer(PADDED, host, 40_000, 0.0)
        assert answer is not None
        message = stun.decode(answer)
        assert message.transaction == ID
        assert stun.mapped_address(message) == (ip_address(shown), 40_000)
    assert server.answers == 3


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_a_flood_of_short_requests_from_one_prefix_gets_the_rate(host: str) -> None:
    server = StunServer()
    seconds = 5
    answered = sum(server.answer(PLAIN, host, 1, n / 1000) is not None for n in range(1000 * seconds))
    assert answered == pytest.approx(PLAIN_BURST + PLAIN_RATE_PER_S * seconds, abs=1)
    assert server.drops == {StunDrop.RATE_LIMITED: 1000 * seconds - answered}
    # Neighbours share its rate; others, and padded requests, do not.
    near, far = ("192.0.2.99", "192.0.3.7") if "." in host else ("2001:db8::ff:1", "2001:db8:0:100::7")
    assert server.answer(PLAIN, near, 1, seconds) is None
    assert server.answer(PLAIN, far, 1, seconds) is not None
    assert server.answer(PADDED, host, 1, seconds) is not None


def test_padding_must_reach_the_answers_length() -> None:
    server = StunServer(burst=1)
    short = {"192.0.2.7": 28, "2001:db8::7": 40}
    for host, size in short.items():
        request = stun.encode_request(ID, size=size)
        assert server.answer(request, host, 1, 0.0) is not None  # the burst
        assert server.answer(request, host, 1, 0.0) is None
        assert server.answer(stun.encode_request(ID, size=size + 4), host, 1, 0.0) is not None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", StunDrop.MALFORMED),
        (b"GET / HTTP/1.1\r\n\r\n" * 3, StunDrop.MALFORMED),
        (PADDED[:-1], StunDrop.MALFORMED),
        (stun.encode_response(ID, ip_address("192.0.2.1"), 9), StunDrop.UNSUPPORTED),
        (b"\x01\x11" + PADDED[2:], StunDrop.UNSUPPORTED),  # an error answer
        (b"\x00\x11" + PADDED[2:], StunDrop.UNSUPPORTED),  # an indication
        (b"\x00\x03" + PADDED[2:], StunDrop.UNSUPPORTED),  # TURN's allocate
        (PADDED[:20] + b"\x00\x03" + PADDED[22:], StunDrop.UNSUPPORTED),  # CHANGE-REQUEST
    ],
)
def test_what_gets_no_answer_is_counted(data: bytes, why: StunDrop) -> None:
    server = StunServer()
    assert server.answer(data, "192.0.2.7", 1, 0.0) is None
    assert (server.answers, server.drops) == (0, {why: 1})


def test_its_own_answers_are_never_answered() -> None:
    """Or two servers could be made to talk to each other for ever."""
    server = StunServer()
    answer = server.answer(PADDED, "192.0.2.7", 30_006, 0.0)
    assert answer is not None
    assert server.answer(answer, "192.0.2.7", 30_006, 0.0) is None


@given(st.binary(max_size=100), st.sampled_from(["192.0.2.7", "2001:db8::7"]))
def test_any_datagram_is_answered_or_counted_and_never_grows(data: bytes, host: str) -> None:
    server = StunServer(burst=0, rate_per_s=0.0)
    answer = server.answer(data, host, 1, 0.0)
    assert server.answers + server.drops.total() == 1
    assert answer is None or len(answer) <= len(data)


def test_an_answer_that_was_not_sent_counts_as_dropped() -> None:
    server = StunServer()
    server.answer(PADDED, "192.0.2.7", 1, 0.0)
    server.unsent()
    assert (server.answers, server.drops) == (0, {StunDrop.UNSENT: 1})


def test_prefixes() -> None:
    assert prefix_of("198.51.100.255") == "198.51.100.0/24"
    assert prefix_of("2001:db8:1:2ff:1::") == "2001:db8:1:200::/56"
