"""A tunnel of an ordinary user: `run` reaches what root's tunnel reaches, and nothing of the machine changes.

user (uid 61234)  ──────────── internet ──────────── provider ──────────── server
a namespace of its own:        node                  services 7000         192.168.50.10
10.86.0.2, fd86::2
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.netns import LabError
from lab.process import Process, until
from lab.rootless import UID, RootlessSide
from lab.sides import nconnect_command
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, serve
from lab.world import (
    NODE_HOST,
    PROVIDER_LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SERVER,
    SERVER6,
    USER_TUNNEL,
    World,
    world,
)
from netns_tests.topology import CLOSED

# Connects, sends a line, and prints what comes back.
ECHO = (
    "import socket, sys\n"
    "with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:\n"
    "    print(s.getsockname()[0])"
)


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    """The provider is root's and runs; the user's side is an ordinary user's, and is not started."""
    with world("ncroot") as found:
        found.folder.chmod(0o755)
        serve(found.server, found, SERVICE, CLOSED)
        serve(found.provider, found, SERVICE, CLOSED)
        found.user_side = RootlessSide("user", found.user, found.folder / "user")
        found.configure(services=[f"{SERVICE}/tcp"])
        found.node.start()
        found.provider_side.start()
        found.provider_side.wait()
        yield found


@pytest.fixture
def side(made: World) -> Iterator[RootlessSide]:
    """Up. Afterwards the machine must be as before, with all processes gone."""
    found = made.user_side
    assert isinstance(found, RootlessSide)
    before = snapshot(made.user)
    found.start()
    try:
        found.wait(PROVIDER_PEER)
        assert not differences(before, snapshot(made.user)), "while it is up"
        yield found
        assert not differences(before, snapshot(made.user))
        if found.daemon is not None:
            found.down()
    finally:
        found.stop()
    assert not differences(before, snapshot(made.user))
    assert processes() == []
    assert not list(Path(found.env["NCONNECT_RUN_DIR"]).iterdir())


