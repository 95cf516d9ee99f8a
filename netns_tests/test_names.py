"""Names of peers resolve on each side: by the hosts file, which is a mount point there, or by a resolver that
stands in for systemd-resolved. Every namespace has files of its own.

user ── node ── provider
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.netns import Namespace
from lab.process import Process, until
from lab.resolve1 import bus_configuration
from lab.world import PROVIDER_PEER, PROVIDER_TUNNEL, PROVIDER_TUNNEL6, SERVER, USER_TUNNEL, World

NAME, FROM_PROVIDER = f"{PROVIDER_PEER}.internal", "laptop.internal"

WITHDRAWN_S = 1.0
LOADED = 4  # a machine that runs other tests too


def hosts(namespace: Namespace) -> str:
    return Path("/etc/netns", namespace.name, "hosts").read_text()


def resolved(namespace: Namespace, name: str) -> list[str]:
    """What a program in the namespace finds."""
    done = namespace.run(["getent", "ahosts", name])
    return sorted({line.split()[0] for line in done.stdout.splitlines()})


@pytest.fixture
def running(shared: World) -> World:
    until(lambda: NAME in hosts(shared.user), "the names to be written")
    return shared


def test_each_side_resolves_the_other_and_says_so(running: World) -> None:
    assert resolved(running.user, NAME) == sorted([PROVIDER_TUNNEL, PROVIDER_TUNNEL6])
    assert running.user.must("ping", "-c1", "-W3", NAME)
    until(lambda: FROM_PROVIDER in hosts(running.provider), "the provider's names")
    assert USER_TUNNEL in resolved(running.provider, FROM_PROVIDER)
    status = running.user_side.status()
    assert status["names"] == {NAME: [PROVIDER_TUNNEL, PROVIDER_TUNNEL6]}
    assert status["names_by"] == "hosts"
    assert NAME not in Path("/etc/hosts").read_text(), "no test edits this machine's"


def test_what_somebody_removes_comes_back(running: World) -> None:
    path = Path("/etc/netns", running.user.name, "hosts")
    before = path.stat().st_ino
    path.write_text("127.0.0.1 localhost\n192.168.7.7 printer\n")
    until(lambda: NAME in path.read_text(), "the names to be written again")
    assert path.read_text().startswith("127.0.0.1 localhost\n192.168.7.7 printer\n# nconnect nc0 begin")
    assert path.stat().st_ino == before, "a mount point is rewritten in place"


def test_names_can_be_switched_off_by_a_reload(running: World) -> None:
    side = running.user_side
    text = side.config.read_text()
    side.config.write_text(text.replace("[interface]\n", "[interface]\nnames = false\n", 1))
    try:
        side.nconnect("reload")
        until(lambda: "nconnect" not in hosts(running.user), "the names to go")
        assert side.status()["names"] == {}
    finally:
        side.config.write_text(text)
    side.nconnect("reload")
    until(lambda: NAME in hosts(running.user), "the names to come back")


def test_a_killed_daemon_s_helper_takes_the_names_back(running: World) -> None:
    side, namespace = running.user_side, running.user
    daemon = side.daemon
    assert daemon is not None
    before = hosts(namespace).partition("# nconnect")[0]
    daemon.signal(signal.SIGKILL)
    daemon.wait(5)
    until(lambda: hosts(namespace) == before, "the names to go")
    side.start()
    side.wait(PROVIDER_PEER)
    until(lambda: NAME in hosts(namespace), "the names to come back")


def test_names_of_a_daemon_that_was_killed_with_its_helper_go_at_the_next_start(running: World) -> None:
    side, namespace = running.user_side, running.user
    assert side.daemon is not None
    for pid in _family(side.daemon):
        os.kill(pid, signal.SIGKILL)
    side.daemon.wait(5)
    assert NAME in hosts(namespace)
    side.nconnect("down")
    assert "nconnect" not in hosts(namespace)
    side.start()
    side.wait(PROVIDER_PEER)
    until(lambda: NAME in hosts(namespace), "the names to come back")
    side.down()
    assert "nconnect" not in hosts(namespace), "gone when `down` returns"
    side.start()
    side.wait(PROVIDER_PEER)


@pytest.mark.slow
def test_a_hosts_file_that_cannot_be_written_is_said_and_the_tunnel_works(running: World) -> None:
    side, namespace = running.user_side, running.user
    side.down()
    read_only = 'mount -o remount,bind,ro /etc/hosts && exec "$@"'
    side.start(prefix=["sh", "-ec", read_only, "sh"])
    side.wait(PROVIDER_PEER)
    until(
        lambda: any("names of peers do not resolve" in each for each in side.status()["problems"]), "status"
    )
    assert any("/etc/hosts: read-only file system" in each for each in side.status()["problems"])
    assert side.status()["names"] == {}
    namespace.must("ping", "-c1", "-W3", PROVIDER_TUNNEL)
    side.down()
    side.start()
    side.wait(PROVIDER_PEER)


@pytest.mark.slow
def test_a_machine_without_a_hosts_file_has_none_afterwards(running: World) -> None:
    """As a minimal Debian 12 is."""
    side, etc = running.user_side, running.folder / "etc"
    side.down()
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    (etc / "hosts").unlink()
    without = f'umount /etc/hosts; mount --bind {etc} /etc; exec "$@"'
    side.start(prefix=["unshare", "-m", "sh", "-ec", without, "sh"])
    side.wait(PROVIDER_PEER)
    until(lambda: (etc / "hosts").exists() and NAME in (etc / "hosts").read_text(), "the names")
    side.down()
    assert not (etc / "hosts").exists()
    side.start()
    side.wait(PROVIDER_PEER)


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon")
def test_systemd_resolved_asks_the_daemon_for_names_of_peers_and_no_others(running: World) -> None:
    side, namespace = running.user_side, running.user
    side.down()
    with port_53_taken(namespace), resolver(running, namespace) as (process, env):
        side.start(env=env)
        side.wait(PROVIDER_PEER)
        until(lambda: side.status()["names_by"] == "systemd-resolved", "status to say it", process=process)
        assert NAME not in hosts(namespace)
        assert resolved(namespace, NAME) == sorted([PROVIDER_TUNNEL, PROVIDER_TUNNEL6])
        for other in ("metadata.google.internal", "attic.internal", "example.com", "internal"):
            assert resolved(namespace, other) == []
        assert resolved(namespace, f"vllm.{NAME}") == [], "asked, and does not exist"
        said = [json.loads(line) for line in process.text().splitlines() if line.startswith("[")]
        asked = {line[1] for line in said if line[0] == "asks"}
        assert asked == {NAME, f"vllm.{NAME}"}
        (domains,) = {line[1] for line in said if line[0] == "SetLinkDomains"}
        assert f"[('{NAME}', True)]" in domains, "routing-only"
        assert ["SetLinkDefaultRoute", False] in [[line[0], "True" in str(line[1:])] for line in said]
        side.down()
        until(lambda: "RevertLink" in process.text(), "the names to be taken back")
    side.start()
    side.wait(PROVIDER_PEER)
    until(lambda: NAME in hosts(namespace), "the hosts file without a resolver")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon")
def test_with_another_resolver_names_are_in_the_hosts_file_and_its_configuration_stays(
    running: World,
) -> None:
    """A message bus without systemd-resolved on it, and a name server of its own at port 53."""
    side, namespace = running.user_side, running.user
    side.down()
    with port_53_taken(namespace), resolver(running, namespace, is_systemd=False) as (_, env):
        configuration = Path("/etc/netns", namespace.name, "resolv.conf").read_text()
        side.start(env=env)
        side.wait(PROVIDER_PEER)
        until(lambda: NAME in hosts(namespace), "the names")
        assert side.status()["names_by"] == "hosts"
        assert resolved(namespace, NAME) == sorted([PROVIDER_TUNNEL, PROVIDER_TUNNEL6])
        assert Path("/etc/netns", namespace.name, "resolv.conf").read_text() == configuration
        side.down()
        assert NAME not in hosts(namespace)
    side.start()
    side.wait(PROVIDER_PEER)


@contextmanager
def port_53_taken(namespace: Namespace) -> Iterator[None]:
    """By a name server that somebody else runs, and that answers nothing."""
    kinds = socket.SOCK_DGRAM, socket.SOCK_STREAM
    udp, tcp = (namespace.socket(socket.AF_INET, kind) for kind in kinds)
    with udp, tcp:
        for sock in (udp, tcp):
            sock.bind(("127.0.0.1", 53))
        tcp.listen()
        yield


@contextmanager
def resolver(
    world: World, namespace: Namespace, *, is_systemd: bool = True
) -> Iterator[tuple[Process, dict[str, str]]]:
    """A bus and the resolver on it, which the namespace's programs ask; or the bus alone."""
    folder = world.folder / ("resolver" if is_systemd else "other")
    folder.mkdir()
    bus = folder / "bus"
    (folder / "bus.conf").write_text(bus_configuration(bus))
    env = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
    command = ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--nopidfile"]
    daemon = Process(namespace, command, folder / "bus.log")
    programs = [daemon]
    namespace.etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")
    try:
        until(bus.exists, "the bus", process=daemon)
        if not is_systemd:
            yield daemon, env
            return
        process = Process(
            namespace, [sys.executable, "-m", "lab.resolve1", "127.0.0.53"], folder / "resolver.log", env=env
        )
        programs.append(process)
        until(lambda: '["ready"]' in process.text(), "the resolver", process=process)
        yield process, env
    finally:
        for program in reversed(programs):
            program.stop()
        namespace.etc("resolv.conf", "")


def _family(daemon: Process) -> list[int]:
    """The daemon and its helper."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return [*map(int, children), daemon.pid]


@pytest.mark.slow
def test_a_server_has_a_name_within_a_second_and_when_withdrawn_none(running: World) -> None:
    server, provider, user = running.server, running.provider_side, running.user
    web = running.run_in(server, [sys.executable, "-m", "http.server", "8080"], "web")
    name = f"docs.{NAME}"
    until(lambda: server.listens(8080), "the server", process=web)
    provider.nconnect("provide", "server", "add", "docs", f"http://{SERVER}:8080")
    until(lambda: name in hosts(user), "the server's name")
    assert resolved(user, name) == [SERVER]
    assert "Directory listing" in user.must("curl", "-sS", "-m5", f"http://{name}:8080/")
    provider.nconnect("provide", "server", "remove", "docs")
    began = time.monotonic()
    until(lambda: name not in hosts(user), "the name to go")
    took_s = time.monotonic() - began
    assert took_s < LOADED * WITHDRAWN_S, f"{took_s:.2f} s"
    assert NAME in hosts(user)
