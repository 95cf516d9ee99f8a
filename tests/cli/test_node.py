from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from nconnect.cli.node import node_status_text
from nconnect.control.node import NodeStatus
from nconnect.model import NodeConfig
from nconnect.node.settings import NodeSettings
from nconnect.wire.actions import Waiver
from tests.cli.conftest import Run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NodeConfig, dict[str, Any]]]:
    calls: list[tuple[NodeConfig, dict[str, Any]]] = []

    def run(config: NodeConfig, **how: Any) -> int:
        calls.append((config, how))
        return 0

    module = types.ModuleType("nconnect.daemon.node")
    module.run = run  # type: ignore[attr-defined]
    module.settings_of = lambda config: NodeSettings(verify_signatures=config.verify_signatures)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nconnect.daemon.node", module)
    monkeypatch.setattr("nconnect.cli.logs.log_to_stderr", lambda **how: None)
    return calls


def test_the_official_ports(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]]) -> None:
    assert run("node", "--listen", "0.0.0.0").status == 0
    config, how = started[0]
    assert config == NodeConfig("0.0.0.0", 30002, 30003, stun_ports=None)
    assert how == {
        "settings": NodeSettings(),
        "seed_file": None,
        "stats_file": None,
        "capture_file": None,
        "cluster": None,
        "cluster_key": None,
        "keep_state": True,
    }


def test_everything(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]], tmp_path: Path) -> None:
    result = run(
        "node", "--listen", "::", "--ws-port", "0", "--rpc-port", "0", "--advertise", "node.example",
        "--verify-signatures", "--reorder", "--stats-file", tmp_path / "s", "--capture-file", tmp_path / "c",
    )  # fmt: skip
    assert result.status == 0, result.err
    config, how = started[0]
    assert config == NodeConfig("::", 0, 0, "node.example", True)
    assert how["settings"] == NodeSettings(verify_signatures=True, reorder=True)
    assert (how["stats_file"], how["capture_file"]) == (tmp_path / "s", tmp_path / "c")


def test_what_tests_need_is_hidden(run: Run) -> None:
    shown = run("node", "--help").out
    assert "--advertise" in shown
    assert "--reorder" not in shown


def test_tls_and_limits(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]], tmp_path: Path) -> None:
    result = run(
        "node", "--listen", "::", "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key",
        "--wss-port", "443", "--rate-limit", "0", "--require-signatures",
    )  # fmt: skip
    assert result.status == 0, result.err
    config, how = started[0]
    assert (config.tls_cert, config.tls_key) == (tmp_path / "cert", tmp_path / "key")
    assert (config.wss_port, config.https_port) == (443, 30005)
    assert how["settings"].rate_per_s is None
    assert how["settings"].rpc_rate_per_s is None
    assert how["settings"].waives == {Waiver.MASK}


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        (["--port", "443", "--tls"], {"port": 443}),
        (["--port", "8080"], {"port": 8080}),
        (["--port", "443", "--tls", "--rpc-port", "30003"], {"port": 443, "rpc_port": 30003}),
        (["--tls"], {"ws_port": 30002, "rpc_port": 30003, "wss_port": 30004, "https_port": 30005}),
        (["--port", "443", "--tls", "--wss-port", "30004"], {"port": 443, "wss_port": 30004}),
    ],
)
def test_one_port_in_place_of_the_others(
    run: Run,
    started: list[tuple[NodeConfig, dict[str, Any]]],
    arguments: list[str],
    ports: dict[str, int],
) -> None:
    result = run("node", "--listen", "::", *arguments)
    assert result.status == 0, result.err
    assert started[0][0].ports() == ports
    assert started[0][0].has_tls == ("--tls" in arguments)


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        ([], None),  # 30006 and 30007, where they are free
        (["--stun-ports", "0"], ()),
        (["--stun-ports", "3478,3479"], (3478, 3479)),
        (["--port", "443", "--tls"], ()),  # that port alone
        (["--rpc-port", "40003"], ()),  # it may be the second node on its machine
        (["--port", "443", "--stun-ports", "443,444"], (443, 444)),  # UDP: not the same port
    ],
)
def test_stun_ports(
    run: Run,
    started: list[tuple[NodeConfig, dict[str, Any]]],
    arguments: list[str],
    ports: tuple[int, ...] | None,
) -> None:
    result = run("node", "--listen", "::", *arguments)
    assert result.status == 0, result.err
    assert started[0][0].stun_ports == ports


