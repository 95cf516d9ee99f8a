"""A peer's access ends when it expires, with a warning before. A peer that knocks can be approved.

user ── node ── provider ── server (sends to the user all the while)

Each test has machines of its own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, connect, pings
from lab.world import PROVIDER_PEER, SERVER, USER_PEER, USER_TUNNEL, World
from netns_tests.topology import provided

LEFT_S = 4  # from `peer set` until the access ends
MIB = 1 << 20


def test_access_ends_within_a_second_and_comes_back(fresh: World) -> None:
    with provided(fresh):
        provider = fresh.provider_side
        assert pings(fresh.user, SERVER)
        with connect(fresh.user, SERVER, SERVICE, timeout_s=30) as download:
            download.sendall(b"source %d\n" % (1 << 40))
            reader = threading.Thread(target=_read, args=(download,), daemon=True)
            reader.start()
            until(lambda: _received(fresh) > 10 * MIB, "a download at full speed")
            ends_at = int(time.time()) + LEFT_S
            text = datetime.fromtimestamp(ends_at, UTC).isoformat()
            provider.nconnect("peer", "set", USER_PEER, "--access", text)
            assert provider.peer()["state"] == "up"
            until(lambda: time.time() >= ends_at, "the end", timeout_s=LEFT_S + 1)
            until(lambda: provider.peer()["state"] == "expired", "the state expired", timeout_s=1)
            until(lambda: not _flows(fresh), "the end of all its connections", timeout_s=1)
            before = _received(fresh)
            assert not pings(fresh.user, SERVER)  # waits for two seconds
            assert _received(fresh) == before, "the download went on"
            download.shutdown(socket.SHUT_RDWR)  # wakes the reader thread
            reader.join(10)
        assert "laptop has expired" in provider.logs()
        assert "the access of laptop ends at" in provider.logs()
        assert "may not pass any more" in provider.nconnect("status")
        assert provider.drops("peer_expired") > 0

        provider.nconnect("peer", "set", USER_PEER, "--access", "never")
        until(lambda: pings(fresh.user, SERVER), "a ping's answer", timeout_s=20)
        assert provider.peer()["expires"] is None


def test_a_day_before_the_end_of_long_access_there_is_a_warning(fresh: World) -> None:
    """One day before the end there is a warning if access was given for thirty days, none if for nine."""
    with provided(fresh):
        provider = fresh.provider_side
        provider.nconnect("peer", "set", USER_PEER, "--access", "1d")
        assert not _warnings(fresh)
        file = Path(provider.env["NCONNECT_STATE_DIR"]) / "nc0" / "expiries.json"
        ((address, (expires_at, since)),) = json.loads(file.read_text()).items()
        for days, warned in ((29, True), (8, False)):
            provider.down()
            file.write_text(json.dumps({address: [expires_at, since - days * 86_400]}))
            provider.start()
            provider.wait()
            assert bool(_warnings(fresh)) is warned
            assert ("the access of laptop ends at" in _log(provider)) is warned


def test_a_peer_that_expired_before_the_start_stays_out(fresh: World) -> None:
    with provided(fresh):
        provider = fresh.provider_side
        provider.down()
        ends_at = int(time.time()) + 2
        text = datetime.fromtimestamp(ends_at, UTC).isoformat()
        provider.nconnect("peer", "set", USER_PEER, "--access", text)
        until(lambda: time.time() >= ends_at, "the end")
        provider.start()
        provider.wait()
        assert provider.peer()["state"] == "expired"
        assert not pings(fresh.user, SERVER)


def test_a_pending_peer_is_listed_and_approve_lets_it_in(fresh: World) -> None:
    with provided(fresh):
        provider, user = fresh.provider_side, fresh.user_side
        provider.nconnect("peer", "remove", USER_PEER)
        assert json.loads(provider.nconnect("peer", "pending", "--json"))["pending"] == []
        provider.down()
        text = provider.config.read_text()
        provider.config.write_text(text.replace("[interface]\n", "[interface]\naccept_pending = true\n", 1))
        provider.start()
        provider.wait()
        assert not pings(fresh.user, SERVER)  # the user knocks: its packet makes it start a handshake
        assert provider.nconnect("peer", "pending").startswith("ADDRESS")
        (waiting,) = json.loads(provider.nconnect("peer", "pending", "--json"))["pending"]
        assert waiting["address"] == user.address()
        assert waiting["count"] >= 1
        provider.nconnect("peer", "approve", waiting["address"], "back", "--allow", f"{SERVER}/icmp")
        user.wait(PROVIDER_PEER, timeout_s=30)
        until(lambda: pings(fresh.user, SERVER), "a ping's answer")
        assert json.loads(provider.nconnect("peer", "pending", "--json"))["pending"] == []


def _read(download: object) -> None:
    with contextlib.suppress(OSError):
        while download.recv(1 << 20):  # type: ignore[attr-defined]
            pass


def _received(world: World) -> int:
    return world.user.counters("nc0")["rx_bytes"]


def _log(side: Side) -> str:
    assert side.daemon is not None
    return side.daemon.text()


def _warnings(world: World) -> list[str]:
    return [text for text in world.provider_side.status()["problems"] if "the access of laptop ends" in text]


def _flows(world: World) -> list[str]:
    listed = world.provider.run(["conntrack", "-L", "-f", "ipv4", "--orig-src", USER_TUNNEL])
    return [line for line in listed.stdout.splitlines() if line]
