from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from nconnect.cli.options import Declined
from tests.cli.conftest import Run
from tests.control.fake import FakeBackend

ALL = (
    "--subnet",
    "fd50::/64,192.168.1.0/24=10.99.1.0/24",
    "--service",
    "8000/tcp",
    "--expose",
    "127.0.0.1:80",
)


def offers_of(path: Path) -> dict[str, Any]:
    offers: dict[str, Any] = tomllib.loads(path.read_text())["provide"]
    return offers


def test_add_show_remove_without_a_daemon(run: Run, made: Path) -> None:
    result = run("provide", "add", *ALL)
    assert result.status == 0, result.err
    assert result.out.startswith("fd50::/64, 192.168.1.0/24=10.99.1.0/24, 8000/tcp, 127.0.0.1:80 added: kept")
    assert run("provide", "show").out.splitlines() == [
        "subnets     192.168.50.0/24, fd50::/64, 192.168.1.0/24=10.99.1.0/24",
        "services    8000/tcp",
        "expose      127.0.0.1:80",
        "servers     none",
        "hosts       none",
        "masquerade  yes",
        "mtu         the path's own",
    ]
    assert json.loads(run("provide", "show", "--json").out) == {
        "subnets": ["192.168.50.0/24", "fd50::/64", "192.168.1.0/24=10.99.1.0/24"],
        "services": ["8000/tcp"],
        "expose": ["127.0.0.1:80"],
        "masquerade": True,
        "mtu": None,
        "server": [],
        "host": [],
    }
    assert run("provide", "remove", "--subnet", "192.168.50.0/24", *ALL).status == 0
    assert offers_of(made) == {"subnets": [], "services": [], "expose": []}
    assert "subnets     none" in run("provide", "show").out
    assert made.stat().st_mode & 0o777 == 0o600


def test_a_change_is_in_force_at_once(run: Run, daemon: FakeBackend) -> None:
    assert run("provide", "add", "--service", "8000/tcp").out == "8000/tcp added: in force now\n"
    assert run("provide", "remove", "--service", "8000/tcp").out == "8000/tcp removed: in force now\n"
    assert daemon.asked == ["reload", "reload"]


def test_a_change_that_the_daemon_refuses_is_taken_back(run: Run, daemon: FakeBackend, made: Path) -> None:
    before = made.read_text()
    daemon.refuse_reload = "no nftables here"
    result = run("provide", "add", "--service", "8000/tcp")
    assert result.status == 1
    assert "the daemon refused, and the file is as before: no nftables here" in result.err
    assert made.read_text() == before


def test_dry_run_shows_and_changes_nothing(run: Run, daemon: FakeBackend, made: Path) -> None:
    before = made.read_text()
    for command, sign in (("add", "+"), ("remove", "-")):
        entry = "192.168.51.0/24" if command == "add" else "192.168.50.0/24"
        result = run("provide", command, "--subnet", entry, "--dry-run")
        assert result.status == 0
        assert any(line.startswith(f"{sign}subnets") and entry in line for line in result.out.splitlines())
        assert result.out.endswith(
            f"{entry} {command.removesuffix('e')}ed: nothing was changed (--dry-run)\n"
        )
    assert made.read_text() == before
    assert daemon.asked == []


