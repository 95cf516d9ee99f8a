"""After each fault the running flows are answered again within a bound; the run prints the times as a table.

user ── node ── provider ── server

The flows are TCP and UDP from the user to the server, with a question every 50 ms. Tests of faults of links
have machines of their own; the others share them.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.faults import drop_all, drop_no_more
from lab.flows import Flow, Ping, Tcp, Udp
from lab.netns import LabError
from lab.process import until
from lab.sides import Side
from lab.snapshot import snapshot
from lab.traffic import SERVICE, connect, download, expected_download, pings, upload
from lab.world import LAN, PROVIDER_PEER, SERVER, USER_TUNNEL, WAN_INTERFACE, World
from netns_tests.recovery import recovered
from netns_tests.topology import start

TRANSFER_BYTES = 512 << 20

SIDES = ["user", "provider"]


@pytest.fixture
def running(fresh: World) -> World:
    """Both daemons up, on new machines: after each fault of a link the daemon waits longer to try again."""
    start(fresh)
    return fresh


@pytest.fixture
def lasting(shared: World) -> World:
    """Both daemons up, on machines that tests share: for faults that do not concern the links."""
    for side in (shared.provider_side, shared.user_side):
        if side.daemon is None or not side.daemon.running:
            side.start()
            side.wait()
    shared.user_side.wait(PROVIDER_PEER)
    return shared


@contextmanager
def flows(world: World) -> Iterator[tuple[Flow, Flow]]:
    with Tcp(world.user, SERVER) as tcp, Udp(world.user, SERVER) as udp:
        yield tcp, udp


@contextmanager
def transfers(world: World) -> Iterator[list[str]]:
    """A download and an upload, under way when the block begins; complete and right some time after it.

    Their digests, once each is done; or what ended one early.
    """
    found: list[str] = []

    def move(what: Callable[[socket.socket, int], str]) -> None:
        try:
            with connect(world.user, SERVER, SERVICE, timeout_s=60) as connection:
                found.append(what(connection, TRANSFER_BYTES))
        except (OSError, AssertionError) as error:
            found.append(f"{what.__name__}: {error}")

    threads = [threading.Thread(target=move, args=(what,)) for what in (download, upload)]
    before = world.user.counters("nc0")
    for thread in threads:
        thread.start()
    until(
        lambda: all(
            world.user.counters("nc0")[way] > before[way] + (1 << 20) for way in ("rx_bytes", "tx_bytes")
        ),
        "both to be under way",
    )
    yield found
    for thread in threads:
        thread.join(90)
    assert found == [expected_download(TRANSFER_BYTES)] * 2


def side_of(world: World, name: str) -> Side:
    return world.user_side if name == "user" else world.provider_side


def problems(side: Side) -> str:
    return "\n".join(side.status()["problems"])


LONG_STOPS = [("user", 15), ("user", 200), ("provider", 200)]


@pytest.mark.parametrize(
    "seconds", [1, *(pytest.param(long_s, marks=pytest.mark.slow) for long_s in (10, 60))]
)
def test_flows_return_after_the_node_was_killed(running: World, seconds: int) -> None:
    with flows(running) as (tcp, udp), Ping(running.user, SERVER) as ping:
        assert running.node.process is not None
        running.node.process.kill()
        time.sleep(seconds)
        running.node.start()
        back = time.monotonic()
        recovered(ping, f"node gone for {seconds} s", back, bound_s=1)
        recovered(udp, f"node gone for {seconds} s", back, bound_s=3)
        recovered(tcp, f"node gone for {seconds} s", back, bound_s=3)


@pytest.mark.parametrize("name", SIDES)
def test_flows_return_after_a_daemon_was_killed(lasting: World, name: str) -> None:
    side = side_of(lasting, name)
    with flows(lasting) as (tcp, udp), transfers(lasting) as moved:
        up_before = snapshot(side.namespace)
        assert side.daemon is not None
        side.daemon.kill()
        killed = time.monotonic()
        assert moved == [], "they are under way"
        time.sleep(2)
        side.start()
        side.wait()
        back = time.monotonic()
        recovered(udp, f"{name} killed, started after 2 s", back, bound_s=3)
        # The kernel doubles TCP's pauses (RFC 6298): the next one may be as long as the outage was.
        recovered(tcp, f"{name} killed, started after 2 s", back, bound_s=1 + back - killed)
        assert _unnumbered(snapshot(side.namespace)) == _unnumbered(up_before), (
            "nothing is there twice, and nothing is missing"
        )


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("provider", 15), *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG_STOPS)],
)
@pytest.mark.timeout(400)
def test_flows_return_after_a_daemon_stood_still(lasting: World, name: str, seconds: int) -> None:
    side = side_of(lasting, name)
    with flows(lasting) as (tcp, udp):
        daemon = side.daemon
        assert daemon is not None
        said = daemon.text().count("held up")
        daemon.signal(signal.SIGSTOP)
        time.sleep(seconds)
        daemon.signal(signal.SIGCONT)
        back = time.monotonic()
        recovered(udp, f"{name} stopped for {seconds} s", back, bound_s=3)
        recovered(tcp, f"{name} stopped for {seconds} s", back, bound_s=3)
        until(lambda: daemon.text().count("held up") > said, "the daemon to say so", process=daemon)


def test_flows_return_after_the_users_interface_was_down(running: World) -> None:
    with flows(running) as (tcp, udp):
        running.user.ip(f"link set {WAN_INTERFACE} down")
        time.sleep(5)
        running.user.ip(f"link set {WAN_INTERFACE} up")
        running.user.ip("route add default via 198.51.100.1")
        back = time.monotonic()
        recovered(udp, "interface down for 5 s", back, bound_s=3)
        recovered(tcp, "interface down for 5 s", back, bound_s=4)


def test_flows_return_after_the_users_address_changed(running: World) -> None:
    with flows(running) as (tcp, udp):
        running.user.ip(f"address del 198.51.100.2/24 dev {WAN_INTERFACE}")
        running.user.ip(f"address add 198.51.100.77/24 dev {WAN_INTERFACE}")
        running.user.ip("route replace default via 198.51.100.1")
        back = time.monotonic()
        recovered(udp, "address changed", back, bound_s=4)
        recovered(tcp, "address changed", back, bound_s=5)


def test_flows_return_after_the_user_moved_to_another_network(running: World) -> None:
    """Another address and gateway; nothing of the old network answers any more."""
    with flows(running) as (tcp, udp):
        running.internet.ip("address add 100.64.9.1/24 dev user")
        running.user.ip(f"address flush dev {WAN_INTERFACE}")
        running.internet.ip("address del 198.51.100.1/24 dev user")
        time.sleep(2)
        running.user.ip(f"address add 100.64.9.2/24 dev {WAN_INTERFACE}")
        running.user.ip("route add default via 100.64.9.1")
        back = time.monotonic()
        recovered(udp, "another network", back, bound_s=4)
        recovered(tcp, "another network", back, bound_s=5)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("user", "input"),
        ("provider", "output"),
        pytest.param("user", "output", marks=pytest.mark.slow),
        pytest.param("provider", "input", marks=pytest.mark.slow),
    ],
)
def test_flows_return_after_loss_in_one_direction(running: World, name: str, direction: str) -> None:
    side = side_of(running, name)
    with flows(running) as (tcp, udp):
        drop_all(side, direction)
        until(
            lambda: all(link["state"] != "up" for link in side.status()["links"]),
            "the loss to be noticed",
            timeout_s=20,  # 13 s at most, and a `status` that takes long on a busy machine
        )
        drop_no_more(side)
        back = time.monotonic()
        fault = f"one-way loss at the {name}, {direction}"
        recovered(udp, fault, back, bound_s=7)
        # What the server sent meanwhile is lost: its TCP sends it again, in its own time.
        recovered(tcp, fault, back, bound_s=25 if direction == "input" and name == "user" else 8)


REMOVALS = {
    "table": (["nft", "delete", "table", "inet", "nconnect_nc0"], "nftables table"),
    "route": (["ip", "route", "del", LAN, "dev", "nc0"], f"route {LAN}"),
    "address": (["ip", "address", "del", f"{USER_TUNNEL}/24", "dev", "nc0"], f"address {USER_TUNNEL}"),
    "link": (["ip", "link", "set", "nc0", "down"], "link nc0"),
    "device": (["ip", "link", "del", "nc0"], "interface nc0"),
}


@pytest.mark.parametrize("what", REMOVALS)
def test_what_somebody_removes_is_set_again(lasting: World, what: str) -> None:
    command, named = REMOVALS[what]
    before = snapshot(lasting.user)
    with flows(lasting) as (_, udp):
        lasting.user.must(*command)
        back = time.monotonic()
        daemon = lasting.user_side.daemon
        assert daemon is not None
        until(lambda: "set again" in daemon.text(), "the repair", process=daemon)
        recovered(udp, f"{what} removed", back, bound_s=3)
    assert named in daemon.text()
    until(lambda: _unnumbered(snapshot(lasting.user)) == _unnumbered(before), "all to be as before")
    assert problems(lasting.user_side) == ""
    lasting.user_side.down()


def _unnumbered(lines: frozenset[str]) -> list[str]:
    """Without indices and handles, which change when something is made again."""
    return sorted(
        line.partition(": ")[2] if line[:1].isdigit() else line for line in lines if "counter" not in line
    )


def test_what_is_removed_again_and_again_is_given_up_and_reported(lasting: World) -> None:
    side = lasting.user_side

    def remove_and_look() -> bool:
        side.namespace.run(["ip", "route", "del", LAN, "dev", "nc0"])
        return "again and again" in problems(side)

    until(remove_and_look, "the daemon to give up", timeout_s=40)
    assert "nconnect down" in problems(side)
    assert side.daemon is not None
    repairs = side.daemon.text().count("set again")
    assert repairs <= 12
    side.down()


def test_what_a_reload_removes_is_not_set_again(lasting: World) -> None:
    side = lasting.user_side
    assert side.daemon is not None
    said = side.daemon.text().count("set again")
    side.nconnect("peer", "set", PROVIDER_PEER, "--allowed-ips", "10.86.0.1/32")
    side.nconnect("peer", "set", PROVIDER_PEER, "--allowed-ips", f"10.86.0.1/32,{LAN}")
    until(lambda: pings(lasting.user, SERVER), "the way back")
    time.sleep(1.5)
    assert side.daemon.text().count("set again") == said


def test_no_daemon_ends_a_flow_when_its_own_network_is_quiet(lasting: World) -> None:
    """The control: without a fault nothing is interrupted."""
    with flows(lasting) as (tcp, _):
        time.sleep(2)
        gaps = [b - a for a, b in zip(tcp.answers, tcp.answers[1:], strict=False)]
        assert max(gaps) < 1.0
    with pytest.raises(LabError):
        tcp.answered_after(time.monotonic(), within_s=0.2)
