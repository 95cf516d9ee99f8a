from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from nconnect import __version__
from nconnect.cli import round_trip, watch
from nconnect.control.schema import DirectStatus, PingReply
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
        "laptop: 1.25 ms by a node",
        "laptop: 1.25 ms by a node",
        "2 of 2 answered, min 1.25 ms, avg 1.25 ms, max 1.25 ms",
        "packets go by a node, not directly",
        "measured by themselves, a moment before:",
        "  this device to its node and back   0.50 ms",
        "  laptop to its node and back        0.25 ms",
    ]
    content = json.loads(run("ping", "laptop", "--count", "2", "--interval", "0", "--json").out)
    assert content == {
        "peer": "laptop", "sent": 2, "received": 2, "rtt_ms": [1.25, 1.25],
        "min_ms": 1.25, "avg_ms": 1.25, "max_ms": 1.25, "path": "node", "why": "",
        "node_ms": 0.5, "peer_node_ms": 0.25, "rest_ms": 0.5, "replies": 2 * [
            {"peer": "laptop", "rtt_ms": 1.25, "path": "node",
             "node_ms": 0.5, "peer_node_ms": 0.25, "rest_ms": 0.5},
        ],
    }  # fmt: skip


def test_ping_says_what_it_knows_beside_the_round_trip() -> None:
    beyond = PingReply("laptop", 4.0, node_ms=1.0, rest_ms=3.0)  # the peer is of an older version
    assert round_trip.beside([beyond]) == [
        "measured by themselves, a moment before:",
        "  this device to its node and back   1.00 ms",
    ]
    unknown = PingReply("laptop", 4.0, path="direct")
    assert round_trip.line(unknown) == "laptop: 4.00 ms directly"
    assert round_trip.beside([unknown]) == round_trip.beside([]) == []
    assert round_trip.averages([beyond, unknown]) == {"node_ms": 1.0, "peer_node_ms": None, "rest_ms": 3.0}


@pytest.mark.parametrize(
    ("path", "direct", "says"),
    [
        (
            "direct",
            DirectStatus("up", "udp", None, "203.0.113.9:41000"),
            "packets go directly to 203.0.113.9:41000 (udp)",
        ),
        ("node", DirectStatus("search"), "packets go by a node; a direct path is looked for"),
        (
            "node",
            DirectStatus("failed", why="UDP is blocked here"),
            "packets go by a node, not directly: UDP is blocked here",
        ),
        ("node", DirectStatus("off"), "packets go by a node, not directly"),
    ],
)
def test_ping_says_which_way_packets_go_and_why(
    run: Run, daemon: FakeBackend, path: str, direct: DirectStatus, says: str
) -> None:
    with_direct(daemon, direct, path)
    assert says in run("ping", "laptop", "-n", "1").out.splitlines()
    content = json.loads(run("ping", "laptop", "-n", "1", "--json").out)
    assert (content["path"], content["why"]) == (path, direct.why)


def test_ping_takes_an_address_of_a_peer_or_in_its_subnets(run: Run, daemon: FakeBackend) -> None:
    laptop, phone = daemon.state.peers
    wide = replace(laptop, allowed_ips=("10.86.0.2/32", "192.168.0.0/16", "fd86::2/128"))
    narrow = replace(phone, allowed_ips=("10.86.0.3/32", "192.168.50.0/24"))
    daemon.state = replace(daemon.state, peers=(wide, narrow))
    for address, name in (
        ("10.86.0.2", "laptop"), ("192.168.1.1", "laptop"), ("fd86::2", "laptop"),
        ("192.168.50.10", "phone"), ("10.86.0.3", "phone"),
    ):  # fmt: skip
        assert run("ping", address, "-n", "1").out.startswith(f"{name}: ")
    result = run("ping", "10.99.0.1", "-n", "1")
    assert result.status == 2
    assert "there is no peer '10.99.0.1'" in result.err


