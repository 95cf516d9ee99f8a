"""What a provider may do to a friend who may come in: pause it, and go down without leaving it to wait.

user ── node ── provider ── server
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, connect, download, pings
from lab.world import PROVIDER_PEER, SERVER, USER_PEER, World

MIB = 1 << 20
SECONDS = 10
WHY = "back at 22:00"
REFUSED_S = 0.5  # measured: 1 to 16 ms, from the return of the command
LOADED = 4  # a machine that runs other tests too may do one of several late


@contextmanager
def paused(world: World) -> Iterator[None]:
    world.provider_side.nconnect("peer", "pause", USER_PEER, "--why", WHY)
    try:
        yield
    finally:
        world.provider_side.nconnect("peer", "resume", USER_PEER)


def assert_refused(world: World) -> None:
    """New connections are, from the first one on, and at once: not when a client has had enough."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(OSError, match=r"refused|No route|prohibited|Permission") as caught:
            connect(world.user, SERVER, SERVICE).close()
        assert not isinstance(caught.value, TimeoutError)
        took.append(time.monotonic() - began)
    print("refused after", " ".join(f"{each * 1e3:.1f}" for each in took), "ms")
    assert min(took) < REFUSED_S
    assert max(took) < REFUSED_S * LOADED


def test_a_paused_peer_is_refused_at_once_and_let_in_again(shared: World) -> None:
    provider = shared.provider_side
    assert pings(shared.user, SERVER)
    ended = threading.Event()
    with connect(shared.user, SERVER, SERVICE, timeout_s=30) as download:

        def read() -> None:
            try:
                while download.recv(1 << 20):
                    pass
            except OSError:
                pass
            ended.set()

        download.sendall(b"source %d\n" % (1 << 40))
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            with paused(shared):
                paused_at = time.monotonic()
                assert ended.wait(REFUSED_S), "a connection that was open went on"
                print(f"ended after {(time.monotonic() - paused_at) * 1e3:.1f} ms")
                assert_refused(shared)
                assert not pings(shared.user, SERVER)
                assert provider.peer()["state"] == "up"
                assert provider.peer()["paused"] == {"why": WHY, "by": "self"}
                assert f"laptop is paused: {WHY}" in provider.nconnect("status")
                user = shared.user_side
                until(lambda: user.peer()["paused"] == {"why": WHY, "by": "peer"}, "the reason, at the user")
                assert f"refuses this device's connections for now: {WHY}" in user.nconnect("status")
                # What the file says stays said at a restart, from the first packet on. Meanwhile it is the
                # user's side that refuses.
                provider.down()
                assert_refused(shared)
                assert shared.user_side.drops("peer_left") > 0
                assert user.peer()["has_left"]
                said = user.nconnect("status")
                assert "peer gpu-box was stopped on its side" in said, said
                provider.start()
                provider.wait(USER_PEER)
                assert_refused(shared)
        finally:
            with suppress(OSError):  # it was reset
                download.shutdown(socket.SHUT_RDWR)
            reader.join(10)
    until(lambda: pings(shared.user, SERVER), "a ping's answer")
    assert provider.peer()["paused"] is None
    assert not shared.user_side.peer()["has_left"]
    until(lambda: shared.user_side.peer()["paused"] is None, "the end of it, at the user")
    connect(shared.user, SERVER, SERVICE).close()


def test_a_user_may_pause_a_provider(shared: World) -> None:
    user = shared.user_side
    user.nconnect("peer", "pause", PROVIDER_PEER)
    try:
        assert_refused(shared)
        assert user.peer()["paused"] == {"why": "", "by": "self"}
    finally:
        user.nconnect("peer", "resume", PROVIDER_PEER)
    connect(shared.user, SERVER, SERVICE).close()


def used(side: Side) -> tuple[int, int]:
    """Bytes that came from its first peer, and that went to it, as `status` says."""
    month = side.peer()["usage"]["month"]
    return month["rx_bytes"], month["tx_bytes"]