def test_a_rate_has_a_burst_in_proportion(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]]) -> None:
    assert run("node", "--listen", "::", "--rate-limit", "25").status == 0
    settings = started[0][1]["settings"]
    assert (settings.rate_per_s, settings.burst) == (25.0, 250)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "missing option '--listen'"),
        (["--listen", "::", "--tls-key", "k"], "--tls-key without --tls-cert"),
        (
            ["--listen", "::", "--tls-cert", "c", "--wss-port", "30002"],
            "--ws-port and --wss-port are both 30002",
        ),
        (["--listen", "::", "--rate-limit", "-1"], "'--rate-limit'"),
        (["--listen", "::", "--port", "30002", "--ws-port", "30002"], "--port and --ws-port are both 30002"),
        (["--listen", "::", "--port", "443", "--wss-port", "30004"], "--wss-port without TLS"),
        (["--listen", "::", "--port", "65536"], "'--port'"),
        (["--listen", "::", "--stun-ports", "30006"], "--stun-ports: must be two different ports"),
        (["--listen", "::", "--stun-ports", "7,x"], "--stun-ports: must be two different ports"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, arguments: list[str], said: str) -> None:
    result = run("node", *arguments)
    assert result.status == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_status_without_a_node(run: Run) -> None:
    result = run("node", "status")
    assert (result.status, result.out) == (1, "")
    assert "no node runs here" in result.err
    assert "RPC port 7" in run("node", "status", "--rpc-port", "7").err


def status(pid: int, rpc_port: int) -> NodeStatus:
    return NodeStatus(
        pid, "0.1.0", "0.0.0.0", 30002, rpc_port, "ab" * 32, 3700.0, 5, 4, 1000, 1 << 20, 2, 2048, 0, 3,
        drops={"unknown_dest": 2, "queue_full": 3},
    )  # fmt: skip


def test_status_as_json_and_of_one_of_several(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [status(7, 30003), status(8, 30013)]
    monkeypatch.setattr("nconnect.control.node_client.running_nodes", lambda: nodes)
    assert "RPC ports 30003, 30013: choose one with --rpc-port" in run("node", "status").err
    result = run("node", "status", "--rpc-port", "30013", "--json")
    assert result.status == 0
    shown = json.loads(result.out)
    assert (shown["pid"], shown["clients"], shown["queue_drops"], shown["held_messages"]) == (8, 4, 3, 2)
    assert shown["wss_port"] is None


def test_status_of_a_node_with_one_port(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://node.example:443#sha256=" + "cd" * 32
    node = NodeStatus(
        7, "0.1.0", "0.0.0.0", None, None, "ab" * 32, 1.0, 0, 0, 0, 0, 0, 0, 0, 0,
        wss_port=443, https_port=443, port=443, fingerprint="cd" * 32, seed_url=url,
        stun={"ports": [30006, 30007], "answers": 12, "drops": {"malformed": 2, "rate_limited": 1}},
    )  # fmt: skip
    monkeypatch.setattr("nconnect.control.node_client.running_nodes", lambda: [node, status(8, 30003)])
    assert "RPC ports 443, 30003: choose one" in run("node", "status").err
    shown = json.loads(run("node", "status", "--rpc-port", "443", "--json").out)
    assert (shown["fingerprint"], shown["port"], shown["rpc_port"]) == ("cd" * 32, 443, None)
    lines = node_status_text(node).splitlines()
    assert lines[1:3] == ["listens     0.0.0.0 port 443 (wss, https)", f"seed        {url}"]


def test_status_for_a_person() -> None:
    assert node_status_text(status(7, 30003)).splitlines() == [
        "node 7 is running for 1 h 1 min",
        "listens     0.0.0.0 ports 30002 (ws), 30003 (rpc)",
        "public key  " + "ab" * 32,
        "clients     4 (5 connections, 0 logins so far)",
        "relayed     1000 messages, 1.0 MiB",
        "held        2 messages, 2.0 KiB, for clients that are offline",
        "queued      0 B, 3 messages dropped so far",
        "dropped     queue_full 3, unknown_dest 2",
    ]


def test_shares_and_memory_are_settings(run: Run, started: list[tuple[NodeConfig, dict[str, Any]]]) -> None:
    arguments = ("--connections-per-address", "200", "--queue-mb", "48", "--mail-mb", "0")
    assert run("node", "--listen", "::", *arguments).status == 0
    config = started[0][0]
    assert (config.connections_per_address, config.queue_mb, config.mail_mb) == (200, 48, 0)
    assert "'--queue-mb'" in run("node", "--listen", "::", "--queue-mb", "1").err
