"""What became of each attack, and whether all is as it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_PAUSE_S = 1.0
MAX_GROWTH_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """`counted`: how often under `reason`, which is empty where there is nothing to count."""

    by: str
    name: str
    what: str
    reason: str
    counted: int
    pause_s: float

    @property
    def problems(self) -> list[str]:
        found = []
        if self.reason and not self.counted:
            found.append(f"{self.by} {self.name}: was not counted as {self.reason}")
        if self.pause_s > MAX_PAUSE_S:
            found.append(f"{self.by} {self.name}: the chat paused for {self.pause_s:.2f} s")
        return found


@dataclass
class Report:
    outcomes: list[Outcome] = field(default_factory=list)
    grown_bytes: dict[str, int] = field(default_factory=dict)

    def problems(self) -> list[str]:
        found = [problem for outcome in self.outcomes for problem in outcome.problems]
        for side, grown in self.grown_bytes.items():
            if grown > MAX_GROWTH_BYTES:
                found.append(f"the daemon of the {side} grew by {grown / 1e6:.0f} MB")
        return found

    @property
    def ok(self) -> bool:
        return bool(self.outcomes) and not self.problems()

    def verdict(self) -> str:
        grown = ", ".join(f"{side} {size / 1e6:+.1f} MB" for side, size in self.grown_bytes.items())
        lines = [f"the daemons grew: {grown}", *(f"FAILED: {problem}" for problem in self.problems())]
        if self.ok:
            lines.append(f"{len(self.outcomes)} attacks, none noticed by the chat")
        return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each: who, what, what was counted, the chat's longest pause."""
    lines = []
    for outcome in outcomes:
        counted = f"{outcome.reason} +{outcome.counted}" if outcome.reason else "-"
        word = "NOTICED" if outcome.problems else "ok"
        lines.append(
            f"{outcome.by:9}{outcome.name:18}{outcome.what:46}{counted:28}"
            f"{outcome.pause_s * 1e3:6.0f} ms  {word}"
        )
    return "\n".join(lines)
