from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from lab.bench.__main__ import parse, run_relays
from lab.bench.compare import Results
from lab.bench.relays import NAMES, RELAYED, table
from lab.bench.report import as_json


def results(rate: float = 5.0) -> Results:
    found = Results()
    found.add("nconnect", "tcp_up", rate)
    found.add("nconnect", "ping_p50", 0.25)
    found.skipped.append("iroh-relay: Rust is not installed")
    found.failures.append("round 1 of 3, 2 of 8, tailcat-derp: no answer\nand many words more")
    return found


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_each_has_a_row_with_its_version_and_what_was_measured() -> None:
    text = table(results())
    assert "| TCP up, Gbit/s | TCP down, Gbit/s | ping p50, ms | CPU, up, s/GB | CPU, down, s/GB |" in text
    assert row(text, "nconnect").endswith("| 5.00 |  | 0.250 |  |  |")
    for contender, version in RELAYED:
        assert f"| {contender.about} | {version} |" in row(text, contender.name)


def test_who_is_missing_has_a_row_that_says_why() -> None:
    text = table(results())
    assert "not measured: Rust is not installed |" in row(text, "iroh-relay")
    assert "no answer |" in row(text, "tailcat-derp")
    assert "many words" not in text
    assert "not measured: not run" in row(text, "tailscale-derp")


def test_all_rows_are_of_the_same_length_and_each_is_measured_in_all_cases() -> None:
    assert len({line.count("|") for line in table(results()).splitlines()}) == 1
    assert all(contender.measures(case) for contender, _ in RELAYED for case in NAMES)


def test_rounds_of_several_runs_are_put_together(tmp_path: Path) -> None:
    files = []
    for number, rate in enumerate((1.0, 7.0, 2.0)):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(as_json(results(rate), "nconnect", {"rounds": 1})))
        files += ["--from", str(file)]
    written = tmp_path / "table.md"
    options = parse(["relays", *files, "--markdown", str(written)])
    assert run_relays(options, Console(file=io.StringIO(), width=200)) == 1  # with the failures in the files
    assert "| 2.00 |" in row(written.read_text(), "nconnect")
