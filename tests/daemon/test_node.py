"""`nconnect node` as a process: it listens, says so, and ends cleanly."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nconnect.control.node_client import running_nodes
from nconnect.daemon.node import run, settings_of
from nconnect.errors import HostError
from nconnect.model import NodeConfig

PROGRAM = """
import logging, sys
from pathlib import Path
from nconnect.daemon.node import run
from nconnect.model import NodeConfig
logging.basicConfig(level=logging.INFO, format="%(message)s")
files = {name: Path(path) for name, path in (item.split("=") for item in sys.argv[1:])}
sys.exit(run(NodeConfig("127.0.0.1", 0, 0, verify_signatures=True), **files))
"""

ONE_PORT = """
import os, signal, sys
from nconnect.daemon.node import run
from nconnect.model import NodeConfig

def ready(server):
    print(server.public_key.hex(), server.seed_url(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

config = NodeConfig.of("127.0.0.1", port=0, ws_port=None, rpc_port=None, tls=bool(sys.argv[1]))
sys.exit(run(config, keep_state=True, on_ready=ready))
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(folder))
    return folder


@contextmanager
def node(**files: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [f"{name}={path}" for name, path in files.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def listening(process: subprocess.Popen[str]) -> tuple[int, int]:
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"websocket port (\d+), RPC port (\d+), verifying signatures", line)
    assert found, line
    assert process.stderr.readline() == f"clients find it with --seed-rpc http://127.0.0.1:{found[2]}\n"
    return int(found.group(1)), int(found.group(2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with node(stats_file=tmp_path / "stats.json") as process:
        ws_port, rpc_port = listening(process)
        for port in (ws_port, rpc_port):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        process.send_signal(number)
        out, errors = process.communicate(timeout=10)
        assert (process.returncode, out, errors) == (0, "", "")
        stats = json.loads((tmp_path / "stats.json").read_text())
        assert stats["clients"] == stats["messages"] == stats["bytes"] == 0
        assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]


def test_its_key_is_kept_in_the_seed_file(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    seeds = []
    for _ in range(2):
        with node(seed_file=path) as process:
            listening(process)
            process.terminate()
            process.communicate(timeout=10)
        seeds.append(path.read_text())
    assert seeds[0] == seeds[1]
    assert len(bytes.fromhex(seeds[0].strip())) == 32
    assert path.stat().st_mode & 0o777 == 0o600


def test_stats_on_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    with node(stats_file=path) as process:
        listening(process)
        assert not path.exists()
        process.send_signal(signal.SIGUSR1)
        process.terminate()
        process.communicate(timeout=10)
        assert json.loads(path.read_text())["drops"] == {}


def test_an_address_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port}") as caught:
            run(NodeConfig("127.0.0.1", 0, port))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "zz", "ab" * 31, "\xff"])
def test_a_seed_file_that_holds_no_key_is_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "seed"
    path.write_text(content)
    with pytest.raises(HostError, match="does not hold a key"):
        run(NodeConfig("127.0.0.1", 0, 0), seed_file=path)
    assert path.read_text() == content


def test_a_seed_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot write"):
        run(NodeConfig("127.0.0.1", 0, 0), seed_file=tmp_path / "missing" / "seed")


def kept(folder: Path, *, tls: bool = False) -> tuple[str, str]:
    """The key and the seed URL of a node that keeps its state in this folder."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_PORT, "tls" if tls else ""],
        env={**os.environ, "NCONNECT_STATE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    key, url = done.stdout.split()
    return key, url


def test_key_and_certificate_stay_in_the_state_folder(tmp_path: Path) -> None:
    first, second = kept(tmp_path, tls=True), kept(tmp_path, tls=True)
    assert first[0] == second[0]
    assert first[1].startswith("https://127.0.0.1:")
    assert first[1].partition("#")[2] == second[1].partition("#")[2]
    folder = tmp_path / "standalone-node-0"
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "seed": 0o600,
        "tls.pem": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_two_nodes_do_not_share_a_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path)
    fd = os.open(tmp_path / "standalone-node-0", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert kept(tmp_path)[0] != kept(tmp_path)[0]
        monkeypatch.setenv("NCONNECT_STATE_DIR", str(tmp_path))
        with pytest.raises(HostError, match="another node uses the state folder"):
            run(NodeConfig.of("127.0.0.1", port=0, ws_port=None, rpc_port=None, tls=True), keep_state=True)
    finally:
        os.close(fd)


def test_settings_follow_the_configuration() -> None:
    assert settings_of(NodeConfig("::", verify_signatures=True)).verify_signatures
    assert not settings_of(NodeConfig("::")).verify_signatures


def test_it_answers_for_its_status_and_leaves_no_socket(own_folders: Path) -> None:
    with node() as process:
        ws_port, rpc_port = listening(process)
        (status,) = running_nodes()
        assert (status.pid, status.ws_port, status.rpc_port) == (process.pid, ws_port, rpc_port)
        assert (status.clients, status.messages, status.wss_port) == (0, 0, None)
        path = own_folders / "nodes" / f"{process.pid}.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        process.terminate()
        assert process.wait(timeout=10) == 0
        assert not path.exists()
    assert running_nodes() == []


def test_what_a_killed_node_left_behind_is_removed_by_the_next(own_folders: Path) -> None:
    with node() as killed:
        listening(killed)
        killed.kill()
        killed.wait(timeout=10)
    assert running_nodes() == []
    assert len(list((own_folders / "nodes").iterdir())) == 1
    with node() as process:
        listening(process)
        assert [path.stem for path in (own_folders / "nodes").iterdir()] == [str(process.pid)]
        process.terminate()
        process.wait(timeout=10)


def test_it_runs_without_a_place_for_its_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "file" / "run"))
    with node() as process:
        assert process.stderr is not None
        assert "status` will not find this node" in process.stderr.readline()
        listening(process)
        process.terminate()
        assert process.wait(timeout=10) == 0


def test_it_keeps_no_capability_in_any_thread() -> None:
    with node() as process:
        ws_port, _ = listening(process)
        socket.create_connection(("127.0.0.1", ws_port), timeout=5).close()
        running_nodes()
        tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
        assert tasks
        for task in tasks:
            fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                assert int(fields[name], 16) == 0, f"{name} of {task}"
            if os.geteuid() == 0:
                assert int(fields["CapBnd"], 16) == 0
            assert fields["NoNewPrivs"].strip() == "1"
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
        assert core[4:6] == ["0", "0"]
        process.terminate()
        assert process.wait(timeout=10) == 0
