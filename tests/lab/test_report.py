from __future__ import annotations

import json

from lab.bench.compare import Results
from lab.bench.report import as_json, markdown


def results() -> Results:
    found = Results()
    for value in (2.0, 9.0, 3.0):
        found.add("wireguard-go", "tcp_up", value)
        found.add("nconnect", "tcp_up", value * 5)
    found.add("nconnect", "start", 0.25)
    return found


def test_medians_and_ratios() -> None:
    found = results()
    assert found.median("nconnect", "tcp_up") == 15
    assert found.ratio("nconnect", "wireguard-go", "tcp_up") == 5
    assert found.median("nconnect", "rss") is None
    assert found.ratio("nconnect", "wireguard-go", "start") is None
    assert found.ratio("nobody", "wireguard-go", "tcp_up") is None


def test_the_markdown_table() -> None:
    assert markdown(results(), "wireguard-go") == (
        "| | wireguard-go | nconnect |\n"
        "|---|---:|---:|\n"
        "| TCP up, Gbit/s | 3.00 | 15.00 (5.00×) |\n"
        "| start to first reply, s |  | 0.250 |\n"
    )


def test_json_holds_every_round_and_what_failed() -> None:
    found = results()
    found.failures.append("round 1 of 3, nconnect, ping: no answer")
    value = json.loads(json.dumps(as_json(found, "wireguard-go", {"rounds": 3})))
    assert value["results"]["nconnect"]["tcp_up"] == {"median": 15, "ratio": 5, "rounds": [10, 45, 15]}
    assert value["failures"] == found.failures
    assert value["units"] == {"tcp_up": "Gbit/s", "start": "s"}
