"""Rounds of contenders and cases, and the medians of their values."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from lab.bench.bed import Bed, bed
from lab.bench.cases import Case, Settings
from lab.bench.contenders import Contender
from lab.bench.metrics import CONGESTION_CONTROLS
from lab.bench.shaped import congestion_control
from lab.netns import LabError

Tell = Callable[[str], None]


@dataclass
class Results:
    """Values by contender, metric and round, and what could not be measured and why."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, contender: str, metric: str, value: float) -> None:
        self.values.setdefault(contender, {}).setdefault(metric, []).append(value)

    def median(self, contender: str, metric: str) -> float | None:
        values = self.values.get(contender, {}).get(metric)
        return statistics.median(values) if values else None

    def first(self, contender: str, metric: str) -> float | None:
        """The value of the first round."""
        values = self.values.get(contender, {}).get(metric)
        return values[0] if values else None

    def include(self, other: Results) -> None:
        """Add the results of another run."""
        for contender, found in other.values.items():
            for metric, values in found.items():
                self.values.setdefault(contender, {}).setdefault(metric, []).extend(values)
        self.failures += other.failures
        self.skipped += other.skipped
        self.seconds += other.seconds

    def ratio(self, contender: str, baseline: str, metric: str) -> float | None:
        """This contender's median over the baseline's."""
        ours, theirs = self.median(contender, metric), self.median(baseline, metric)
        return ours / theirs if ours is not None and theirs else None


def compare(
    contenders: Sequence[Contender], cases: Sequence[Case], settings: Settings, rounds: int, tell: Tell
) -> Results:
    """Measure. A case that fails is printed, recorded and left out."""
    results = Results()
    started = time.monotonic()
    usable = []
    for contender in contenders:
        why = contender.missing()
        results.skipped += [f"{contender.name}: {why}"] if why else []
        usable += [] if why else [contender]
    present = []
    for case in cases:
        why = case.missing()
        results.skipped += [f"{case.name}: {why}"] if why else []
        present += [] if why else [case]
    runs = [run for run in _runs(usable, present) if run.cases]
    with bed() as machines:
        machines.serve_iperf()
        machines.serve_echo()
        if any(case.congestion for case in present):
            machines.serve_tokens()
        if any(case.name == "quic-down" for case in present):
            machines.serve_quic()
        if any(case.name == "chat" for case in present):
            machines.serve_model()
        for number in range(1, rounds + 1):
            for place, run in enumerate(runs, 1):
                label = f"round {number} of {rounds}, {place} of {len(runs)}, {run.contender.name}"
                try:
                    _measure(run, machines, settings, label, results, tell, first=number == 1)
                except LabError as error:
                    results.failures.append(f"{label}: {error}")
                    tell(results.failures[-1])
    results.seconds = round(time.monotonic() - started, 1)
    return results


@dataclass(frozen=True, slots=True)
class _Run:
    """What one start of a contender is for."""

    contender: Contender
    cases: list[Case]
    congestion: str | None


def _runs(contenders: Sequence[Contender], cases: Sequence[Case]) -> Iterator[_Run]:
    """Each contender once for all ordinary cases; then once for each congestion control."""
    for congestion in (None, *CONGESTION_CONTROLS):
        for contender in contenders:
            meant = [
                case for case in cases if case.congestion == congestion and contender.measures(case.name)
            ]
            yield _Run(contender, meant, congestion)


def _measure(
    run: _Run, machines: Bed, settings: Settings, label: str, results: Results, tell: Tell, *, first: bool
) -> None:
    with ExitStack() as undo:
        if run.congestion is not None:
            undo.enter_context(congestion_control(machines, run.congestion))
        running = undo.enter_context(run.contender.running(machines))
        for case in run.cases:
            if case.once and not first:
                continue
            tell(f"{label}: {case.name}")
            try:
                for metric, value in case.measure(running, settings).items():
                    results.add(run.contender.name, metric, value)
            except LabError as error:
                results.failures.append(f"{label}, {case.name}: {error}")
                tell(results.failures[-1])
