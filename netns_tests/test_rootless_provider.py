"""A provider without root: peers reach what is provided, as far as the rules go, and no more of the machine.

user ──────────── internet ──────────── provider (uid 61234) ──────────── server
10.86.0.2         node                  a namespace of its own:           192.168.50.10
                                        10.86.0.1                         servers on 7000, 7001
                                        lan 192.168.50.1
                                        servers on 7000 (a service), 7001, loopback 7002 (exposed)
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.process import until
from lab.rootless import UID, RootlessSide
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, connect, reaches, serve, tcp_echo, udp_echo
from lab.world import PROVIDER_LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SERVER, SERVER6, USER_PEER, World, world
from netns_tests.topology import CLOSED

EXPOSED, HIDDEN, UNUSED = 7002, 7003, 7004
REVOKED_S = 2.0  # of silence; what is on its way still arrives

with_pasta = pytest.mark.skipif(shutil.which("pasta") is None, reason="needs passt")


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("ncrprov") as found:
        found.folder.chmod(0o755)
        serve(found.server, found, SERVICE, CLOSED)
        serve(found.provider, found, SERVICE, CLOSED)
        for port in (EXPOSED, HIDDEN):
            command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
            found.run_in(found.provider, command, f"loopback-{port}")
            until(lambda port=port: found.provider.listens(port), "the server on loopback")
        before = snapshot(found.provider)
        found.provider_side = RootlessSide("provider", found.provider, found.folder / "provider", uid=UID + 2)
        found.configure(services=[f"{SERVICE}/tcp"])
        found.node.start()
        found.up()
        found.provider_side.nconnect("provide", "add", "--expose", f"127.0.0.1:{EXPOSED}")
        assert not differences(before, snapshot(found.provider)), "while it is up"
        yield found
        found.provider_side.down()
        assert not differences(before, snapshot(found.provider))


def test_the_subnet_is_reached(made: World) -> None:
    for host in (SERVER, SERVER6):
        data = os.urandom(4 << 20)
        assert tcp_echo(made.user, host, SERVICE, data) == data


@with_pasta
def test_the_subnet_is_reached_by_udp(made: World) -> None:
    assert udp_echo(made.user, SERVER, SERVICE, b"hello") == b"hello"


def test_tcp_and_its_ends_are_carried_as_they_are(made: World) -> None:
    with connect(made.user, SERVER, SERVICE) as asked:
        asked.sendall(b"echo\nfirst")
        asked.shutdown(socket.SHUT_WR)
        assert read_all(asked) == b"first", "what comes after the end of our own direction"
    with pytest.raises(ConnectionResetError):
        ask_nobody(made)
    assert reaches(made.user, SERVER, SERVICE)


def test_nothing_needs_to_be_installed_for_tcp() -> None:
    with world("ncrbare") as found:
        found.folder.chmod(0o755)
        serve(found.server, found, SERVICE, CLOSED)
        found.provider_side = RootlessSide("provider", found.provider, found.folder / "provider", uid=UID + 2)
        found.provider_side.env["NCONNECT_PASTA"] = "/nonexistent"
        found.configure()
        found.node.start()
        found.up()
        assert tcp_echo(found.user, SERVER, SERVICE, b"hello") == b"hello"
        assert tcp_echo(found.user, SERVER6, SERVICE, b"hello") == b"hello"
        found.provider_side.nconnect("peer", "set", USER_PEER, "--allow", f"{SERVER}:{CLOSED}/tcp")
        assert not reaches(found.user, SERVER, SERVICE)
        assert reaches(found.user, SERVER, CLOSED)


def test_of_the_machine_itself_only_what_is_allowed(made: World) -> None:
    until(lambda: reaches(made.user, PROVIDER_TUNNEL, SERVICE), "the service")
    until(lambda: reaches(made.user, PROVIDER_TUNNEL, EXPOSED), "the exposed server")
    for host in (PROVIDER_TUNNEL, PROVIDER_LAN):
        for port in (CLOSED, HIDDEN):
            assert not reaches(made.user, host, port), f"{host} port {port}"
    assert not reaches(made.user, PROVIDER_LAN, EXPOSED)


def test_a_right_that_is_taken_away_ends_what_it_allowed(made: World) -> None:
    with connect(made.user, SERVER, SERVICE) as open_one:
        open_one.sendall(b"source %d\n" % (1 << 40))
        open_one.recv(1)
        open_one.settimeout(REVOKED_S)
        made.provider_side.nconnect("peer", "set", USER_PEER, "--allow", f"{SERVER}:{CLOSED}/tcp")
        with pytest.raises(ConnectionError):
            read_all(open_one)
        assert not reaches(made.user, SERVER, SERVICE)
        assert not reaches(made.user, PROVIDER_TUNNEL, SERVICE)
        assert reaches(made.user, SERVER, CLOSED)
        made.provider_side.nconnect("peer", "set", USER_PEER, "--allow", "all")
        assert reaches(made.user, SERVER, SERVICE)


def test_what_dials_ends_with_the_daemon_and_comes_back(made: World) -> None:
    (pid,) = dialling(made)
    os.kill(pid, signal.SIGKILL)
    made.provider_side.nconnect("reload")
    assert reaches(made.user, SERVER, SERVICE)
    (pid,) = dialling(made)
    assert made.provider_side.daemon is not None
    made.provider_side.daemon.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of what dials")
    made.provider_side.start()
    made.provider_side.wait(USER_PEER)
    until(lambda: reaches(made.user, SERVER, SERVICE), "the server")


def dialling(made: World) -> list[int]:
    """The processes of the provider's that dial for its peers."""
    found = made.provider.must("ip", "netns", "pids", made.provider.name).split()
    return [int(pid) for pid in found if "dial_out" in command_of(pid)]


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:  # it has ended
        return ""


def ask_nobody(made: World) -> bytes:
    """The kernel accepts it before the server can refuse, so the reset may come before or after that."""
    with connect(made.user, SERVER, UNUSED) as refused:
        return refused.recv(1)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(1 << 16):
        found += data
    return found


def test_usage_is_counted(made: World) -> None:
    until(lambda: made.provider_side.peer()["usage"]["day"]["rx_bytes"] > 0, "bytes that the peer sent")
    assert made.user_side.peer()["name"] == PROVIDER_PEER
