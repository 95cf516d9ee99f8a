"""Which pairs of NATs got a direct path: noted by the tests, printed as a table when they have run."""

from __future__ import annotations

from typing import NamedTuple


class Cell(NamedTuple):
    """What became of one pair."""

    kind: str  # udp or tcp; "": there is no direct path
    address: str  # of which kind the address is that won; or why there is none
    seconds: float = 0.0


table: dict[tuple[str, str], Cell] = {}


def up(one: str, other: str, kind: str, address: str, seconds: float) -> None:
    table[one, other] = Cell(kind, address, seconds)


def failed(one: str, other: str, why: str) -> None:
    table[one, other] = Cell("", why)


def markdown() -> str:
    """A row for each network, a column for each other; the reasons are numbered below."""
    names = list(dict.fromkeys(name for pair in table for name in pair))
    reasons = list(dict.fromkeys(cell.address for cell in table.values() if not cell.kind))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for at, row in enumerate(names):
        found = [table.get((row, column)) or table.get((column, row)) for column in names[at:]]
        lines.append(f"| {row} | " + "| " * at + " | ".join(_cell(cell, reasons) for cell in found) + " |")
    lines += ["", *(f"{n}. {why}" for n, why in enumerate(reasons, 1))]
    return "\n".join(lines)


def _cell(cell: Cell | None, reasons: list[str]) -> str:
    if cell is None:
        return ""
    if not cell.kind:
        return f"node ({reasons.index(cell.address) + 1})"
    return f"{cell.address}, {cell.kind.upper()}, {cell.seconds:.2f} s"