def test_ping_c_counts_as_the_systems_ping_does(run: Run, daemon: FakeBackend, made: Path) -> None:
    assert "3 of 3 answered" in run("ping", "laptop", "-c", "3", "--interval", "0").out
    assert run("ping", "laptop", "-c", made, "-n", "1").status == 0


@pytest.mark.parametrize(
    "command", [["status"], ["ping", "x"], ["wait", "--timeout", "0"], ["down"], ["logs"]]
)
def test_a_file_that_does_not_exist_is_named(run: Run, tmp_path: Path, command: list[str]) -> None:
    result = run(*command, "-c", tmp_path / "4.toml")
    assert (result.status, result.out) == (2, "")
    assert f"{tmp_path}/4.toml does not exist: " in result.err


def test_a_daemon_whose_file_is_gone_can_be_asked_and_ended(
    run: Run, daemon: FakeBackend, made: Path
) -> None:
    made.unlink()
    assert run("status").status == 0
    assert run("down").status == 0


def test_ping_without_an_answer(run: Run, daemon: FakeBackend) -> None:
    daemon.answers = False
    result = run("ping", "laptop", "--count", "1", "--timeout", "0.5")
    assert result.status == 1
    assert result.out == "laptop: no answer within 0.5 s\n"
    assert result.err == "nconnect: error: laptop did not answer: see `nconnect status`\n"
    result = run("ping", "nobody")
    assert (result.status, result.out) == (2, "")
    assert "there is no peer 'nobody'" in result.err


def with_direct(daemon: FakeBackend, direct: DirectStatus, path: str = "node") -> None:
    laptop, *others = daemon.state.peers
    daemon.state = replace(daemon.state, peers=(replace(laptop, direct=direct, path=path), *others))


def test_ping_until_direct_ends_when_packets_go_directly(run: Run, daemon: FakeBackend) -> None:
    with_direct(daemon, DirectStatus("up", "udp", None, "203.0.113.9:41000", 1.0), "direct")
    result = run("ping", "laptop", "--until-direct", "--interval", "0")
    assert result.status == 0, result.err
    assert "packets go directly to 203.0.113.9:41000 (udp)\n" in result.out
    assert len([each for each in daemon.asked if each[0] == "ping"]) == 1
    assert json.loads(run("ping", "laptop", "--until-direct", "--json").out)["sent"] == 1


def test_ping_until_direct_says_why_they_do_not(run: Run, daemon: FakeBackend) -> None:
    with_direct(daemon, DirectStatus("failed", why="UDP is blocked here"))
    result = run("ping", "laptop", "--until-direct", "--count", "3", "--interval", "0")
    assert result.status == 1
    assert "packets to laptop go by a node, not directly: UDP is blocked here" in result.err
    assert len([each for each in daemon.asked if each[0] == "ping"]) == 3


def test_version(run: Run, config_path: Path) -> None:
    assert run("version").out == run("--version").out == f"nconnect {__version__}\n"
    assert json.loads(run("version", "--json").out)["version"] == __version__


def test_no_secret_is_shown(run: Run, daemon: FakeBackend, made: Path) -> None:
    from nconnect.io.files.config_file import load

    seed = load(made).seed.hex()
    for command in (["status"], ["status", "--json"], ["address"], ["address", "--json"], ["peer", "list"]):
        result = run(*command)
        assert seed not in result.out + result.err
    assert seed != KEY


@pytest.mark.skipif(os.geteuid() != 0, reason="root's file is another's to nobody else")
def test_a_third_users_configuration_is_refused(run: Run, made: Path) -> None:
    """What root may read is the file of whoever has the folder, or a file that root put into its own."""
    os.chown(made, 12345, 12345)
    assert run("address").status == 0
    os.chown(made.parent, 54321, 54321)
    result = run("address")
    assert result.status == 2
    assert "lies in a folder of user 54321, who may not read it" in result.err
