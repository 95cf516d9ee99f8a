"""The table of recovery times, and its place in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import CHECKOUT

PAGE = Path(CHECKOUT, "docs", "reliability.md")
BEGIN, END = "<!-- scripts/recovery writes this table -->", "<!-- end of the table -->"
NEVER, NOT_GIVEN = "not within {:g} s", ""

# Seconds by flow (UDP, TCP); None: it did not come back.
Times = tuple[float | None, float | None]


def table(
    faults: Sequence[str], tunnels: Sequence[str], times: Mapping[tuple[str, str], Times], *, limit_s: float
) -> str:
    """A row for each fault, for each tunnel the times of UDP and of TCP."""

    def cell(fault: str, tunnel: str) -> str:
        found = times.get((fault, tunnel))
        if found is None:
            return NOT_GIVEN
        if found == (None, None):
            return NEVER.format(limit_s)
        return ", ".join("never" if s is None else _short(s) for s in found)

    lines = [f"| fault | {' | '.join(tunnels)} |", "|---" * (len(tunnels) + 1) + "|"]
    lines += [f"| {fault} | {' | '.join(cell(fault, t) for t in tunnels)} |" for fault in faults]
    return "\n".join(lines)


def place(text: str, made: str) -> str:
    """The page's text with the table in its place."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