def processes(uid: int = UID) -> list[int]:
    """Those of the user, on the whole machine."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            status = (path / "status").read_text() if path.name.isdecimal() else ""
            if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
                found.append(int(path.name))
        except OSError:
            continue
    return found


def connected(side: RootlessSide, host: str, port: int) -> bool:
    return side.run("python3", "-c", ECHO, host, str(port)).returncode == 0


def test_what_the_tunnel_reaches_and_what_it_refuses(side: RootlessSide, made: World) -> None:
    assert side.inside("python3", "-c", ECHO, SERVER, str(SERVICE)).strip() == USER_TUNNEL
    assert side.inside("python3", "-c", ECHO, SERVER6, str(SERVICE)).strip() == "fd86::2"
    name = f"{PROVIDER_PEER}.internal"
    until(lambda: name in side.inside("cat", "/etc/hosts"), "the provider's name")
    assert connected(side, name, SERVICE)
    assert connected(side, PROVIDER_TUNNEL, SERVICE), "a service"
    assert not connected(side, PROVIDER_TUNNEL, CLOSED), "no service"
    assert connected(side, SERVER, CLOSED)
    # A right that is taken away.
    made.provider_side.nconnect("peer", "set", "laptop", "--allow", f"{SERVER}:{SERVICE}/tcp")
    assert connected(side, SERVER, SERVICE)
    assert not connected(side, SERVER, CLOSED)
    # What is outside is not in the tunnel.
    with pytest.raises(LabError):
        made.user.must("python3", "-c", ECHO, SERVER, str(SERVICE))


def test_a_command_has_the_user_s_rights_and_no_more(side: RootlessSide, made: World) -> None:
    assert side.inside("id", "-u").strip() == str(UID)
    said = side.inside("cat", "/proc/self/status")
    sets = [line.split()[1] for line in said.splitlines() if line.startswith("Cap")]
    assert len(sets) == 5
    assert set(sets) == {"0" * 16}
    assert "NoNewPrivs:\t1" in said
    # Neither the daemon's socket, nor its memory, nor its namespaces, nor the machine's loopback.
    assert side.daemon is not None
    run_folder = side.env["NCONNECT_RUN_DIR"]
    assert sorted(side.inside("ls", run_folder).split()) == ["hosts", "resolv.conf"]
    for pid in processes():
        for name in ("mem", "ns/net", "environ"):
            assert side.run("cat", f"/proc/{pid}/{name}").returncode, f"/proc/{pid}/{name}"
    assert side.run("ip", "address", "add", "10.9.9.9/32", "dev", "lo").returncode
    assert side.run("nft", "list", "tables").returncode
    listener = made.run_in(made.user, ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8099"], "http")
    until(lambda: made.user.listens(8099), "the server on loopback", process=listener)
    assert not connected(side, "127.0.0.1", 8099)
    assert not connected(side, "192.0.0.1", 8099)


def test_the_command_s_status_input_and_signals_are_its_own(side: RootlessSide) -> None:
    assert side.run("sh", "-c", "exit 7").returncode == 7
    assert side.run("cat", input_text="from outside").stdout == "from outside"
    assert side.run("sh", "-c", "kill -TERM $$").returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert side.run("sh", "-c", "pwd").stdout.strip() == os.getcwd()
    missing = side.run("no-such-command")
    assert missing.returncode == 127
    assert "no such command" in missing.stderr
    assert side.run("/etc/passwd").returncode == 126
    nothing = side.run()
    assert nothing.returncode == 2
    assert "COMMAND" in nothing.stderr


@pytest.mark.skipif(shutil.which("pasta") is None, reason="needs passt")
def test_a_command_has_the_ordinary_network_too(side: RootlessSide, made: World) -> None:
    assert connected(side, NODE_HOST, 30003)
    assert not side.status()["problems"]


def test_without_pasta_status_says_what_is_missing(made: World) -> None:
    side = made.user_side
    assert isinstance(side, RootlessSide)
    side.start(env={"NCONNECT_PASTA": "/nonexistent/pasta"})
    try:
        side.wait(PROVIDER_PEER)
        assert [problem for problem in side.status()["problems"] if "install passt" in problem]
        assert connected(side, SERVER, SERVICE)
        assert not connected(side, NODE_HOST, 30003)
        side.down()
    finally:
        side.stop()


@pytest.mark.parametrize("which", ["daemon", "inside"])
def test_a_killed_process_takes_the_others_along(made: World, which: str) -> None:
    side = made.user_side
    assert isinstance(side, RootlessSide)
    before = snapshot(made.user)
    daemon = side.start()
    try:
        side.wait(PROVIDER_PEER)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        victim = daemon.pid if which == "daemon" else int(children[0])
        os.kill(victim, signal.SIGKILL)
        until(lambda: not processes(), "the user's processes to end")
        assert not differences(before, snapshot(made.user))
        daemon.stop()
        side.daemon = None
        side.nconnect("down")
        side.start()
        side.wait(PROVIDER_PEER)
        assert connected(side, SERVER, SERVICE)
        side.down()
    finally:
        side.stop()


def test_refusals_are_one_line(made: World) -> None:
    side = made.user_side
    assert isinstance(side, RootlessSide)
    side.own()

    def refused(*words: str, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, *nconnect_command(), "up", "-c", str(side.config)]
        done = side.namespace.run(side.as_user(*command), env=side.env)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        for word in words:
            assert word in done.stderr

    side.tun_mode = "0600"
    try:
        refused("/dev/net/tun", "permission denied")
    finally:
        side.tun_mode = "0666"
    # A limit of 0, in a user namespace of the test's: that of the machine stays.
    none = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all "$@"'
    apart = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", none, "sh")
    refused("max_user_namespaces is 0", "nconnect forward", prefix=apart)
    assert "not up" in side.run("true").stderr
    assert processes() == []


def test_socks_uses_the_tunnel_that_runs(made: World, side: RootlessSide) -> None:
    """By the control socket: the interface is in another network, and one key logs in once."""
    log = made.folder / "socks.log"
    listener = Process(side.namespace, side.command("socks", "--listen", "1091"), log, env=side.env)
    try:
        until(lambda: "Listening at" in listener.text(), "socks", timeout_s=30, process=listener)
        fetch = (
            "import socket, sys\n"
            "s = socket.create_connection(('127.0.0.1', 1091), 10)\n"
            f"s.sendall(b'CONNECT {SERVER}:{SERVICE} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\nwhoami\\n')\n"
            "got = b''\n"
            "while not got.endswith(sys.argv[1].encode()): got += s.recv(1000) or sys.exit(repr(got))\n"
            "print('served')"
        )
        done = side.namespace.run(side.as_user(sys.executable, "-c", fetch, PROVIDER_LAN))
        assert done.stdout == "served\n", done.stderr + listener.text()
    finally:
        assert listener.stop() == 0


def test_doctor_asks_for_no_rights(made: World) -> None:
    side = made.user_side
    assert isinstance(side, RootlessSide)
    side.own()
    done = side.try_nconnect("doctor", "--json")
    findings = {found["check"]: found for found in json.loads(done.stdout)["findings"]}
    assert findings["privileges"]["level"] == findings["nft"]["level"] == "ok"
    assert "nconnect run" in findings["privileges"]["text"]


def test_an_invitation_is_all_that_a_user_needs(made: World) -> None:
    """Without an option: everything lies in the user's own folders, and `down` leaves the identity alone."""
    side = made.user_side
    assert isinstance(side, RootlessSide)
    home = made.folder / "home"
    home.mkdir()
    os.chown(home, UID, UID)

    def typed(*words: str) -> str:
        command = side.as_user(*nconnect_command(), *words)
        done = made.user.run(command, env={"HOME": str(home)}, timeout_s=60)
        assert not done.returncode, f"{words}: {done.stderr}"
        return done.stdout

    said = made.provider_side.nconnect("invite", "dora")
    token = next(word for word in said.split() if word.startswith("nc1-"))
    assert "nconnect up -d" in typed("join", token)
    typed("up", "-d")
    try:
        assert typed("run", "--", "python3", "-c", ECHO, SERVER, str(SERVICE))
        assert f"{PROVIDER_PEER}  up" in typed("status")
    finally:
        typed("down")
    until(lambda: not processes(), "the user's processes to end")
    kept = [path.relative_to(home) for path in home.rglob("*.toml")]
    assert kept == [Path(".config/nconnect/nc0.toml")]
    assert (home / kept[0]).stat().st_mode & 0o777 == 0o600
    shutil.rmtree(f"/tmp/nconnect-{UID}", ignore_errors=True)
