"""In a container that lacks something, the daemon does without what it can, and names what it needs.

user ── node ── provider ── server

One world for all tests: the node runs, each test starts the daemons. Mounts in a daemon's own mount namespace
make /proc/sys read-only and hide programs and devices. A seccomp filter takes nf_tables away.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from lab.netns import Namespace
from lab.process import until
from lab.sides import Side
from lab.snapshot import differences, snapshot
from lab.traffic import SERVICE, pings, reaches, serve
from lab.world import LAN6, PROVIDER_PEER, PROVIDER_TUNNEL, PROVIDER_TUNNEL6, SERVER, World, world
from netns_tests.test_surroundings import doctor, in_own_mounts

READ_ONLY = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"
WITHOUT_NF_TABLES = [sys.executable, "-m", "netns_tests.without_nf_tables"]
ENTRIES = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6")


@pytest.fixture(scope="module")
def _world() -> Iterator[World]:
    with world("ncbox") as made:
        serve(made.server, made, SERVICE)
        made.configure()
        made.node.start()
        yield made


@pytest.fixture
def shared(_world: World) -> Iterator[World]:
    yield _world
    _world.user_side.stop()
    _world.provider_side.stop()


def start(side: Side, peer: str | None = None, *, prefix: Sequence[str] = ()) -> None:
    side.start(prefix=prefix)
    side.wait(peer)


def refused(side: Side, prefix: Sequence[str]) -> str:
    """The one line with which `up` ends. It must leave nothing behind."""
    before = snapshot(side.namespace)
    done: subprocess.CompletedProcess[str] = side.namespace.run([*prefix, *side.command("up")], env=side.env)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert differences(before, snapshot(side.namespace)) == []
    return done.stderr


def ipv6(namespace: Namespace, value: str) -> None:
    for name in ENTRIES:
        namespace.sysctl(name, value)


def test_with_read_only_settings_a_user_works(shared: World) -> None:
    """As in most containers. What is optional is set over netlink, or not at all."""
    start(shared.provider_side)
    start(shared.user_side, PROVIDER_PEER, prefix=in_own_mounts(READ_ONLY))
    assert pings(shared.user, SERVER)
    assert pings(shared.user, PROVIDER_TUNNEL6)
    assert "fe80" not in shared.user.ip("-6 address show dev nc0"), "over netlink"
    status = shared.user_side.status()
    assert (status["problems"], status["skipped_routes"]) == ([], [])
    shared.user_side.down()


def test_with_read_only_settings_a_provider_names_what_it_needs(shared: World) -> None:
    side = shared.provider_side
    container = in_own_mounts(READ_ONLY)
    assert "--sysctl net.ipv4.ip_forward=1" in refused(side, container)
    said = doctor(side, prefix=container)
    assert "net.ipv4.ip_forward must be 1" in said
    assert "--sysctl net.ipv4.ip_forward=1" in said
    names = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    for name in names:
        side.namespace.sysctl(name, "1")  # from outside, as the message advises
    try:
        start(side, prefix=container)
        start(shared.user_side, PROVIDER_PEER)
        until(lambda: reaches(shared.user, SERVER, SERVICE), "the server")
        assert "must be 1" not in doctor(side, prefix=container)
        side.down()
        assert side.namespace.sysctl(names[0]) == "1", "it is theirs"
    finally:
        for name in names:
            side.namespace.sysctl(name, "0")


def test_without_ipv6_the_tunnel_carries_ipv4(shared: World) -> None:
    side = shared.user_side
    start(shared.provider_side)
    ipv6(shared.user, "1")
    try:
        start(side, PROVIDER_PEER, prefix=in_own_mounts(READ_ONLY))
        assert pings(shared.user, SERVER)
        assert pings(shared.user, PROVIDER_TUNNEL)
        skipped = {entry["route"]: entry["why"] for entry in side.status()["skipped_routes"]}
        assert "--sysctl net.ipv6.conf.all.disable_ipv6=0" in skipped[LAN6]
        side.down()
    finally:
        ipv6(shared.user, "0")


@pytest.mark.parametrize(
    ("prefix", "said", "mend"),
    [
        (in_own_mounts("mount --bind /dev/null /usr/sbin/nft"), "nft is missing", "apt install nftables"),
        (WITHOUT_NF_TABLES, "this kernel has no nf_tables", "modprobe nf_tables"),
        (in_own_mounts("mount -t tmpfs none /dev/net"), "/dev/net/tun does not exist", "tun"),
    ],
    ids=["no nft", "no nf_tables", "no tun"],
)
def test_what_is_needed_and_missing_is_named(shared: World, prefix: list[str], said: str, mend: str) -> None:
    side = shared.user_side
    line = refused(side, prefix)
    assert said in line
    assert mend in line
    findings = doctor(side, prefix=prefix)
    assert said in findings
    assert mend in findings
