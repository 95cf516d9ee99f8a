"""How long each fault interrupted a flow: measured by the tests, printed as a table when they have run."""

from __future__ import annotations

from dataclasses import dataclass

from lab.flows import Flow


@dataclass(frozen=True, slots=True)
class Recovery:
    """One row: how long after the fault's end the flow was answered again."""

    fault: str
    flow: str
    seconds: float
    bound_s: float


table: list[Recovery] = []


def markdown() -> str:
    """The table, a row for each fault and flow: the slowest of all times measured."""
    worst: dict[tuple[str, str], Recovery] = {}
    for row in table:
        key = (row.fault, row.flow)
        if key not in worst or worst[key].seconds < row.seconds:
            worst[key] = row
    lines = ["| fault | flow | answered again after | bound |", "|---|---|---|---|"]
    lines += [
        f"| {row.fault} | {row.flow} | {row.seconds:.2f} s | {row.bound_s:g} s |" for row in worst.values()
    ]
    return "\n".join(lines)


def recovered(flow: Flow, fault: str, since: float, *, bound_s: float) -> float:
    """Measure the return after a fault that ended at `since`, and keep it for the table."""
    taken_s = flow.answered_after(since, within_s=max(30.0, 3 * bound_s))
    table.append(Recovery(fault, flow.name, taken_s, bound_s))
    assert taken_s <= bound_s, f"{fault}: {flow.name} was back after {taken_s:.2f} s, not {bound_s:g} s"
    return taken_s
