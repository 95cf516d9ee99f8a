from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.bench.compare import Results
from lab.bench.page import page, with_kept
from lab.bench.report import as_json, from_json, machine


def results() -> Results:
    found = Results(seconds=61.0)
    for contender, rate in (("veth", 20.0), ("wireguard-go", 0.5), ("nconnect", 5.0), ("sshuttle", 0.2)):
        for metric, value in (("tcp_up", rate), ("tcp_down", rate), ("ping_p50", 1 / rate)):
            found.add(contender, metric, value)
    for peers, rate in (("1 peer", 5.0), ("1,000 peers", 4.9)):
        found.add(peers, "tcp_up", rate)
        found.add(peers, "rss", 60.0)
        found.add(peers, "back", 0.5)
    for load in ("idle", "up", "down"):
        found.add("nconnect", f"shaped_cubic_{load}_ping_p99", 3.0)
    found.skipped.append("nebula: not installed")
    found.failures.append("round 1: gone\nand many words more")
    return found


def test_the_page_has_every_table_and_what_is_missing() -> None:
    text = page(results(), machine(), {"rounds": 3}, ["bench-speed"])
    assert "sudo ./scripts/bench docs" in text
    assert "| | veth | wireguard-go | nconnect |" in text
    assert "| | nconnect | sshuttle |" in text
    assert "| | 1 peer | 1,000 peers |" in text
    assert "CUBIC, upload: ping p99" in text
    assert "pictures/bench-speed.svg" in text
    assert "pictures/bench-scale.svg" not in text  # it was not drawn
    assert "- nebula: not installed" in text
    assert "and many words more" not in text
    assert "3 rounds" in text


def test_a_page_of_nothing_says_that_nothing_is_reached() -> None:
    text = page(Results(), machine(), {}, [])
    assert "not measured" in text
    assert "| goal |\n" not in text.replace("| must | goal | measured | reached |", "")


def test_sections_that_were_written_by_hand_stay_where_they_were() -> None:
    first = page(results(), machine(), {}, [])
    by_hand = "## Over TLS\n\nMeasured once.\n"
    assert first.count("\n## Speed\n") == 1
    edited = first.replace("\n## Speed\n", f"\n{by_hand}\n## Speed\n")
    edited += "\n## The same elsewhere\n\n| a | b |\n"
    faster = results()
    faster.add("nconnect", "tcp_up", 50.0)
    fresh = page(faster, machine(), {}, [])
    kept = with_kept(fresh, edited)
    assert kept.count("Measured once.") == 1
    assert kept.index("## What is reached") < kept.index(by_hand) < kept.index("\n## Speed\n")
    assert kept.endswith("## The same elsewhere\n\n| a | b |\n")
    assert with_kept(fresh, fresh) == with_kept(with_kept(fresh, fresh), fresh)
    assert with_kept(fresh, kept) == kept
    without = (
        kept.replace(f"{by_hand}\n", "").replace("## The same elsewhere\n\n| a | b |\n", "").rstrip("\n")
    )
    assert [line for line in without.splitlines() if line] == [line for line in fresh.splitlines() if line]


def test_the_official_node_has_a_table_with_a_baseline_of_its_own() -> None:
    found = results()
    for contender, rate in (("nknd-nkn-tunnel", 0.1), ("nknd-nconnect", 1.0)):
        found.add(contender, "tcp_up", rate)
    text = page(found, machine(), {}, [])
    assert "| | nknd-nkn-tunnel | nknd-nconnect |" in text
    assert "1.00 (10.00×)" in text


def test_json_can_be_read_back() -> None:
    found = results()
    again = from_json(json.loads(json.dumps(as_json(found, "wireguard-go", {}))))
    assert again == found


def test_results_of_two_runs_are_joined() -> None:
    one, two = results(), Results({"nconnect": {"tcp_up": [7.0]}}, ["late"], [], 10.0)
    one.include(two)
    assert one.values["nconnect"]["tcp_up"] == [5.0, 7.0]
    assert one.first("nconnect", "tcp_up") == 5.0
    assert one.failures[-1] == "late"
    assert one.seconds == 71.0


@pytest.mark.filterwarnings("default::DeprecationWarning")  # matplotlib's own
def test_pictures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (scripts/setup --dev)")
    from lab.bench.plots import plots

    assert plots(Results(), tmp_path) == []
    assert plots(results(), tmp_path) == ["bench-speed", "bench-slow-link", "bench-scale"]
    assert (tmp_path / "bench-speed.svg").read_text().startswith("<?xml")
    assert (tmp_path / "bench-scale.png").read_bytes().startswith(b"\x89PNG")
