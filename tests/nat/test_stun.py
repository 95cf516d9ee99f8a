"""The STUN client in virtual time: what it sends, when, and what it concludes."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.model import Endpoint
from nconnect.nat.stun import MAX_SERVERS, REQUEST_BYTES, RETRANSMIT_AFTER_S, StunProbe, StunRequest, Verdict
from nconnect.node.stun import StunServer
from nconnect.wire import stun
from nconnect.wire.direct import NatVerdict


def at(host: str, port: int) -> Endpoint:
    return Endpoint(ip_address(host), port)


A, B, C = at("192.0.2.1", 30006), at("192.0.2.1", 30007), at("198.51.100.9", 3478)
MAPPED, OTHER = at("203.0.113.7", 41000), at("203.0.113.7", 41001)
NOTHING = stun.BINDING_ERROR.to_bytes(2, "big")


def probe_of(*servers: Endpoint, now: float = 100.0) -> StunProbe:
    return StunProbe(servers, now=now, rng=Random(7).randbytes)


def sent(probe: StunProbe) -> list[StunRequest]:
    found = []
    while (send := probe.poll_output()) is not None:
        found.append(send)
    return found


def answer(send: StunRequest, mapped: Endpoint) -> bytes:
    return stun.encode_response(stun.decode(send.data).transaction, *mapped)


def concluded(probe: StunProbe, answers: dict[Endpoint, Endpoint]) -> Verdict:
    """The verdict when these servers answer at once and the others never do."""
    now = 100.0
    while probe.verdict is None:
        for send in sent(probe):
            if send.to in answers and probe.verdict is None:
                assert probe.receive(answer(send, answers[send.to]), send.to, now)
        if (deadline := probe.poll_timeout()) is not None:
            now = deadline.at
            probe.handle_timeout(now)
    assert probe.poll_timeout() is None
    assert sent(probe) == []
    return probe.verdict


@pytest.mark.parametrize(
    ("servers", "answers", "nat", "mapped", "after_s"),
    [
        ((A, B), {A: MAPPED, B: MAPPED}, NatVerdict.EASY, MAPPED, 0.0),
        ((A, B), {A: MAPPED, B: OTHER}, NatVerdict.HARD, MAPPED, 0.0),
        ((A, B), {A: MAPPED, B: at("203.0.113.8", 41000)}, NatVerdict.HARD, MAPPED, 0.0),  # another address
        ((A, B), {A: MAPPED}, NatVerdict.UNKNOWN, MAPPED, 0.7),
        ((A, B), {}, NatVerdict.BLOCKED, None, 0.7),
        ((A, B, C), {A: MAPPED, C: OTHER}, NatVerdict.HARD, MAPPED, 0.0),  # two that differ are enough
        ((A, B, C), {A: MAPPED, B: MAPPED}, NatVerdict.EASY, MAPPED, 0.7),  # the third might differ
        ((A,), {A: MAPPED}, NatVerdict.UNKNOWN, MAPPED, 0.0),
        ((A, A, A), {A: MAPPED}, NatVerdict.UNKNOWN, MAPPED, 0.0),  # one server three times is one
        ((), {}, NatVerdict.UNKNOWN, None, 0.0),
    ],
)
def test_verdicts(
    servers: tuple[Endpoint, ...],
    answers: dict[Endpoint, Endpoint],
    nat: NatVerdict,
    mapped: Endpoint | None,
    after_s: float,
) -> None:
    verdict = concluded(probe_of(*servers), answers)
    assert (verdict.nat, verdict.mapped) == (nat, mapped)
    assert verdict.at == pytest.approx(100.0 + after_s)


def test_who_is_silent_is_asked_three_times() -> None:
    probe = probe_of(A, B)
    first = sent(probe)
    assert [send.to for send in first] == [A, B]
    assert {len(send.data) for send in first} == {REQUEST_BYTES}
    probe.receive(answer(first[0], MAPPED), A, 100.02)
    times = []
    while (deadline := probe.poll_timeout()) is not None:
        probe.handle_timeout(deadline.at - 0.001)  # early: nothing
        assert sent(probe) == []
        times.append(round(deadline.at - 100.0, 3))
        probe.handle_timeout(deadline.at)
        again = sent(probe)
        assert [send.to for send in again] == ([B] if probe.verdict is None else [])
        assert {send.data for send in again} <= {first[1].data}  # the same transaction
    assert times == [0.1, 0.3, 0.7]
    assert sum(RETRANSMIT_AFTER_S) == pytest.approx(0.7)


def test_a_late_answer_to_an_early_question_counts() -> None:
    probe = probe_of(A, B)
    first = sent(probe)
    probe.handle_timeout(100.1)
    probe.handle_timeout(100.3)
    for send in first:
        probe.receive(answer(send, MAPPED), send.to, 100.6)
    assert probe.verdict == Verdict(NatVerdict.EASY, MAPPED, 100.6)


def test_answers_of_others_do_not_count() -> None:
    probe = probe_of(A, B)
    first, _ = sent(probe)
    good = answer(first, MAPPED)
    assert not probe.receive(good, B, 100.0)  # from another server
    assert not probe.receive(good, at("192.0.2.1", 9), 100.0)
    assert not probe.receive(good[:8] + bytes(12) + good[20:], A, 100.0)  # another transaction
    assert not probe.receive(b"\x01\x02\x03\x04data of the socket", A, 100.0)
    assert probe.verdict is None
    assert probe.receive(good, A, 100.0)
    # The same server cannot outvote the other one, nor change its mind.
    assert probe.receive(answer(first, OTHER), A, 100.0)
    assert probe.verdict is None
    probe.handle_timeout(100.1)
    assert [send.to for send in sent(probe)] == [B]


@pytest.mark.parametrize("mapped", [at("0.0.0.0", 1), at("224.0.0.1", 1), at("203.0.113.7", 0), at("::", 1)])
def test_an_address_that_none_can_have_is_no_mapping(mapped: Endpoint) -> None:
    verdict = concluded(probe_of(A, B), {A: mapped, B: mapped})
    assert verdict == Verdict(NatVerdict.UNKNOWN, None, 100.0)  # UDP is not blocked: they answered


def test_an_error_is_an_answer_without_a_mapping() -> None:
    probe = probe_of(A, B)
    for send in sent(probe):
        assert probe.receive(NOTHING + bytes(2) + send.data[4:20], send.to, 100.0)
    assert probe.verdict == Verdict(NatVerdict.UNKNOWN, None, 100.0)


def test_answers_after_the_verdict_are_taken_and_change_nothing() -> None:
    probe = probe_of(A, B)
    first = sent(probe)
    for time in (100.1, 100.3, 100.7):
        probe.handle_timeout(time)
    assert probe.verdict == Verdict(NatVerdict.BLOCKED, None, 100.7)
    assert probe.receive(answer(first[0], MAPPED), A, 100.8)
    probe.handle_timeout(200.0)
    assert probe.verdict == Verdict(NatVerdict.BLOCKED, None, 100.7)


def test_no_more_servers_than_can_be_needed_are_asked() -> None:
    probe = probe_of(*(at("192.0.2.1", port) for port in range(1, 30)))
    assert len(sent(probe)) == MAX_SERVERS


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7"])
def test_our_node_answers_it_freely(host: str) -> None:
    """Its requests are not shorter than the answers: no rate holds for them."""
    server = StunServer(rate_per_s=0.0, burst=0)
    probe = probe_of(A, B)
    for send in sent(probe):
        answered = server.answer(send.data, host, 41000, 100.0)
        assert answered is not None
        assert probe.receive(answered, send.to, 100.0)
    assert probe.verdict == Verdict(NatVerdict.EASY, at(host, 41000), 100.0)


@given(st.lists(st.tuples(st.binary(max_size=60), st.sampled_from([A, B, C])), max_size=20))
def test_whatever_arrives_it_ends_in_time(datagrams: list[tuple[bytes, Endpoint]]) -> None:
    probe = probe_of(A, B)
    now = 100.0
    for data, source in datagrams:
        assert not probe.receive(data, source, now)
    for _ in RETRANSMIT_AFTER_S:
        deadline = probe.poll_timeout()
        assert deadline is not None
        now = deadline.at
        probe.handle_timeout(now)
    assert probe.verdict == Verdict(NatVerdict.BLOCKED, None, now)
