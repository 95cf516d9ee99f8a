from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nconnect.cli.history import History, bars
from nconnect.cli.watch import fitting
from tests.control.fake import STATUS


def test_bars() -> None:
    assert bars([1.0, 4.0, None, 8.0, 0.0], 5) == "▁▄ █▁"
    assert bars([1.0], 3) == "  █"
    assert bars([None, None], 3) == "   "
    assert bars([0.0, 0.0], 2) == "▁▁"


@given(st.lists(st.none() | st.floats(0, 1e12)), st.integers(1, 60))
def test_bars_have_their_length(samples: list[float | None], length: int) -> None:
    assert len(bars(samples, length)) == length


def test_what_flows_is_drawn_and_what_is_idle_is_not() -> None:
    history = History(4)
    history.add(STATUS, {"laptop": (0.0, 0.0)})
    history.add(STATUS, {"laptop": (2048.0, 0.0)})
    lines = history.lines()
    assert lines == [
        "link 0  round trip    ██  0.53 ms (most 0.53 ms)",
        "laptop  received      ▁█  2.0 KiB/s (most 2.0 KiB/s)",
        "laptop  round trip    ██  12 ms (most 12 ms)",
    ]


def test_a_restart_is_a_gap_and_a_peer_that_is_gone_is_forgotten() -> None:
    history = History(4)
    history.add(STATUS, {})
    history.interrupted()
    history.add(replace(STATUS, peers=()), {})
    assert history.lines() == ["link 0  round trip   █ █  0.53 ms (most 0.53 ms)"]
    assert History().lines() == []


def test_many_peers_do_not_fill_the_screen() -> None:
    peers = tuple(replace(STATUS.peers[0], name=f"p{n}") for n in range(50))
    history = History()
    history.add(replace(STATUS, peers=peers), {})
    assert len(history.lines(most=10)) == 11
    assert history.lines(most=10)[-1] == "and 41 more"


def test_what_does_not_fit_is_left_out() -> None:
    assert fitting("abcdef\nx", 3, 24) == "abc\nx\nq ends this"
    text = "\n".join(map(str, range(50)))
    assert len(fitting(text, 80, 10).split("\n")) == 10
    assert fitting("\x1b[1mabc\x1b[0mdef", 4, 9).split("\n")[0] == "\x1b[1mabc\x1b[0md"
