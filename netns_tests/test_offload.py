"""Whatever offload two kernels have, what one sends as one packet reaches the other as it can take it.

user ── node ── provider ── server

Each side has all offload, all but UDP's (as a kernel before 6.2), or none. The environment variable
NCONNECT_REFUSE_OFFLOAD, which exists for this test, takes abilities away.
"""

from __future__ import annotations

import array
import fcntl
import itertools
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.netns import Namespace
from lab.sides import Side
from lab.traffic import (
    SERVICE,
    connect,
    download,
    expected_download,
    family_of,
    pings,
    serve,
    tcp_echo,
    udp_echo,
)
from lab.world import PROVIDER_PEER, PROVIDER_TUNNEL, SERVER, SERVER6, World, world
from nconnect.io.system.tun import REFUSE_VARIABLE

MIB = 1 << 20
UDP_SEGMENT = 103  # <linux/udp.h>: one send, many datagrams of this size
SIOCETHTOOL, ETHTOOL_GTSO = 0x8946, 0x1E  # <linux/sockios.h>, <linux/ethtool.h>
ABILITIES = {"all": "", "no-uso": "uso", "none": "all"}  # by what each side refuses
PAIRS = list(itertools.product(ABILITIES, ABILITIES))
DATAGRAM, BURST = 1200, 40


@pytest.fixture(scope="module")
def machines() -> Iterator[World]:
    with world("ncoffl") as made:
        serve(made.server, made, SERVICE)
        serve(made.provider, made, SERVICE)
        made.configure(services=[f"{SERVICE}/tcp", f"{SERVICE}/udp"])
        made.node.start()
        yield made


@pytest.mark.parametrize(("user", "provider"), PAIRS, ids=[f"{u}+{p}" for u, p in PAIRS])
def test_everything_passes_between_all_pairs(machines: World, user: str, provider: str) -> None:
    _start(machines.provider_side, provider)
    _start(machines.user_side, user)
    machines.user_side.wait(PROVIDER_PEER)
    try:
        assert _has_tso(machines.user) is (user != "none")
        assert _has_tso(machines.provider) is (provider != "none")
        for host in (SERVER, SERVER6, PROVIDER_TUNNEL):
            for size in (56, 60_000):
                assert _answered(machines, host, size), (host, size, _drops(machines))
            for size in (1, MIB):
                data = os.urandom(size)
                assert tcp_echo(machines.user, host, SERVICE, data) == data, (host, size)
            for size in (1, 1400, 9000):
                data = os.urandom(size)
                assert udp_echo(machines.user, host, SERVICE, data) == data, (host, size)
            with connect(machines.user, host, SERVICE) as connection:
                assert download(connection, 8 * MIB) == expected_download(8 * MIB), host
        for host in (SERVER, SERVER6):
            _udp_bursts(machines, host)
            packets = _datagrams_that_pile_up(machines, host)
            assert (packets < BURST // 4) is (user != "none" and provider == "all"), packets
        for side in (machines.user_side, machines.provider_side):
            assert side.drops("bad_offload_header") == side.drops("tun_refused") == 0
    finally:
        machines.user_side.down()
        machines.provider_side.down()


def test_an_unknown_ability_is_refused(machines: World) -> None:
    done = machines.user_side.try_nconnect("up", env={REFUSE_VARIABLE: "everything"})
    assert done.returncode == 1
    assert REFUSE_VARIABLE in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _start(side: Side, ability: str) -> None:
    side.start(env={REFUSE_VARIABLE: ABILITIES[ability]})
    side.wait()


def _answered(machines: World, host: str, size: int) -> bool:
    """60,000 bytes are 41 fragments. A queue of a busy machine may drop one, so this tries again."""
    return any(pings(machines.user, host, "-s", str(size)) for _ in range(3))


def _drops(machines: World) -> list[object]:
    """The drops of both sides, for the message of a failure."""
    sides = (machines.user_side, machines.provider_side)
    return [
        (side.name, status["drops"], status["peers"][0]["drops"])
        for side in sides
        if (status := side.status())
    ]


def _has_tso(namespace: Namespace) -> bool:
    """Whether the kernel may give the tunnel's device TCP super-packets."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        value = array.array("I", [ETHTOOL_GTSO, 0])
        request = struct.pack("16sP", b"nc0", value.buffer_info()[0])
        fcntl.ioctl(probe.fileno(), SIOCETHTOOL, request.ljust(40, b"\0"))
        return bool(value[1])


@contextmanager
def _ends(machines: World, host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """UDP sockets of the user and of the server; the user's is connected."""
    family = family_of(host)
    with (
        machines.user.socket(family, socket.SOCK_DGRAM) as user,
        machines.server.socket(family, socket.SOCK_DGRAM) as server,
    ):
        server.bind((host, 7100))
        user.connect((host, 7100))
        for end in (user, server):
            end.settimeout(5)
        yield user, server


def _burst() -> list[bytes]:
    return [n.to_bytes(2, "big") + os.urandom(DATAGRAM - 2) for n in range(BURST)]


def _udp_bursts(machines: World, host: str) -> None:
    """40 datagrams in one send, each way. A kernel with UDP segmentation carries them as one packet."""
    burst = _burst()
    with _ends(machines, host) as (user, server):
        for end in (user, server):
            end.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, DATAGRAM)
        user.send(b"".join(burst))
        arrived = [server.recvfrom(1 << 16) for _ in burst]
        source = arrived[-1][1]
        assert sorted(datagram for datagram, _ in arrived) == burst
        server.sendto(b"".join(burst), source)
        assert sorted(user.recv(1 << 16) for _ in burst) == burst


def _datagrams_that_pile_up(machines: World, host: str) -> int:
    """Send 40 datagrams one by one, so that the daemon reads them at once; return how many packets cross."""
    side = machines.user_side
    assert side.daemon is not None
    burst = _burst()
    before = side.peer()["tx_packets"]
    with _ends(machines, host) as (user, server):
        side.daemon.signal(signal.SIGSTOP)
        try:
            for datagram in burst:
                user.send(datagram)
        finally:
            side.daemon.signal(signal.SIGCONT)
        assert [server.recv(1 << 16) for _ in burst] == burst
    return int(side.peer()["tx_packets"]) - before
