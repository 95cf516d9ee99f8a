from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lab.bench.__main__ import chosen, names_of, parse, run_compare, run_docs
from lab.bench.cases import CASES
from lab.bench.contenders import BASELINE, CONTENDERS
from lab.bench.metrics import METRICS
from lab.netns import LabError


def test_without_a_subcommand_it_compares() -> None:
    options = parse(["--quick", "--only", "veth,ping", "--only", "nconnect"])
    assert options.quick
    assert options.only == ["veth,ping", "nconnect"]


def test_names_choose_contenders_and_cases() -> None:
    assert [found.name for found in chosen(CONTENDERS, {"veth", "ping"})] == ["veth"]
    assert [found.name for found in chosen(CASES, {"veth", "ping"})] == ["ping"]
    assert chosen(CASES, {"veth"}) == list(CASES)


def test_a_case_is_named_with_or_without_its_congestion_control() -> None:
    assert names_of(parse(["--only", "links"])) == {"links-cubic", "links-bbr"}
    assert names_of(parse(["--only", "links-bbr,nconnect"])) == {"links-bbr", "nconnect"}


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


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rounds", "0"],
        ["scale", "--only", "veth"],
        ["profile", "--seconds", "x"],
        ["profile", "--of", "veth"],
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2


def test_a_page_cannot_be_made_of_something_else(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    options = parse(["docs", "--from", str(broken), "--folder", str(tmp_path)])
    with pytest.raises(LabError, match=r"broken\.json is not what --json writes"):
        run_docs(options, Console(file=io.StringIO()))
    assert not (tmp_path / "benchmarks.md").exists()


def test_each_contender_is_measured_by_some_case_and_says_what_it_is() -> None:
    for contender in CONTENDERS:
        assert contender.about
        assert any(contender.measures(case.name) for case in CASES)
    by_name = {contender.name: contender for contender in CONTENDERS}
    for case in CASES:
        cable = case.name == "tcp-segments"
        name = "links-4" if case.name.startswith("links") else "wireguard-go-new" if cable else "nconnect"
        assert by_name[name].measures(case.name)
    assert not any(by_name["nconnect"].measures(name) for name in ("links-bbr", "tcp-segments"))
    assert not by_name["sshuttle"].measures("udp-64")
    assert not by_name["nebula"].measures("tcp6-up")