def test_what_was_used_is_what_the_interfaces_counted_and_is_not_lost_by_a_kill(shared: World) -> None:
    sides = {shared.provider: shared.provider_side, shared.user: shared.user_side}
    before = {space: (space.counters("nc0"), used(side)) for space, side in sides.items()}
    with connect(shared.user, SERVER, SERVICE) as connection:
        download(connection, 30 * MIB)
    for space, side in sides.items():
        old, (rx, tx) = before[space]
        now = space.counters("nc0")
        # What an interface receives, its daemon has written: it came from the peer.
        for way, size in (("rx_bytes", rx), ("tx_bytes", tx)):
            counted = now[way] - old[way]
            told = used(side)[way == "tx_bytes"] - size
            assert told == pytest.approx(counted, rel=0.01, abs=2000), (space.name, way)
    (peer,) = json.loads(shared.provider_side.nconnect("usage", "--json"))["peers"]
    assert peer["name"] == USER_PEER
    assert peer["flows"] >= 1
    assert peer["connected_s"] > 0
    assert peer["tx_bytes"] > 30 * MIB

    provider = shared.provider_side
    time.sleep(1)  # what may be lost
    rx, tx = used(provider)
    assert provider.daemon is not None
    provider.daemon.kill()
    provider.start()
    provider.wait(USER_PEER)
    assert used(provider)[0] >= rx
    assert used(provider)[1] >= tx


def test_a_quota_that_is_used_up_pauses_the_peer(shared: World) -> None:
    provider = shared.provider_side
    _, tx = used(provider)
    provider.nconnect("peer", "set", USER_PEER, "--quota", f"{tx + 20 * MIB}/month")
    try:
        with pytest.raises((OSError, AssertionError)), connect(shared.user, SERVER, SERVICE) as connection:
            download(connection, 2000 * MIB)
        assert used(provider)[1] < tx + 2000 * MIB
        paused_now = provider.peer()["paused"]
        assert paused_now["by"] == "quota"
        assert "is used up until" in paused_now["why"]
        assert_refused(shared)
    finally:
        provider.nconnect("peer", "set", USER_PEER, "--quota", "none")
    connect(shared.user, SERVER, SERVICE).close()


@pytest.mark.slow
@pytest.mark.parametrize(("mbit", "each_way"), [(5, 1), (5, 4), (40, 4)])
def test_a_rate_is_held_each_way(shared: World, mbit: int, each_way: int) -> None:
    """The provider paces what it sends; the user's side is told, paces too, and loses nothing."""
    provider = shared.provider_side
    provider.nconnect("peer", "set", USER_PEER, "--rate", f"{mbit}M")
    try:
        with ExitStack() as stack:
            connections = [
                stack.enter_context(connect(shared.user, SERVER, SERVICE)) for _ in range(2 * each_way)
            ]
            threads = []
            for number, connection in enumerate(connections):
                is_down = number < each_way
                connection.sendall(b"%s %d\n" % (b"source" if is_down else b"sink", 1 << 40))
                threads.append(
                    threading.Thread(target=_read_all if is_down else _write_all, args=(connection,))
                )
            for thread in threads:
                thread.start()
            try:
                time.sleep(2)  # until both directions run
                before, began = used(provider), time.monotonic()
                dropped = provider.drops("over_rate")
                time.sleep(SECONDS)
                after, took = used(provider), time.monotonic() - began
            finally:
                for connection in connections:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join(10)
        rates = [(new - old) * 8 / took / 1e6 for new, old in zip(after, before, strict=True)]
        assert rates == pytest.approx([mbit, mbit], rel=0.05)
        assert provider.drops("over_rate") == dropped
    finally:
        provider.nconnect("peer", "set", USER_PEER, "--rate", "none")


def _read_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(1 << 20):
            pass


def _write_all(connection: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection.sendall(bytes(1 << 16))
