from __future__ import annotations

import json
import tomllib
from pathlib import Path

from nconnect.io.files import config_file
from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend


def test_check_says_that_all_is_well(run: Run, made: Path) -> None:
    result = run("config", "check")
    assert (result.status, result.out) == (0, f"{made} is valid: interface nc0, 0 peers\n")
    assert json.loads(run("config", "check", "--json").out) == {
        "file": str(made), "ok": True, "problems": [], "left_out": [],
    }  # fmt: skip


def test_check_tells_every_mistake(run: Run, made: Path) -> None:
    made.write_text(made.read_text() + '\n[network]\nlinks = 99\nseeds = "x"\n')
    result = run("config", "check")
    assert result.status == 2
    assert result.err.count("\n") == 2
    assert "links: 99 is out of range" in result.err
    content = json.loads(run("config", "check", "--json").out)
    assert content["ok"] is False
    assert len(content["problems"]) == 2


def test_check_of_another_file(run: Run, made: Path, tmp_path: Path) -> None:
    assert run("config", "check", tmp_path / "none.toml").status == 2


def test_show_hides_secrets_and_is_a_configuration(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    run(
        "peer", "add", "laptop", f"laptop.{KEY}", "--allowed-ips", "10.86.0.2/32", "--access", "2036-12-31",
        "--allow", "192.168.50.10:8000/tcp", "--preshared-key-file", tmp_path / "key",
    )  # fmt: skip
    seed = config_file.load(made).seed.hex()
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        out = run(*arguments).out
        assert seed not in out
        assert "ab" * 32 not in out
    content = tomllib.loads(run("config", "show").out)
    assert content["interface"]["mtu"] == 1500
    assert content["peer"][0]["name"] == "laptop"
    assert content["peer"][0]["expires"].year == 2036
    assert content["provide"]["subnets"] == ["192.168.50.0/24"]


def test_show_hides_what_logs_in_to_the_proxy(run: Run, made: Path) -> None:
    made.write_text(made.read_text() + '\n[network]\nproxy = "http://bob:hunter2@10.0.0.1:3128"\n')
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        out = run(*arguments).out
        assert "http://(hidden)@10.0.0.1:3128" in out
        assert "hunter2" not in out
        assert "bob" not in out
    made.write_text(made.read_text().replace("http://bob:hunter2@10.0.0.1:3128", "none"))
    assert tomllib.loads(run("config", "show").out)["network"]["proxy"] == "none"


def test_reload_asks_the_daemon(run: Run, daemon: FakeBackend) -> None:
    result = run("reload")
    assert (result.status, result.err) == (0, "")
    assert daemon.asked == ["reload"]
    daemon.refuse_reload = "mtu cannot change while nc0 is up"
    result = run("reload")
    assert result.status == 1
    assert "mtu cannot change" in result.err


def test_reload_of_a_wrong_file_does_not_reach_the_daemon(run: Run, daemon: FakeBackend, made: Path) -> None:
    made.write_text(made.read_text() + "x = 1\n")
    assert run("reload").status == 2
    assert daemon.asked == []


def test_reload_without_a_daemon(run: Run, made: Path) -> None:
    result = run("reload")
    assert result.status == 1
    assert "nc0 is not up" in result.err
