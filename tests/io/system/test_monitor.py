"""What the kernel tells of changes: made-up messages, and a namespace of our own where that is allowed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from nconnect.daemon import reconciler
from nconnect.daemon.reconciler import Reconciler
from nconnect.io.system import monitor, netlink
from nconnect.io.system.monitor import Change, Monitor
from nconnect.io.system.netlink_socket import NetlinkError, messages

CLONE_NEWNET = 0x40000000
OURS, OTHER = 7, 3


@pytest.fixture(scope="module")
def watching() -> Iterator[Monitor]:
    made = Monitor("nc7-absent", "nconnect_nc7")
    yield made
    made.close()


def link(index: int, flags: int) -> memoryview:
    return memoryview(struct.pack("=BxHiII", 0, 1, index, flags, 0))


def address(index: int) -> memoryview:
    return memoryview(struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, index))


def route(index: int, table: int = 254, flags: int = 0) -> memoryview:
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 24, 0, 0, table, 3, 0, 1, flags)
    return memoryview(body + struct.pack("=HHi", 8, 4, index))


@pytest.mark.parametrize(
    ("kind", "body", "change"),
    [
        (netlink.DELADDR, address(OURS), Change.OURS),
        (netlink.NEWADDR, address(OURS), Change.NONE),
        (netlink.DELADDR, address(OTHER), Change.NETWORK),
        (netlink.NEWADDR, address(OTHER), Change.NETWORK),
        (netlink.DELROUTE, route(OURS), Change.OURS),
        (netlink.NEWROUTE, route(OURS), Change.NONE),
        (netlink.NEWROUTE, route(OTHER), Change.NETWORK),
        (netlink.DELROUTE, route(OTHER, table=255), Change.NONE),  # the kernel's own
        (netlink.NEWROUTE, route(OTHER, table=100), Change.POLICY),
        (monitor._NEWRULE, memoryview(bytes(12)), Change.POLICY),
        (monitor._DELRULE, memoryview(bytes(12)), Change.POLICY),
        (netlink.DELROUTE, route(OTHER, flags=netlink.RTM_F_CLONED), Change.NONE),
        (monitor._DELLINK, link(OURS, 0), Change.OURS),
        (netlink.NEWLINK, link(OURS, 0), Change.OURS),  # it was set down
        (netlink.NEWLINK, link(OURS, netlink.IFF_UP), Change.NONE),
        (monitor._DELLINK, link(OTHER, 0), Change.NETWORK),
        (netlink.NEWADDR, memoryview(b"short"), Change.NONE),
        (99, memoryview(bytes(40)), Change.NONE),
    ],
)
def test_whose_change_it_is(watching: Monitor, kind: int, body: memoryview, change: Change) -> None:
    assert watching._of_route(kind, body, OURS) is change


def test_a_link_that_only_counts_has_not_changed(watching: Monitor) -> None:
    up = netlink.IFF_UP | monitor._IFF_RUNNING
    assert watching._of_route(netlink.NEWLINK, link(50, up), OURS) is Change.NETWORK
    assert watching._of_route(netlink.NEWLINK, link(50, up | 0x100), OURS) is Change.NONE
    assert watching._of_route(netlink.NEWLINK, link(50, netlink.IFF_UP), OURS) is Change.NETWORK


def firewall(name: bytes) -> memoryview:
    return memoryview(bytes(4) + struct.pack("=HH", 4 + len(name), 1) + name)


def test_only_our_tables_loss_is_ours(watching: Monitor) -> None:
    deleted = monitor._NFNL_SUBSYS_NFTABLES << 8 | 2
    assert watching._of_firewall(deleted, firewall(b"nconnect_nc7\0")) is Change.OURS
    assert watching._of_firewall(deleted, firewall(b"nconnect_nc70\0")) is not Change.OURS
    assert watching._of_firewall(deleted - 2, firewall(b"nconnect_nc7\0")) is Change.NONE  # made, not deleted
    assert watching._of_firewall(2, firewall(b"nconnect_nc7\0")) is Change.NONE  # another subsystem


@pytest.mark.parametrize(
    ("kind", "seen"), [(2, True), (3, True), (5, True), (6, True), (8, True), (12, False)]
)
def test_other_programs_chains_and_rules_are_seen(watching: Monitor, kind: int, seen: bool) -> None:
    """Not the elements of their sets, which some change all the time."""
    change = watching._of_firewall(monitor._NFNL_SUBSYS_NFTABLES << 8 | kind, firewall(b"docker\0"))
    assert change is (Change.FIREWALL if seen else Change.NONE)


@given(st.binary(max_size=200))
def test_any_bytes_are_read(watching: Monitor, data: bytes) -> None:
    with suppress(NetlinkError):
        for kind, _, _, body in messages(memoryview(data)):
            watching._of_route(kind, body, OURS)
            watching._of_firewall(kind, body)


def test_it_never_blocks_and_an_absent_device_is_said(watching: Monitor) -> None:
    assert Change.OURS in watching.read()
    assert all(not os.get_inheritable(fd) for fd in watching.fds)


def in_a_namespace(work: Callable[[], None]) -> None:
    """On a thread with a network of its own; skips where that is not allowed."""
    failures: list[BaseException] = []

    def inside() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                pytest.skip("network namespaces are not allowed here")
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def ip(text: str) -> None:
    subprocess.run(["ip", *text.split()], check=True, capture_output=True)


def routes(verb: str, count: int) -> None:
    """More messages at once than a socket holds."""
    lines = "".join(f"route {verb} 203.0.{n >> 8}.{n & 255}/32 dev lo\n" for n in range(count))
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, capture_output=True)


def test_after_messages_were_dropped_everything_may_have_changed() -> None:
    def work() -> None:
        ip("link set lo up")
        watch = Monitor("nc7", "nconnect_nc7")
        try:
            watch.read()
            routes("add", 4000)
            assert watch.read() is Change.ALL
            assert watch.read() is Change.OURS, "all was read, and the device is still not there"
            routes("del", 1)
            assert watch.read() == Change.NETWORK | Change.OURS
        finally:
            watch.close()

    in_a_namespace(work)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_event_loop_goes_on_watching_after_a_burst(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """POLLERR would end uvloop's watch of the descriptor for good."""

    async def main() -> None:
        repairs = 0
        repaired = asyncio.Event()

        async def repair() -> list[str]:
            nonlocal repairs
            repairs += 1
            repaired.set()
            return []

        async def nothing() -> None:
            pass

        made = Reconciler(
            lambda: Monitor("nc7", "nconnect_nc7"),
            on_network=nothing,
            on_surroundings=lambda: None,
            repair=repair,
            clock=time.monotonic,
        )
        task = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(20):
                await repaired.wait()
                await asyncio.sleep(reconciler.PAUSE_S + 0.1)  # the descriptors are watched again
                routes("add", 4000)  # the loop stands still meanwhile
                repaired.clear()
                await repaired.wait()
                await asyncio.sleep(reconciler.PAUSE_S + 0.1)
                repaired.clear()
                started = time.monotonic()
                ip("address del 10.86.0.2/24 dev nc7")
                await repaired.wait()
                assert time.monotonic() - started < 2.0
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert repairs < 10, "it must not look all the time"

    def work() -> None:
        ip("link set lo up")
        ip("link add nc7 type veth peer name other")
        ip("link set nc7 up")
        ip("address add 10.86.0.2/24 dev nc7")
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    in_a_namespace(work)


