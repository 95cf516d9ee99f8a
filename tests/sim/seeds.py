"""Many seeds, played on all processors: `python -m tests.sim.seeds FIRST COUNT [PROCESSES]`.

Prints what was played, which faults fired, how fast both directions were back, and each seed that failed with
the command that plays it again. The status is 1 if one failed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.sim.play import Broken, Outcome, play

CHUNK = 20
YEAR_S = 365.25 * 86_400
TELL_EVERY = 1000


@dataclass
class Played:
    """What became of the seeds."""

    outcomes: list[Outcome] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # a line each
    cpu_s: float = 0.0

    def report(self) -> str:
        fired: Counter[str] = Counter()
        slowest: dict[str, float] = {}
        for outcome in self.outcomes:
            fired += outcome.fired
            for names, taken_s in outcome.recovered_s:
                if " and " not in names:  # of one fault alone
                    slowest[names] = max(slowest.get(names, 0.0), taken_s)
        years = sum(outcome.virtual_s for outcome in self.outcomes) / YEAR_S
        packets = sum(outcome.packets for outcome in self.outcomes)
        back = {names: f"{taken_s:.1f} s" for names, taken_s in slowest.items()}
        return "\n".join(
            (
                f"{len(self.outcomes)} seeds, {years:.3f} virtual years, {packets} packets,"
                f" {self.cpu_s:.0f} s of processor time; faults: {_listed(fired)}",
                f"slowest return of both directions after: {_listed(back)}",
                *self.broken,
            )
        )


def play_all(
    first: int, count: int, processes: int | None = None, *, tell: Callable[[Played], None] | None = None
) -> Played:
    """Play seeds `first` and on; `tell` is called after each thousand."""
    played = Played()
    processes = processes or len(os.sched_getaffinity(0))
    # Not fork: the test run's other tests may have left threads.
    context = multiprocessing.get_context("forkserver")
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    # They use all processors: tests that run beside them, with times of seconds to keep, go first.
    with ProcessPoolExecutor(processes, mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        for outcomes, broken, spent_s in pool.map(_play_some, chunks):
            before = len(played.outcomes) // TELL_EVERY
            played.outcomes += outcomes
            played.broken += broken
            played.cpu_s += spent_s
            if tell is not None and len(played.outcomes) // TELL_EVERY > before:
                tell(played)
    return played


def _play_some(seeds: range) -> tuple[list[Outcome], list[str], float]:
    """What became of them; what went wrong, a line each; seconds of a processor that it took."""
    outcomes, broken = [], []
    started = time.process_time()
    for seed in seeds:
        try:
            outcomes.append(play(seed))
        except Broken as error:
            broken.append(str(error))
    return outcomes, broken, time.process_time() - started


def _listed(counted: dict[str, int] | dict[str, str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))


def _tell(played: Played) -> None:
    print(
        f"{len(played.outcomes)} held, {len(played.broken)} failed; the last: {played.broken[-1:]}",
        flush=True,
    )


def main() -> None:
    first, count, *processes = map(int, sys.argv[1:])
    played = play_all(first, count, *processes, tell=_tell)
    print(played.report())
    sys.exit(1 if played.broken else 0)


if __name__ == "__main__":
    main()
