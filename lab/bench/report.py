"""The results as a table with ratios, for the terminal, for Markdown, and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from lab.bench.compare import Results
from lab.bench.metrics import METRICS, Metric
from lab.bench.reach import reach

COLUMNS = 4  # of contenders in a terminal's table


def number(value: float, digits: int) -> str:
    """Format with `digits` decimals, and with two more if the number is very small."""
    if 0 < value < 5 * 10**-digits:
        digits += 2
    return f"{value:,.{digits}f}"


def _rows(
    results: Results, baseline: str, names: Sequence[str], metrics: Sequence[Metric], *, ratios: bool = True
) -> list[list[str]]:
    """A row for each metric that one of `names` has: its title, then a cell for each name."""
    rows = []
    for metric in metrics:
        cells = []
        for name in names:
            value = results.median(name, metric.name)
            cell = number(value, metric.digits) if value is not None else ""
            ratio = results.ratio(name, baseline, metric.name)
            if ratio is not None and name != baseline and ratios and _comparable(name, baseline):
                cell += f" ({ratio:.2f}×)"
            cells.append(cell)
        if any(cells):
            rows.append([f"{metric.title}, {metric.unit}", *cells])
    return rows


def _comparable(name: str, baseline: str) -> bool:
    """Numbers of peers with one another, tunnels with one another."""
    return name[0].isdigit() == baseline[0].isdigit()


def tables(results: Results, baseline: str) -> Iterator[Table]:
    """Medians; in brackets the ratio to `baseline`. As many contenders in each as a terminal has room for."""
    names = list(results.values)
    for first in range(0, len(names), COLUMNS):
        some = names[first : first + COLUMNS]
        made = Table(title=f"medians; in brackets: times {baseline}'s", title_justify="left")
        made.add_column("")
        for name in some:
            made.add_column(name, justify="right")
        for row in _rows(results, baseline, some, METRICS):
            made.add_row(*row)
        yield made


def reach_table(results: Results) -> Table | None:
    """The rows of which something was measured, and what came of them."""
    rows = [row for row in reach(results) if row.measured]
    if not rows:
        return None
    made = Table(title="what is reached", title_justify="left")
    for column in ("", "must", "goal", "measured", "reached"):
        made.add_column(column)
    for row in rows:
        made.add_row(row.what, row.must, row.goal, row.measured, row.verdict.value)
    return made


def markdown(
    results: Results,
    baseline: str,
    names: Sequence[str] | None = None,
    metrics: Sequence[Metric] = METRICS,
    *,
    ratios: bool = True,
) -> str:
    """One table, of those of `names` that were measured; empty when there is nothing to show."""
    shown = [name for name in (results.values if names is None else names) if name in results.values]
    rows = _rows(results, baseline, shown, metrics, ratios=ratios)
    if not rows:
        return ""
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + "---:|" * len(shown)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """What a run was made on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": processor(),
    }


def as_json(results: Results, baseline: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All values, medians and ratios, and the machine."""
    return {
        "machine": machine(),
        "settings": settings,
        "units": {
            metric.name: metric.unit
            for metric in METRICS
            if any(metric.name in found for found in results.values.values())
        },
        "baseline": baseline,
        "results": {
            contender: {
                metric: {
                    "median": results.median(contender, metric),
                    "ratio": results.ratio(contender, baseline, metric),
                    "rounds": values,
                }
                for metric, values in found.items()
            }
            for contender, found in results.values.items()
        },
        "reach": [
            {"what": row.what, "measured": row.measured, "reached": row.verdict.value}
            for row in reach(results)
        ],
        "failures": results.failures,
        "skipped": results.skipped,
        "seconds": results.seconds,
    }


def from_json(value: dict[str, Any]) -> Results:
    """Read what `as_json` wrote."""
    return Results(
        {
            contender: {metric: list(entry["rounds"]) for metric, entry in found.items()}
            for contender, found in value["results"].items()
        },
        list(value["failures"]),
        list(value["skipped"]),
        float(value["seconds"]),
    )


def processor() -> str:
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
