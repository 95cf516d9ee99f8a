from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nconnect.cli.usage import parse_since
from nconnect.errors import ConfigError
from nconnect.io.files.paths import make_state_dir
from nconnect.io.files.usage_store import HOUR_S, KnownPeer, UsageStore, Used, UsedIn
from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend

NOW = 1_790_003_661.0  # 2026-09-21 15:14


def test_since_when() -> None:
    assert parse_since("24h", NOW) == NOW - 86_400
    assert parse_since("1w", NOW) == NOW - 604_800
    assert parse_since("month", NOW) == parse_since("2026-09-01", NOW) == 1_788_220_800.0
    for text in ("", "yesterday", "-1d", "2027-01-01", "1900-01-01", "30", "9999999h"):
        with pytest.raises(ConfigError, match="is not a time in the past: write 24h"):
            parse_since(text, NOW)


def test_what_the_daemon_answers_is_shown(run: Run, daemon: FakeBackend) -> None:
    lines = run("usage", "--since", "2026-09-01").out.splitlines()
    assert daemon.asked == [("usage", 1_788_220_800.0)]
    assert lines[0] == "since 2026-09-01 00:00 UTC"
    assert lines[2].split() == ["PEER", "RECEIVED", "SENT", "CONNECTIONS", "CONNECTED", "LAST", "HERE"]
    assert lines[3].startswith("laptop   2.9 KiB  3.8 MiB            6  30 min     ")
    assert lines[4].split()[-1] == "never"
    by_hour = run("usage", "--by", "hour").out.splitlines()
    assert [line.split()[:3] for line in by_hour[1:]] == [
        ["2026-09-21", "14:00", "laptop"],
        ["2026-09-21", "15:00", "laptop"],
    ]
    content = json.loads(run("usage", "--json").out)
    assert content["interface"] == "nc0"
    (laptop, phone) = content["peers"]
    assert (laptop["address"], laptop["rx_bytes"], laptop["tx_bytes"]) == (f"laptop.{KEY}", 3000, 4_001_024)
    assert [hour["flows"] for hour in laptop["hours"]] == [5, 1]
    assert phone["last_seen_at"] is None


def test_where_no_daemon_runs_what_it_stored_is_shown(run: Run, made: Path) -> None:
    assert run("usage").out == "nothing has been counted yet\n"
    now = time.time()
    hour = int(now) // HOUR_S * HOUR_S
    store = UsageStore(make_state_dir("nc0"))
    store.add([UsedIn("a1", hour, Used(2048, 0, 1, 60.0))], [KnownPeer("a1", "alice", now)])
    store.close()
    (alice,) = json.loads(run("usage", "--since", "1h", "--json").out)["peers"]
    assert (alice["name"], alice["rx_bytes"], alice["connected_s"]) == ("alice", 2048, 60.0)
    assert "alice" in run("usage").out


def test_mistakes(run: Run, made: Path) -> None:
    result = run("usage", "--since", "tomorrow", "--by", "week")
    assert result.status == 2
    assert "--since: 'tomorrow' is not a time in the past" in result.err
    assert "--by: 'week' is unknown: write hour or day" in result.err
