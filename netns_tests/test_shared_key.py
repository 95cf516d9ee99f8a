"""One configuration on two devices is reported on all sides; in two files of one device it is refused.

user ── node ── provider
copy ──┘
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.netns import Namespace, cable, namespaces
from lab.process import until
from lab.sides import Side
from lab.traffic import pings
from lab.world import PROVIDER_PEER, PROVIDER_TUNNEL, USER_PEER, World, world
from netns_tests.test_surroundings import doctor

OURS = "another device uses this device's key too"
THEIRS = "another device uses the key of"


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    with world("nctwice") as made:
        made.configure()
        made.node.start()
        made.up()
        yield made


@pytest.fixture
def copy(running: World) -> Iterator[Side]:
    """A second machine with the user's configuration. Its daemon is not started."""
    with ExitStack() as undo:
        (machine,) = namespaces(undo, "nctwice", "copy")
        cable(machine, "wan0", ["198.51.101.2/24"], running.internet, "copy", ["198.51.101.1/24"])
        machine.ip("route add default via 198.51.101.1")
        side = Side("copy", machine, running.folder / "copy")
        side.config.touch(0o600)
        side.config.write_text(running.user_side.config.read_text())
        undo.callback(side.stop)
        yield side


def said(side: Side) -> str:
    return "\n".join(side.status()["problems"])


def send(machine: Namespace) -> None:
    """Send a datagram into the tunnel. Nobody has to answer it."""
    with machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"x", (PROVIDER_TUNNEL, 9))


def test_a_copied_configuration_is_reported_on_all_sides(running: World, copy: Side) -> None:
    user, provider = running.user_side, running.provider_side
    user.down()
    user.start()
    user.wait(PROVIDER_PEER)
    assert said(user) == said(provider) == "", "a restart is no sign of it"
    copy.start()
    copy.wait(PROVIDER_PEER)

    def all_know() -> bool:
        for side in (user, copy):
            send(side.namespace)
        return OURS in said(user) and OURS in said(copy) and THEIRS in said(provider)

    until(all_know, "all three to say it", timeout_s=60)
    assert f"{PROVIDER_PEER} says" in said(user)
    assert f"the key of {USER_PEER} too" in said(provider)
    assert THEIRS not in said(user) + said(copy)
    assert OURS not in said(provider)
    assert "they have the session in turns -> give one of them a key of its own" in doctor(user)
    seed = user.config.read_text().partition('seed = "')[2].partition('"')[0]
    assert len(seed) == 64
    assert seed not in user.logs() + copy.logs()


def test_a_second_interface_with_the_same_key_is_refused(running: World) -> None:
    user = running.user_side
    second = Side("second", user.namespace, running.folder / "second", interface="nc1")
    second.env["NCONNECT_RUN_DIR"] = user.env["NCONNECT_RUN_DIR"]
    second.config.touch(0o600)
    second.config.write_text(user.config.read_text().replace("10.86.0.2/24", "10.87.0.2/24"))
    for options in ((), ("-d",)):
        done = second.try_nconnect("up", *options)
        assert done.returncode == 1
        assert "nc0 uses the same key" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert "nc1" not in user.namespace.ip("-br link")
    until(lambda: pings(user.namespace, PROVIDER_TUNNEL), "the tunnel, after the other device has gone")
