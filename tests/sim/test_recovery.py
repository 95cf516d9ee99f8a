"""A thousand seeds of everything that goes wrong, in virtual time; see `tests.sim.play`."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from nconnect.tunnel.replay import ReplayWindow
from tests.sim.faults import Fault
from tests.sim.play import ROUNDS, Broken, Outcome, Play, play

SEEDS = 1000
CHUNK = 20
BUDGET_S = 90.0  # on two processors it takes 40


def play_some(first: int) -> tuple[list[Outcome], list[str], float]:
    """Seeds `first` and on; what went wrong, a line each; seconds of a processor that it took."""
    outcomes, broken = [], []
    started = time.process_time()
    for seed in range(first, first + CHUNK):
        try:
            outcomes.append(play(seed))
        except Broken as error:
            broken.append(str(error))
    return outcomes, broken, time.process_time() - started


@pytest.mark.timeout(600)
def test_a_thousand_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: list[Outcome] = []
    broken: list[str] = []
    processors = len(os.sched_getaffinity(0))
    cpu_s = 0.0
    # Not fork: the test run's other tests may have left threads.
    context = multiprocessing.get_context("forkserver")
    # They use all processors: tests that run beside them, with times of seconds to keep, go first.
    with ProcessPoolExecutor(processors, mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        for played, failed, spent_s in pool.map(play_some, range(0, SEEDS, CHUNK)):
            outcomes += played
            broken += failed
            cpu_s += spent_s
    fired: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    for outcome in outcomes:
        fired += outcome.fired
        for names, taken_s in outcome.recovered_s:
            slowest[names] = max(slowest.get(names, 0.0), taken_s)
    with capsys.disabled():
        print(
            f"\n{len(outcomes)} seeds, {cpu_s / processors:.0f} s of each processor; faults: {_listed(fired)}"
        )
        alone = {names: f"{taken_s:.1f} s" for names, taken_s in slowest.items() if " and " not in names}
        print(f"slowest return of both directions after: {_listed(alone)}")
    assert not broken, "\n".join(broken)
    assert len(outcomes) == SEEDS
    assert cpu_s / processors <= BUDGET_S  # of processor time: other programs' is none of ours
    for outcome in outcomes:
        assert outcome.virtual_s >= 600
        assert outcome.packets >= 300
        assert outcome.rekeys >= 1
        assert sum(outcome.fired[fault.value] for fault in Fault) >= ROUNDS
    for fault in Fault:
        assert fired[fault.value] >= SEEDS / 10, fault
    for kind in ("loss", "duplicate", "reorder", "corrupt", "replay"):
        assert fired[f"messages: {kind}"] >= SEEDS, kind


def _listed(counted: dict[str, int] | dict[str, str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))


def test_a_seed_always_plays_the_same() -> None:
    assert play(7) == play(7)


def test_without_the_replay_check_the_seeds_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the check of "delivered once" would see it."""
    monkeypatch.setattr(ReplayWindow, "is_fresh", lambda self, counter: True)
    broken = []
    for seed in range(12):
        try:
            play(seed)
        except Broken as error:
            broken.append(str(error))
    assert broken
    assert all("was delivered twice" in text for text in broken)
    assert "(replay: python -m tests.sim.play " in broken[0]


def test_a_failing_seed_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.play.BUSY_BOUND_S", -1.0)
    monkeypatch.setattr("tests.sim.play.IDLE_BOUND_S", -1.0)
    with pytest.raises(Broken, match=r"seed 5, at .*\(replay: python -m tests\.sim\.play 5\)"):
        play(5)


@pytest.mark.parametrize("seed", range(3))
def test_a_removed_peer_leaves_no_timer(seed: int) -> None:
    current = Play(seed)
    current.clock.run_until(1010.0)
    for machine in (current.user, current.provider):
        assert machine.handshakes
        machine.tunnel.set_peers([], current.clock.now)
        assert machine.tunnel.poll_timeout() is None


def test_a_flow_that_is_silent_for_ten_minutes_goes_on_at_once() -> None:
    current = Play(1)
    current.clock.run_until(1002.0)
    current.send(current.user, 0)
    current.clock.run_until(1602.0)
    answer = current.send(current.provider, 0)
    current.clock.run_until(1602.1)
    assert ("provider", answer) in current.delivered
