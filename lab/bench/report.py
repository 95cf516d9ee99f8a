"""The results as a table with ratios, for the terminal, for Markdown, and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from lab.bench.compare import Results
from lab.bench.metrics import METRICS, Metric

COLUMNS = 4  # of contenders in a terminal's table


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _measured(results: Results) -> list[Metric]:
    return [metric for metric in METRICS if any(metric.name in found for found in results.values.values())]


def _rows(results: Results, baseline: str) -> list[list[str]]:
    rows = []
    for metric in _measured(results):
        row = [f"{metric.title}, {metric.unit}"]
        for contender in results.values:
            value = results.median(contender, metric.name)
            if value is None:
                row.append("")
                continue
            cell = number(value, metric.digits)
            ratio = results.ratio(contender, baseline, metric.name)
            if ratio is not None and contender != baseline:
                cell += f" ({ratio:.2f}×)"
            row.append(cell)
        rows.append(row)
    return rows


def tables(results: Results, baseline: str) -> Iterator[Table]:
    """Medians; in brackets the ratio to `baseline`. As many contenders in a table as a terminal has room for."""
    names = list(results.values)
    rows = _rows(results, baseline)
    for first in range(0, len(names), COLUMNS):
        some = range(first, min(first + COLUMNS, len(names)))
        made = Table(title=f"medians; in brackets: times {baseline}'s", title_justify="left")
        made.add_column("")
        for n in some:
            made.add_column(names[n], justify="right")
        for row in rows:
            cells = [row[1 + n] for n in some]
            if any(cells):
                made.add_row(row[0], *cells)
        yield made


def markdown(results: Results, baseline: str) -> str:
    names = list(results.values)
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(results, baseline)]
    return "\n".join(lines) + "\n"


def as_json(results: Results, baseline: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All values, medians and ratios, and what they were measured on."""
    return {
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "processor": processor(),
        },
        "settings": settings,
        "units": {metric.name: metric.unit for metric in _measured(results)},
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
        "failures": results.failures,
        "skipped": results.skipped,
        "seconds": results.seconds,
    }


def processor() -> str:
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
