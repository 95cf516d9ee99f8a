"""The commands keep their names, options, JSON fields and exit statuses; `tests/contract.py` says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nconnect.cli.app import app
from nconnect.cli.tree import tree
from nconnect.config.file import parse_config
from nconnect.control.schema import LINK_STATES, PATHS, PEER_STATES, PendingPeer
from tests import contract
from tests.cli.conftest import Run
from tests.cli.test_node import status as node_status
from tests.contract import COMMANDS, JSON, Counts, breaches
from tests.control.fake import KEY, FakeBackend

ADDRESS = f"phone.{KEY}"


def options_of(path: str) -> set[str]:
    (command,) = [c for c in tree(app).walk() if c.path == f"nconnect {path}"]
    return {name for option in command.options for name in option.names}


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_and_its_options_are_there(path: str) -> None:
    assert set(COMMANDS[path]) - options_of(path) == set()


@pytest.mark.parametrize("path", sorted(c.path for c in tree(app).walk() if not c.commands))
def test_every_command_takes_the_configuration_s_path(run: Run, path: str) -> None:
    """Also one that has no use for it, so that a script can give it to all."""
    result = run(*path.split()[1:], "-c", "/x/nc9.toml", "--help")
    assert (result.status, result.err) == (0, "")
    assert run(*path.split()[1:], "--config", "/x/nc9.toml", "--help").status == 0


def reading(run: Run, path: str, *arguments: str) -> Any:
    """What the command prints with `--json`: one object, on one line, and nothing beside it."""
    result = run(*path.split(), *arguments, "--json")
    assert result.err == ""
    assert result.out.count("\n") == 1
    found = json.loads(result.out)
    assert breaches(JSON[path], found) == []
    return found


def test_what_is_read_of_a_running_daemon(run: Run, daemon: FakeBackend) -> None:
    assert run("peer", "add", "phone", ADDRESS, "--allowed-ips", "10.86.0.3/32").status == 0
    daemon.waiting = [PendingPeer(ADDRESS, 1.0, 2.0, 3)]
    status = reading(run, "status")
    assert status["links"]
    assert status["peers"]
    assert status["skipped_routes"]
    (phone,) = reading(run, "peer list")["peers"]
    assert reading(run, "peer show", "phone") == phone
    assert (phone["state"], phone["allow"]) == ("never", None)
    (waiting,) = reading(run, "peer pending")["pending"]
    assert waiting["address"] == ADDRESS
    assert reading(run, "ping", "laptop", "--count", "1")["received"] == 1


def test_what_is_read_of_the_files_alone(run: Run, made: Path) -> None:
    address = reading(run, "address")
    assert address["address"] == f"{address['identifier']}.{address['public_key']}"
    reading(run, "version")
    reading(run, "peer list")
    assert reading(run, "provide show")["subnets"] == ["192.168.50.0/24"]
    invited = reading(run, "invite new", "alice", "--allow", "192.168.50.10:8000/tcp")
    assert invited["token"].startswith("nc1-")
    (invitation,) = reading(run, "invite list")["invitations"]
    assert (invitation["name"], invitation["state"]) == ("alice", "open")


def test_what_is_read_of_a_node(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nconnect.control.node_client.running_nodes", lambda: [node_status(7, 30003)])
    assert reading(run, "node status")["rpc_port"] == 30003


def test_the_words_for_states_and_paths() -> None:
    assert set(LINK_STATES) == contract.LINK_STATES
    assert set(PEER_STATES) == contract.PEER_STATES
    assert set(PATHS) == contract.PATHS


def test_exit_statuses(run: Run, made: Path) -> None:
    """0 done, 1 failed, 2 usage or a configuration that is wrong."""
    assert run("peer", "list").status == 0
    assert run("status").status == 1
    assert run("wait", "--timeout", "0").status == 1
    assert run("down").status == 0
    for usage in (["frobnicate"], ["up", "--frobnicate"], ["peer", "add"], ["peer", "add", "x", "y"]):
        assert run(*usage).status == 2
    made.write_text("[interface\n")
    assert run("address").status == 2
    made.unlink()
    assert run("up").status == 2


def test_an_error_is_one_line(run: Run, made: Path) -> None:
    for arguments in (["status"], ["frobnicate"], ["peer", "show", "nobody"], ["peer", "add", "x"]):
        result = run(*arguments)
        assert result.out == ""
        assert result.err.startswith("nconnect: error: ")
        assert result.err.count("\n") == 1


CONFIGURATION = f"""
[interface]
seed = "{"07" * 32}"
identifier = "laptop"
address = ["10.86.0.2/24", "fd86::2/64"]
mtu = 1500
cipher = "auto"
inbound = false
fail_closed = false
accept_pending = false

[network]
seed_rpc = ["http://203.0.113.7:30003"]
links = 4

[node]
listen = "0.0.0.0"

[provide]
subnets = ["192.168.50.0/24", "192.168.1.0/24=10.99.1.0/24"]
services = ["8000/tcp"]
expose = ["127.0.0.1:11434"]
masquerade = true
mtu = 1500

[metrics]
listen = "127.0.0.1:9586"

[[peer]]
name = "gpu-box"
address = "gpu-box.{KEY}"
allowed_ips = ["10.86.0.1/32", "192.168.51.0/24"]
allow = ["192.168.50.10:8000/tcp", "192.168.50.0/28", "[fd50::10]:80-90/udp", "192.168.50.11/icmp"]
preshared_key = "{"09" * 32}"
expires = 2026-12-31T00:00:00Z
"""


def test_every_key_of_the_configuration_is_known() -> None:
    read = parse_config(CONFIGURATION, interface="nc0")
    assert read.identifier == "laptop"
    assert read.metrics is not None
    assert read.node is not None


def test_a_breach_is_found() -> None:
    shape = {"name": str, "rtt_ms": (int, float, None), "drops": Counts, "links": [{"up": bool}]}
    good = {"name": "x", "rtt_ms": 1.5, "drops": {"a": 1}, "links": [{"up": True}], "new": 1}
    assert breaches(shape, good) == []
    wrongs: tuple[dict[str, object], ...] = (
        {"name": None},
        {"name": 7},
        {"rtt_ms": "1.5"},
        {"rtt_ms": True},
        {"drops": {"a": 1.0}},
        {"drops": []},
        {"links": [{}]},
        {"links": [{"up": 1}]},
        {"links": None},
    )
    for wrong in wrongs:
        assert len(breaches(shape, {**good, **wrong})) == 1
    del good["name"]
    assert breaches(shape, good) == [".name is missing"]
