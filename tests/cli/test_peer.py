from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from nconnect.control.schema import PausedStatus
from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend

LAPTOP = f"laptop.{KEY}"


def peers_of(path: Path) -> list[dict[str, Any]]:
    peers: list[dict[str, Any]] = tomllib.loads(path.read_text()).get("peer", [])
    return peers


@pytest.fixture
def with_laptop(run: Run, made: Path) -> Path:
    result = run(
        "peer", "add", "laptop", LAPTOP, "--allowed-ips", "10.86.0.2/32", "--allow", "192.168.50.10:8000/tcp"
    )
    assert result.status == 0, result.err
    return made


def test_add_without_a_daemon(run: Run, with_laptop: Path) -> None:
    assert peers_of(with_laptop) == [
        {
            "name": "laptop",
            "address": LAPTOP,
            "allowed_ips": ["10.86.0.2/32"],
            "allow": ["192.168.50.10:8000/tcp"],
        }
    ]
    assert with_laptop.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in with_laptop.parent.iterdir()] == ["nc0.toml"]


def test_add_with_everything(run: Run, made: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32 + "\n")
    key.chmod(0o600)
    result = run(
        "peer", "add", "laptop", LAPTOP,
        "--allowed-ips", "10.86.0.2/32, 10.9.0.0/16", "--allowed-ips", "fd86::2",
        "--allow", "none", "--preshared-key-file", key, "--access", "2099-12-31",
    )  # fmt: skip
    assert result.status == 0, result.err
    (peer,) = peers_of(made)
    assert peer["allowed_ips"] == ["10.86.0.2/32", "10.9.0.0/16", "fd86::2"]
    assert peer["allow"] == []
    assert peer["preshared_key"] == "ab" * 32
    shown = json.loads(run("peer", "show", "laptop", "--json").out)
    assert shown == {
        "name": "laptop",
        "address": LAPTOP,
        "allowed_ips": ["10.86.0.2/32", "10.9.0.0/16", "fd86::2/128"],
        "allow": [],
        "preshared_key": True,
        "expires": 4_102_358_400.0,
        "max_flows": None,
        "direct": None,
        "rate": None,
        "quota": None,
        "paused": None,
        "local_address": [],
        "accept_routes": None,
        "nconnect": False,
        "state": None,
        "last_seen_at": None,
        "invited": False,
    }
    for command in (["peer", "show", "laptop"], ["peer", "list"], ["peer", "list", "--json"]):
        assert "ab" * 32 not in run(*command).out
    assert json.loads(run("peer", "list", "--json").out) == {"peers": [shown]}


def test_which_offers_are_accepted(run: Run, with_laptop: Path) -> None:
    def set_to(value: str) -> object:
        assert run("peer", "set", "laptop", "--accept-routes", value).status == 0
        return peers_of(with_laptop)[0].get("accept_routes")

    assert set_to("192.168.0.0/15,10.0.0.0/8") == ["192.168.0.0/15", "10.0.0.0/8"]
    assert json.loads(run("peer", "show", "laptop", "--json").out)["accept_routes"] == [
        "192.168.0.0/15",
        "10.0.0.0/8",
    ]
    assert set_to("all") == "all"
    assert run("peer", "set", "laptop", "--accept-routes", "some").status == 2
    assert set_to("default") is None


def test_a_change_is_in_force_at_once(run: Run, daemon: FakeBackend) -> None:
    result = run("peer", "add", "tablet", LAPTOP, "--allowed-ips", "10.86.0.2/32")
    assert result.out == "peer tablet added: in force now\n"
    assert run("peer", "remove", "tablet").out == "peer tablet removed: in force now\n"
    assert daemon.asked == ["reload", "reload"]


def test_a_change_that_the_daemon_refuses_is_taken_back(run: Run, daemon: FakeBackend, made: Path) -> None:
    before = made.read_text()
    daemon.refuse_reload = "no route for it"
    result = run("peer", "add", "tablet", LAPTOP, "--allowed-ips", "10.86.0.2/32")
    assert result.status == 1
    assert "the daemon refused, and the file is as before: no route for it" in result.err
    assert result.err.count("\n") == 1
    assert made.read_text() == before


def test_a_change_whose_outcome_is_not_known_stays_in_the_file(
    run: Run, daemon: FakeBackend, made: Path
) -> None:
    """Else a right that is taken away in the daemon would come back at its next start."""
    daemon.loses_reload = True
    result = run("peer", "add", "tablet", LAPTOP, "--allowed-ips", "10.86.0.2/32", "--allow", "none")
    assert result.status == 1
    assert "the change is saved in the file, but it is not known whether it is in force" in result.err
    assert 'name = "tablet"' in made.read_text()