def test_forwarding_that_is_switched_is_ours() -> None:
    def work() -> None:
        watch = Monitor("lo", "nconnect_lo")
        try:
            watch.read()
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            assert watch.read() is Change.OURS
            Path("/proc/sys/net/ipv4/conf/lo/log_martians").write_text("1")
            assert watch.read() is Change.NONE
        finally:
            watch.close()

    in_a_namespace(work)


def test_the_kernel_tells() -> None:
    def work() -> None:
        def told() -> Change:
            change = Change.NONE
            while select.select(watch.fds, [], [], 0.2)[0]:
                change |= watch.read()
            return change

        ip("link add nc7 type veth peer name other")
        watch = Monitor("nc7", "nconnect_nc7")
        try:
            ip("link set nc7 up")
            ip("address add 10.86.0.2/24 dev nc7")
            told()
            ip("address add 198.51.100.2/24 dev other")
            assert told() is Change.NETWORK
            ip("rule add from 192.168.50.0/24 lookup 100")
            assert told() is Change.POLICY
            ip("-6 rule add to fd50::/64 lookup 100")
            assert told() is Change.POLICY
            ip("route add blackhole 192.0.2.0/24 table 100")
            assert told() is Change.POLICY
            ip("address del 10.86.0.2/24 dev nc7")
            assert Change.OURS in told()
            ip("link del nc7")
            assert Change.OURS in told()
        finally:
            watch.close()

    in_a_namespace(work)
