from __future__ import annotations

import io

import pytest
from rich.console import Console

from lab.bench.__main__ import chosen, parse, run_compare
from lab.bench.cases import CASES
from lab.bench.contenders import BASELINE, CONTENDERS
from lab.bench.metrics import METRICS


def test_without_a_subcommand_it_compares() -> None:
    options = parse(["--quick", "--only", "veth,ping", "--only", "nconnect"])
    assert options.quick
    assert options.only == ["veth,ping", "nconnect"]


def test_names_choose_contenders_and_cases() -> None:
    assert [found.name for found in chosen(CONTENDERS, {"veth", "ping"})] == ["veth"]
    assert [found.name for found in chosen(CASES, {"veth", "ping"})] == ["ping"]
    assert chosen(CASES, {"veth"}) == list(CASES)


def test_an_unknown_name_is_refused_before_anything_is_built() -> None:
    out = io.StringIO()
    assert run_compare(parse(["--only", "veth,teleport"]), Console(file=out, width=200)) == 2
    assert "teleport" in out.getvalue()


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--fast"])
    assert ended.value.code == 2
    assert "--fast" in capsys.readouterr().err


def test_names_are_unique_and_the_baseline_is_among_them() -> None:
    names = [found.name for found in CONTENDERS] + [found.name for found in CASES]
    assert len(names) == len(set(names))
    assert BASELINE in names
    assert len({metric.name for metric in METRICS}) == len(METRICS)
