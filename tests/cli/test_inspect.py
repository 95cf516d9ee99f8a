from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nconnect import __version__
from nconnect.cli import watch
from tests.cli.conftest import Run
from tests.control.fake import KEY, STATUS, FakeBackend


def test_status(run: Run, daemon: FakeBackend) -> None:
    result = run("status")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("nc0 is running")
    assert "laptop" in result.out
    assert "\x1b" not in result.out


def test_status_json_is_one_object(run: Run, daemon: FakeBackend) -> None:
    assert json.loads(run("status", "--json").out) == json.loads(json.dumps(STATUS.to_json()))


@pytest.mark.parametrize(
    "command", [["status"], ["status", "--json"], ["ping", "laptop"], ["wait", "--timeout", "0"]]
)
def test_nothing_runs(run: Run, made: Path, command: list[str]) -> None:
    result = run(*command)
    assert (result.status, result.out) == (1, "")
    assert result.err == "nconnect: error: nc0 is not up: start it with `nconnect up`\n"


def test_status_watch_shows_rates_until_it_ends(
    run: Run, daemon: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([False, False, True])
    monkeypatch.setattr(watch._Keys, "__call__", lambda self, seconds: next(turns))
    result = run("status", "--watch")
    assert result.status == 0
    assert result.out.count("nc0 is running") == 3
    assert "(0 B/s)" in result.out


def test_address(run: Run, made: Path) -> None:
    content = json.loads(run("address", "--json").out)
    assert run("address").out == content["address"] + "\n"
    assert content["address"] == f"{content['identifier']}.{content['public_key']}"
    assert (content["interface"], content["identifier"]) == ("nc0", "gpu-box")


def test_ping(run: Run, daemon: FakeBackend) -> None:
    result = run("ping", "laptop", "--count", "2", "--interval", "0")
    assert result.status == 0
    assert result.out.splitlines() == [
        "laptop: 1.25 ms (node 0.50 ms)",
        "laptop: 1.25 ms (node 0.50 ms)",
        "2 of 2 answered, min 1.25 ms, avg 1.25 ms, max 1.25 ms",
    ]
    content = json.loads(run("ping", "laptop", "--count", "2", "--interval", "0", "--json").out)
    assert content == {
        "peer": "laptop", "sent": 2, "received": 2, "rtt_ms": [1.25, 1.25],
        "min_ms": 1.25, "avg_ms": 1.25, "max_ms": 1.25,
    }  # fmt: skip


def test_ping_without_an_answer(run: Run, daemon: FakeBackend) -> None:
    daemon.answers = False
    result = run("ping", "laptop", "--count", "1", "--timeout", "0.5")
    assert result.status == 1
    assert result.out == "laptop: no answer within 0.5 s\n"
    assert result.err == "nconnect: error: laptop did not answer: see `nconnect status`\n"
    result = run("ping", "nobody")
    assert (result.status, result.out) == (1, "")
    assert "there is no peer 'nobody'" in result.err


def test_version(run: Run, config_path: Path) -> None:
    assert run("version").out == f"nconnect {__version__}\n"
    assert json.loads(run("version", "--json").out)["version"] == __version__


def test_no_secret_is_shown(run: Run, daemon: FakeBackend, made: Path) -> None:
    from nconnect.io.config_file import load

    seed = load(made).seed.hex()
    for command in (["status"], ["status", "--json"], ["address"], ["address", "--json"], ["peer", "list"]):
        result = run(*command)
        assert seed not in result.out + result.err
    assert seed != KEY


@pytest.mark.skipif(os.geteuid() != 0, reason="root's file is another's to nobody else")
def test_another_users_configuration_is_refused(run: Run, made: Path) -> None:
    os.chown(made, 12345, 12345)
    result = run("address")
    assert result.status == 2
    assert "belongs to another user" in result.err