def test_list_and_show_know_the_state_of_a_running_daemon(run: Run, daemon: FakeBackend) -> None:
    run("peer", "add", "laptop", LAPTOP, "--allowed-ips", "10.86.0.2/32")
    header, row = run("peer", "list").out.splitlines()
    assert header.split()[:2] == ["PEER", "STATE"]
    assert row.split()[:4] == ["laptop", "up", "now", "10.86.0.2/32"]
    assert "state          up" in run("peer", "show", "laptop").out


def test_a_list_on_a_narrow_terminal(run: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = ["10.86.0.2/32", "fd61:3a4a:54e0::2/128", *(f"192.168.{n}.0/24" for n in range(3))]
    run("peer", "add", "laptop", LAPTOP, "--allowed-ips", ",".join(prefixes), "--access", "2099-12-31")
    whole = run("peer", "list").out
    assert ", ".join(prefixes) in whole
    assert LAPTOP in whole  # a program reads this
    monkeypatch.setattr("nconnect.cli.output.can_move", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("peer", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["PEER", "STATE", "LAST", "HERE", "EXPIRES", "ADDRESS"]
    assert "…" in lines[1]
    assert (
        " ".join(line.strip() for line in lines[2:]) == f"laptop has {', '.join(prefixes)}; it may reach all"
    )


def test_list_of_none(run: Run, made: Path) -> None:
    assert "there are no peers" in run("peer", "list").out


def test_set(run: Run, with_laptop: Path) -> None:
    with_laptop.write_text(with_laptop.read_text().replace("[[peer]]", "[[peer]]  # mine"))
    assert run("peer", "set", "laptop", "--name", "tablet", "--access", "30d").status == 0
    assert run("peer", "set", "tablet", "--allowed-ips", "10.86.0.7").status == 0
    (peer,) = peers_of(with_laptop)
    assert (peer["name"], peer["allowed_ips"], peer["allow"]) == (
        "tablet",
        ["10.86.0.7"],
        ["192.168.50.10:8000/tcp"],
    )
    assert "expires" in peer
    assert "# mine" in with_laptop.read_text()
    assert run("peer", "set", "tablet", "--access", "never").status == 0
    assert "expires" not in peers_of(with_laptop)[0]


def test_removing_the_last_rule_leaves_nothing_and_only_all_deletes_the_key(
    run: Run, with_laptop: Path
) -> None:
    def allow() -> object:
        return peers_of(with_laptop)[0].get("allow", "absent")

    assert run("peer", "set", "laptop", "--add-allow", "192.168.50.11/icmp").status == 0
    assert allow() == ["192.168.50.10:8000/tcp", "192.168.50.11/icmp"]
    assert run("peer", "set", "laptop", "--add-allow", "192.168.50.11/32/icmp").out.endswith(
        "it was so already\n"
    )
    assert (
        run("peer", "set", "laptop", "--remove-allow", "192.168.50.11/icmp,192.168.50.10/32:8000/tcp").status
        == 0
    )
    assert allow() == []
    assert run("peer", "set", "laptop", "--allow", "none").status == 0
    assert allow() == []
    assert run("peer", "set", "laptop", "--allow", "all").status == 0
    assert allow() == "absent"
    result = run("peer", "set", "laptop", "--remove-allow", "192.168.50.11/icmp")
    assert (result.status, allow()) == (2, "absent")
    assert "say with --allow" in result.err


def test_a_bound_on_connections_is_set_and_taken_away(run: Run, with_laptop: Path) -> None:
    assert run("peer", "set", "laptop", "--max-flows", "20000").status == 0
    assert peers_of(with_laptop)[0]["max_flows"] == 20_000
    assert json.loads(run("peer", "show", "laptop", "--json").out)["max_flows"] == 20_000
    assert run("peer", "set", "laptop", "--max-flows", "99999999").status == 2
    assert peers_of(with_laptop)[0]["max_flows"] == 20_000
    assert run("peer", "set", "laptop", "--max-flows", "0").status == 0
    assert "max_flows" not in peers_of(with_laptop)[0]


def test_the_official_client_is_let_in_and_kept_out(run: Run, with_laptop: Path) -> None:
    assert run("peer", "set", "laptop", "--nconnect").status == 0
    assert peers_of(with_laptop)[0]["nconnect"] is True
    assert json.loads(run("peer", "show", "laptop", "--json").out)["nconnect"] is True
    assert "may use the official client" in run("peer", "show", "laptop").out
    assert run("peer", "set", "laptop", "--rate", "50M").status == 0
    assert peers_of(with_laptop)[0]["nconnect"] is True  # another option leaves it
    assert run("peer", "set", "laptop", "--no-nconnect").status == 0
    assert "nconnect" not in peers_of(with_laptop)[0]


def test_a_rate_and_a_quota_are_set_and_taken_away(run: Run, with_laptop: Path) -> None:
    assert run("peer", "set", "laptop", "--rate", "50M", "--quota", "100G/month").status == 0
    assert peers_of(with_laptop)[0]["rate"] == "50M"
    assert json.loads(run("peer", "show", "laptop", "--json").out)["quota"] == "100G/month"
    refused = run("peer", "set", "laptop", "--rate", "fast", "--quota", "much")
    assert refused.status == 2
    assert "--rate: 'fast' is not a rate" in refused.err
    assert "--quota: 'much' is not a quota" in refused.err
    assert peers_of(with_laptop)[0]["rate"] == "50M"
    assert run("peer", "set", "laptop", "--rate", "none").status == 0
    assert "rate" not in peers_of(with_laptop)[0]
    assert peers_of(with_laptop)[0]["quota"] == "100G/month"


def test_a_peer_is_paused_and_let_in_again(run: Run, with_laptop: Path) -> None:
    before = with_laptop.read_text()
    result = run("peer", "pause", "laptop", "--why", "back at 22:00")
    assert result.out.startswith("peer laptop is paused: ")
    assert peers_of(with_laptop)[0]["paused"] == "back at 22:00"
    assert "paused         back at 22:00" in run("peer", "show", "laptop").out
    assert run("peer", "pause", "laptop").status == 0
    assert peers_of(with_laptop)[0]["paused"] == ""  # without a reason, and paused all the same
    refused = run("peer", "pause", "laptop", "--why", "a\nb")
    assert (refused.status, peers_of(with_laptop)[0]["paused"]) == (2, "")
    assert run("peer", "resume", "laptop").out.startswith("peer laptop may connect: ")
    assert with_laptop.read_text() == before
    assert run("peer", "resume", "laptop").out == "peer laptop may connect: it was so already\n"
    unknown = run("peer", "pause", "labtop")
    assert (unknown.status, "did you mean 'laptop'?" in unknown.err) == (2, True)


def test_a_peer_whose_quota_is_used_up_is_not_said_to_be_let_in(
    run: Run, with_laptop: Path, daemon: FakeBackend
) -> None:
    assert run("peer", "resume", "laptop").out == "peer laptop may connect: it was so already\n"
    why = "the quota of 1M/day is used up until 2026-09-22 00:00 UTC"
    laptop, *others = daemon.state.peers
    paused = dataclasses.replace(laptop, paused=PausedStatus(why, "quota"))
    daemon.state = dataclasses.replace(daemon.state, peers=(paused, *others))
    result = run("peer", "resume", "laptop")
    assert (result.status, result.out) == (2, "")
    assert f"laptop stays paused: {why}; 'nconnect peer set laptop --quota …' raises it" in result.err


def test_direct_paths_to_a_peer_are_set_and_left_to_the_default(run: Run, with_laptop: Path) -> None:
    assert run("peer", "set", "laptop", "--direct", "no-host").status == 0
    assert peers_of(with_laptop)[0]["direct"] == "no-host"
    assert json.loads(run("peer", "show", "laptop", "--json").out)["direct"] == "no-host"
    refused = run("peer", "set", "laptop", "--direct", "maybe")
    assert refused.status == 2
    assert "--direct: 'maybe' is unknown: write one of on, no-host, off" in refused.err
    assert peers_of(with_laptop)[0]["direct"] == "no-host"
    assert run("peer", "set", "laptop", "--direct", "default").status == 0
    assert "direct" not in peers_of(with_laptop)[0]


def test_preshared_key_can_be_set_and_taken_away(run: Run, with_laptop: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    assert run("peer", "set", "laptop", "--preshared-key-file", key).status == 0
    assert peers_of(with_laptop)[0]["preshared_key"] == "ab" * 32
    assert run("peer", "set", "laptop", "--no-preshared-key").status == 0
    assert "preshared_key" not in peers_of(with_laptop)[0]


ADD = ["peer", "add", "tablet", f"tablet.{KEY}"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (ADD, "--allowed-ips is missing"),
        ([*ADD, "--allowed-ips", ","], "--allowed-ips is missing"),
        (
            [*ADD, "--allowed-ips", "10.86.0.3/24"],
            "write 10.86.0.0/24 for the network, or 10.86.0.3/32 for the host",
        ),
        ([*ADD, "--allowed-ips", "10.86.0.3"], "has the same key as peer 'laptop'"),
        ([*ADD, "--allowed-ips", "10.86.0.3", "--allow", "80/tcp"], "--allow: '80/tcp'"),
        ([*ADD, "--allowed-ips", "10.86.0.3", "--allow", "all,none"], "--allow: give rules, or"),
        ([*ADD, "--allowed-ips", "10.86.0.3", "--access", "soon"], "--access: 'soon' is not a time"),
        ([*ADD, "--allowed-ips", "10.86.0.3", "--access", "2001-01-01"], "is in the past"),
        (
            [*ADD, "--allowed-ips", "10.86.0.3", "--preshared-key-file", "/nonexistent"],
            "/nonexistent does not exist",
        ),
        (["peer", "add", "a b", LAPTOP, "--allowed-ips", "10.86.0.3"], "NAME: 'a b' cannot be"),
        (
            ["peer", "add", "tablet", "tablet", "--allowed-ips", "10.86.0.3"],
            "ADDRESS: 'tablet' is not an NKN address",
        ),
        (["peer", "add", "laptop", LAPTOP, "--allowed-ips", "10.86.0.3"], "there is already a peer 'laptop'"),
        (["peer", "set", "laptop"], "nothing to change: give an option"),
        (["peer", "set", "laptpo", "--allow", "none"], "there is no peer 'laptpo': did you mean 'laptop'?"),
        (
            ["peer", "set", "laptpo", "--add-allow", "10.9.0.1"],
            "there is no peer 'laptpo': did you mean 'laptop'?",
        ),
        (
            ["peer", "set", "laptop", "--allow", "none", "--add-allow", "10.9.0.1"],
            "--allow sets the whole list",
        ),
        (["peer", "set", "laptop", "--remove-allow", "10.9.0.1"], "10.9.0.1 is not in the list"),
        (["peer", "set", "laptop", "--allowed-ips", ","], "--allowed-ips is empty"),
        (["peer", "set", "laptop", "--allowed-ips", "10.86.0.1"], "is this interface's own address"),
        (["peer", "set", "laptop", "--name", ""], "--name: '' cannot be"),
        (
            ["peer", "set", "laptop", "--no-preshared-key", "--preshared-key-file", "x"],
            "contradict each other",
        ),
        (["peer", "show", "laptpo"], "did you mean 'laptop'?"),
        (["peer", "remove", "nobody"], "there is no peer 'nobody': there are laptop"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    run: Run, with_laptop: Path, arguments: list[str], says: str
) -> None:
    before = with_laptop.read_bytes()
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("nconnect: error: ")
    assert result.err.count("\n") == 1
    assert says in result.err
    assert with_laptop.read_bytes() == before
    assert [p.name for p in with_laptop.parent.iterdir()] == ["nc0.toml"]


def test_the_end_of_access_has_one_word(run: Run, with_laptop: Path) -> None:
    """`--expires` is the word for a token."""
    result = run("peer", "set", "laptop", "--expires", "30d")
    assert result.status == 2
    assert "--expires" in result.err


def test_all_mistakes_of_one_command_at_once(run: Run, made: Path) -> None:
    result = run("peer", "add", "a b", "x", "--allowed-ips", "y", "--allow", "z", "--access", "soon")
    assert result.status == 2
    assert len(result.err.splitlines()) == 5


def test_a_file_that_is_wrong_already_is_told_with_its_lines(run: Run, made: Path) -> None:
    made.write_text(made.read_text() + "[network]\nlinks = 99\n")
    result = run("peer", "add", "laptop", LAPTOP, "--allowed-ips", "10.86.0.2")
    assert result.status == 2
    assert f"{made}:11: [network] links: 99 is out of range" in result.err


def test_a_preshared_key_that_others_can_read(run: Run, made: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o644)
    result = run(*ADD, "--allowed-ips", "10.86.0.3", "--preshared-key-file", key)
    assert result.status == 2
    assert f"chmod 600 {key}" in result.err
    key.chmod(0o600)
    key.write_text("secret")
    result = run(*ADD, "--allowed-ips", "10.86.0.3", "--preshared-key-file", key)
    assert "must be 32 bytes" in result.err
    assert "secret" not in result.err


def test_no_configuration(run: Run, config_path: Path) -> None:
    for command in (["peer", "list"], ["address"], ["up"], [*ADD, "--allowed-ips", "10.86.0.3"]):
        result = run(*command)
        assert result.status in (1, 2)
        assert result.err.count("\n") == 1
    assert not config_path.parent.exists()
