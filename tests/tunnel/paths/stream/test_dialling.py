"""When to connect to a peer, and where; and that both sides keep the same stream."""

from __future__ import annotations

from ipaddress import ip_address
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.budget import ProbeBudget
from nconnect.tunnel.paths.stream.dialling import CROSSING_S, RETRY_S, SOON_S, STEADY_S, PeerDialler
from nconnect.wire.direct import Candidate, CandidateKind


def candidate(kind: CandidateKind = CandidateKind.HOST, port: int = 41000, host: int = 1) -> Candidate:
    return Candidate(kind, Endpoint(ip_address(f"192.0.2.{host}"), port))


def dialler(*candidates: Candidate, is_first: bool = True) -> PeerDialler:
    made = PeerDialler(ProbeBudget(), is_first=is_first)
    made.told(candidates or (candidate(),), 0.0)
    return made


def test_nobody_is_called_before_a_candidate_came() -> None:
    made = PeerDialler(ProbeBudget(), is_first=True)
    assert (made.next_at(), made.due(0.0)) == (inf, ())
    made.told([candidate()], 1.0)
    assert made.next_at() == 1.0
    assert made.due(1.0) == (candidate().endpoint,)


def test_what_tcp_cannot_or_must_not_reach_is_left_out() -> None:
    kinds = [candidate(kind, host=kind) for kind in CandidateKind]
    made = dialler(*kinds, candidate(port=1023, host=99))
    assert [str(each.address)[-1] for each in made.due(0.0)] == ["1", "2", "4"]


def test_failures_are_waited_for_longer_and_longer() -> None:
    made, now, waits = dialler(), 0.0, []
    for _ in range(len(RETRY_S) + 2):
        assert made.due(now)
        assert (made.due(now), made.next_at()) == ((), inf), "one attempt at a time"
        made.attempt_over(now)
        waits.append(made.next_at() - now)
        assert made.due(made.next_at() - 0.01) == ()
        now = made.next_at()
    assert waits == [*RETRY_S, 300.0, 300.0]


@pytest.mark.parametrize("how", ["network", "candidates"])
def test_who_is_somewhere_else_is_called_at_once(how: str) -> None:
    made = dialler()
    made.due(0.0)
    made.attempt_over(0.0)
    made.told([candidate()], 1.0)
    assert made.due(1.0) == (), "the same candidates are no reason"
    if how == "network":
        made.moved(1.0)
    else:
        made.told([candidate(host=2)], 1.0)
    assert made.due(1.0)


def test_no_second_stream_is_dialled() -> None:
    made = dialler()
    made.due(0.0)
    assert made.opened(is_ours=True, now=0.1)
    made.attempt_over(0.1)
    assert (made.next_at(), made.due(1e6)) == (inf, ())


def test_a_good_stream_is_dialled_again_soon_and_a_bad_one_is_not() -> None:
    made = dialler()
    made.opened(is_ours=True, now=0.0)
    made.closed(STEADY_S)
    assert made.next_at() == STEADY_S + SOON_S
    made.opened(is_ours=True, now=20.0)
    made.closed(21.0)
    assert made.next_at() == 21.0 + RETRY_S[0]


def test_an_address_that_never_answers_is_dialled_for_so_many_bytes_an_hour() -> None:
    """As with probes: 20,000 bytes, over all peers, IP headers included."""
    budget = ProbeBudget()
    calls = 0
    for n in range(40):
        made = PeerDialler(budget, is_first=True)
        for again in range(4):
            made.told([candidate(port=41000 + n)], float(n))
            made.moved(n + again / 4)
            if made.due(n + again / 4):
                calls += 1
                made.attempt_over(n + again / 4)
    assert 40 < calls < 100


def test_crossing_streams_leave_the_one_of_the_smaller_key() -> None:
    for is_first in (True, False):
        for ours_first in (True, False):
            made = dialler(is_first=is_first)
            assert made.opened(is_ours=ours_first, now=0.0)
            stays = made.opened(is_ours=not ours_first, now=CROSSING_S / 2)
            assert (ours_first is not stays) is is_first, "ours stays where our key is the smaller"


def test_later_a_new_stream_takes_the_place_of_the_old_one() -> None:
    made = dialler(is_first=True)
    assert made.opened(is_ours=True, now=0.0)
    assert made.opened(is_ours=False, now=CROSSING_S)
    assert made.opened(is_ours=False, now=CROSSING_S + 0.1), "the same side has dialled again"


@given(st.permutations("abcd"), st.floats(0, CROSSING_S / 2, exclude_max=True))
def test_both_sides_keep_the_same_stream(order: list[str], apart: float) -> None:
    """Whatever the order in which each side sees both streams open."""
    first, second = dialler(is_first=True), dialler(is_first=False)
    kept: dict[PeerDialler, str] = {}
    for at, event in enumerate(order):
        side, whose = {
            "a": (first, "first"), "b": (first, "second"), "c": (second, "first"), "d": (second, "second"),
        }[event]  # fmt: skip
        ours = (whose == "first") is (side is first)
        if side.opened(is_ours=ours, now=apart * at / 3):
            kept[side] = whose
    assert kept == {first: "first", second: "first"}
