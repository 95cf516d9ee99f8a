"""The daemon keeps one capability of root's rights, and everything that it does later works with that.

user ── node ── provider ── server
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.pictures import has_live_line
from lab.process import until
from lab.sides import Side
from lab.terminal import on_terminal
from lab.traffic import SERVICE, pings, reaches
from lab.world import PROVIDER_PEER, SERVER, USER_PEER, World
from nconnect.io.files.user import daemon_account
from netns_tests.topology import Provided, provided

NET_ADMIN = 1 << 12


def test_every_task_has_one_capability_and_gets_no_other(tunnel: Provided) -> None:
    for side in (tunnel.world.user_side, tunnel.world.provider_side):
        assert side.daemon is not None
        tasks = list(Path(f"/proc/{side.daemon.pid}/task").iterdir())
        assert len(tasks) > 1, "threads have been started"
        for task in tasks:
            status = _fields(task / "status")
            for name in ("CapEff", "CapPrm", "CapBnd"):
                assert int(status[name], 16) == NET_ADMIN, (name, status)
            assert int(status["CapInh"], 16) | int(status["CapAmb"], 16) in (0, NET_ADMIN)
            assert status["NoNewPrivs"] == "1"
        limits = Path(f"/proc/{side.daemon.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


def test_it_runs_as_its_own_user_where_that_exists(tunnel: Provided) -> None:
    user = _user_that_can_run()
    side = tunnel.world.provider_side
    assert side.daemon is not None
    uids = set(_fields(Path(f"/proc/{side.daemon.pid}/status"))["Uid"].split())
    state = Path(side.env["NCONNECT_STATE_DIR"]) / side.interface
    run = Path(side.env["NCONNECT_RUN_DIR"])
    for path in (side.config, side.config.parent, run, state.parent, *run.iterdir()):
        assert path.stat().st_uid == 0, f"{path}: root's folders and files stay root's"
    if user is None:
        assert uids == {"0"}
        assert state.stat().st_uid == 0
        assert "running as root, with CAP_NET_ADMIN alone: " in side.logs()
    else:
        assert uids == {str(user)}
        assert state.stat().st_uid == user
        assert "running as nconnect, with CAP_NET_ADMIN alone" in side.logs()


def test_another_user_is_not_let_in(tunnel: Provided) -> None:
    """Neither to the control socket, nor to the files, nor to the memory of the process."""
    side = tunnel.world.provider_side
    assert side.daemon is not None
    socket_path = Path(side.env["NCONNECT_RUN_DIR"]) / f"{side.interface}.sock"
    assert socket_path.stat().st_mode & 0o777 == 0o600
    for path in (side.config, Path(f"/proc/{side.daemon.pid}/mem"), Path(f"/proc/{side.daemon.pid}/environ")):
        assert _as_nobody("cat", str(path)).returncode != 0, path
    asks = f"import socket; socket.socket(socket.AF_UNIX).connect({str(socket_path)!r})"
    assert "PermissionError" in _as_nobody("/usr/bin/python3", "-c", asks).stderr


def test_what_it_does_later_works_without_root(fresh: World) -> None:
    """Reload, rules, conntrack, an invited device that is written into the file, the end, and a new start."""
    with provided(fresh):
        provider = fresh.provider_side
        before = provider.config.stat().st_uid
        provider.nconnect("peer", "set", USER_PEER, "--allow", f"{SERVER}/icmp")
        assert not reaches(fresh.user, SERVER, SERVICE)
        provider.nconnect("peer", "set", USER_PEER, "--allow", "all")
        assert reaches(fresh.user, SERVER, SERVICE)
        token = json.loads(provider.nconnect("invite", "second", "--json"))["token"]
        second = Side("second", fresh.user, fresh.folder / "second", interface="nc1")
        second.nconnect("join", token, "--accept-routes", "all")  # beside nc0, in its network
        names = [peer["name"] for peer in provider.status()["peers"]]
        assert sorted(names) == sorted([USER_PEER, "second"])
        assert provider.config.stat().st_uid == before, "as it was, whoever changed it last"
        assert provider.config.stat().st_mode & 0o777 == 0o600
        provider.down()
        assert fresh.provider.sysctl("net.ipv4.ip_forward") == "0", "taken back"
        provider.start()
        provider.wait()
        fresh.user_side.wait(PROVIDER_PEER)
        until(lambda: pings(fresh.user, SERVER), "a ping's answer")


def test_up_in_a_terminal_shows_the_state_after_it_gave_up_root(fresh: World) -> None:
    """The control socket is root's, so the daemon asks itself and not the socket."""
    with provided(fresh):
        user = fresh.user_side
        user.down()
        up = fresh.user.command(user.command("up"))
        on_terminal(
            up, env=user.env, ends=has_live_line, key="\x03", timeout_s=60
        )  # raises if it never shows


def test_root_takes_back_what_a_killed_daemon_left(fresh: World) -> None:
    with provided(fresh):
        provider = fresh.provider_side
        assert provider.daemon is not None
        provider.daemon.kill()
        assert fresh.provider.sysctl("net.ipv4.ip_forward") == "1"
        assert "what a killed daemon had left is removed" in provider.nconnect("down")
        assert fresh.provider.sysctl("net.ipv4.ip_forward") == "0"


def _user_that_can_run() -> int | None:
    """The daemon's user id, if the user exists here and can enter the folders of this Python."""
    user = daemon_account()
    if user is None:
        return None
    folders = [entry for entry in sys.path if os.path.isdir(entry)]
    code = "import os, sys; sys.exit(not all(os.access(p, os.X_OK) for p in sys.argv[1:]))"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, *folders],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        check=False,
    )
    return user.uid if done.returncode == 0 else None


def _as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
    )


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


if not Path("/usr/bin/python3").exists():
    pytest.skip("needs the system's Python", allow_module_level=True)
