"""The results of all attacks, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_PAUSE_S = 1.0
MAX_GROWTH_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack. `achieved`, `seen`: see `lab.attack.attack.Result`; `pause_s`: the chat's longest pause."""

    part: str
    by: str
    name: str
    what: str
    fault: str
    achieved: str
    seen: str
    pause_s: float
    seconds: float

    @property
    def problems(self) -> list[str]:
        found = []
        if self.achieved:
            found.append(f"{self.by} {self.name}: {self.achieved}")
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
            lines.append(f"{len(self.outcomes)} attacks, none worked or was noticed by the chat")
        return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each: who, what, what the product did, the chat's longest pause."""
    return "\n".join(
        f"{outcome.by:9}{outcome.name:22}{outcome.what:52}{outcome.seen or '-':28}"
        f"{outcome.pause_s * 1e3:6.0f} ms  {'FAILED' if outcome.problems else 'ok'}"
        for outcome in outcomes
    )