def test_who_declines_keeps_what_is_offered(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def confirm(question: str, yes: bool) -> None:
        asked.append((question, yes))
        if not yes:
            raise Declined("no")

    monkeypatch.setattr("nconnect.cli.provide.confirm", confirm)
    remove = ("provide", "remove", "--subnet", "192.168.50.0/24")
    assert run(*remove).status == 1
    assert offers_of(made)["subnets"] == ["192.168.50.0/24"]
    assert "stop offering 192.168.50.0/24" in asked[0][0]
    assert run("provide", "remove", "--subnet", "192.168.9.0/24").status == 2
    assert len(asked) == 1, "what is not there is said before anything is asked"
    assert run(*remove, "--yes").status == 0
    assert offers_of(made)["subnets"] == []


def test_all_mistakes_of_one_command_at_once(run: Run, made: Path) -> None:
    result = run("provide", "add", "--subnet", "x,192.168.50.3/24", "--service", "80", "--expose", "y")
    assert (result.status, len(result.err.splitlines())) == (2, 4)
    result = run("provide", "remove", "--subnet", "192.168.9.0/24", "--service", "80/tcp")
    assert (result.status, len(result.err.splitlines())) == (2, 2)


def test_a_file_that_is_wrong_already_is_told_with_its_lines(run: Run, made: Path) -> None:
    made.write_text(made.read_text().replace('["192.168.50.0/24"]', '"192.168.50.0/24"'))
    for command in ("add", "remove"):
        result = run("provide", command, "--subnet", "192.168.51.0/24")
        assert result.status == 2
        assert f"{made}:9: [provide] subnets" in result.err


def test_without_a_command_there_is_help(run: Run, made: Path) -> None:
    assert "Usage: nconnect provide" in run("provide").out


def test_servers_are_added_listed_and_removed(run: Run, made: Path) -> None:
    assert run("provide", "server", "list").out.startswith("no servers: add one with")
    result = run("provide", "server", "add", "ollama", "http://localhost:11434/", "--also", "chat,llm")
    assert (result.status, result.out) == (0, "ollama added: kept in the file; no daemon is running\n"), (
        result.err
    )
    assert run("provide", "server", "add", "vllm", "http://192.168.50.10:8000").status == 0
    assert run("provide", "server", "list").out.splitlines() == [
        "NAME    URL                        ALSO",
        "ollama  http://127.0.0.1:11434     chat, llm",
        "vllm    http://192.168.50.10:8000",
    ]
    assert json.loads(run("provide", "server", "list", "--json").out)["servers"][1] == {
        "name": "vllm",
        "url": "http://192.168.50.10:8000",
    }
    shown = tomllib.loads(run("config", "show").out)
    assert shown["provide"]["server"][0]["names"] == ["chat", "llm"]
    assert run("provide", "server", "remove", "ollama").status == 0
    assert [server["name"] for server in offers_of(made)["server"]] == ["vllm"]
    assert run("provide", "server", "remove", "vllm").status == 0
    assert "server" not in offers_of(made)


def test_hosts_are_named_listed_and_forgotten(run: Run, made: Path) -> None:
    before = made.read_text()
    assert run("provide", "host", "list").out.startswith("no hosts: name one with")
    assert run("provide", "host", "add", "nas", "192.168.50.20", "--dry-run").status == 0
    assert made.read_text() == before
    result = run("provide", "host", "add", "nas", "192.168.50.20")
    assert (result.status, result.out) == (0, "nas added: kept in the file; no daemon is running\n"), (
        result.err
    )
    assert run("provide", "host", "list").out.splitlines() == ["NAME  ADDRESS", "nas   192.168.50.20"]
    entry = {"name": "nas", "address": "192.168.50.20"}
    assert json.loads(run("provide", "host", "list", "--json").out) == {"hosts": [entry]}
    assert tomllib.loads(run("config", "show").out)["provide"]["host"] == [entry]
    assert "nas (192.168.50.20)" in run("provide", "show").out
    for name, address, why in (
        ("nas", "192.168.50.21", "there is already a host 'nas'"),
        ("a", "10.1.2.3", "10.1.2.3 is in no provided subnet"),
        ("a", "\x1b[2J", "is not an address"),
        ("metadata.google.internal", "192.168.50.21", "not a host's name"),
    ):
        result = run("provide", "host", "add", name, address)
        assert (result.status, why in result.err) == (2, True), result.err
    assert "there is no host 'nos': did you mean 'nas'?" in run("provide", "host", "remove", "nos").err
    assert run("provide", "host", "remove", "nas").status == 0
    assert "host" not in offers_of(made)


def test_a_host_is_in_force_at_once(run: Run, daemon: FakeBackend) -> None:
    assert run("provide", "host", "add", "nas", "192.168.50.20").out == "nas added: in force now\n"
    assert run("provide", "host", "remove", "nas").out == "nas removed: in force now\n"
    assert daemon.asked == ["reload", "reload"]


def test_a_server_is_in_force_at_once(run: Run, daemon: FakeBackend) -> None:
    added = run("provide", "server", "add", "ollama", "http://127.0.0.1:11434")
    assert added.out == "ollama added: in force now\n"
    assert run("provide", "server", "remove", "ollama").out == "ollama removed: in force now\n"
    assert daemon.asked == ["reload", "reload"]


@pytest.mark.parametrize(
    ("name", "url", "why"),
    [
        ("localhost", "http://127.0.0.1:1", "not a server's name"),
        ("a.b", "http://127.0.0.1:1", "not a server's name"),
        ("a", "http://10.1.2.3:8000", "10.1.2.3 is in no provided subnet"),
        ("a", "http://10.86.0.1:8000", 'add services = ["8000/tcp"]'),
    ],
)
def test_a_server_that_nobody_could_reach_is_refused(
    run: Run, made: Path, name: str, url: str, why: str
) -> None:
    before = made.read_text()
    result = run("provide", "server", "add", name, url)
    assert result.status == 2
    assert why in result.err
    assert made.read_text() == before


def test_a_name_is_given_once(run: Run, made: Path) -> None:
    assert run("provide", "server", "add", "a", "http://127.0.0.1:1").status == 0
    result = run("provide", "server", "add", "a", "http://127.0.0.1:2")
    assert (result.status, "there is already a server 'a'" in result.err) == (2, True)
    result = run("provide", "server", "remove", "b")
    assert (result.status, "did you mean 'a'?" in result.err or "there are a" in result.err) == (2, True)
