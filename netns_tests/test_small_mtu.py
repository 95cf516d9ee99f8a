"""A hop behind the provider takes smaller packets silently; doctor measures that, and its line mends it.

    user ── node ── provider ── near ──(1280 bytes)── far ── host 192.168.61.10, fd61::10
                    lan1 192.168.60.1                        (its own cable takes 1500)

Both routers drop what is too large, and the ICMP message about it ("fragmentation needed", "packet too big").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.netns import Namespace, cable, namespaces
from lab.process import until
from lab.traffic import SERVICE, connect, download, expected_download, pings, serve, tcp_echo
from lab.world import LAN, LAN6, PROVIDER_PEER, PROVIDER_TUNNEL, World

MIB = 1 << 20
HOP_BYTES = 1280
FAR, FAR6 = "192.168.61.0/24", "fd61::/64"
HOSTS = ["192.168.61.10", "fd61::10"]
STALLED_S = 2.0


@pytest.fixture
def running(fresh: World) -> Iterator[World]:
    with ExitStack() as undo:
        near, far, host = namespaces(undo, "ncmtu", "near", "far", "host")
        cable(
            *(fresh.provider, "lan1", ["192.168.60.1/24", "fd60::1/64"]),
            *(near, "eth0", ["192.168.60.2/24", "fd60::2/64"]),
        )
        cable(near, "hop", ["10.99.0.1/30", "fd99::1/64"], far, "hop", ["10.99.0.2/30", "fd99::2/64"])
        cable(
            *(far, "eth0", ["192.168.61.1/24", "fd61::1/64"]),
            *(host, "eth0", ["192.168.61.10/24", "fd61::10/64"]),
        )
        for router in (near, far):
            router.ip(f"link set hop mtu {HOP_BYTES}")
            router.sysctl("net.ipv4.ip_forward", "1")
            router.sysctl("net.ipv6.conf.all.forwarding", "1")
            _say_nothing(router)
        for prefix, hop, beyond in ((FAR, "192.168.60.2", "10.99.0.2"), (FAR6, "fd60::2", "fd99::2")):
            fresh.provider.ip(f"route add {prefix} via {hop}")
            near.ip(f"route add {prefix} via {beyond}")
        for machine, gateways in (
            (far, ("10.99.0.1", "fd99::1")),
            (host, ("192.168.61.1", "fd61::1")),
        ):
            for gateway in gateways:
                machine.ip(f"route add default via {gateway}")
        serve(host, fresh, SERVICE)
        fresh.configure()
        text = fresh.provider_side.config.read_text()
        assert f'"{LAN}"' in text
        fresh.provider_side.config.write_text(text.replace(f'"{LAN}"', f'"{LAN}", "{FAR}", "{FAR6}"', 1))
        fresh.user_side.nconnect(
            *("peer", "set", PROVIDER_PEER),
            *("--allowed-ips", f"{PROVIDER_TUNNEL}/32,fd86::1/128,{LAN},{LAN6},{FAR},{FAR6}"),
        )
        fresh.node.start()
        fresh.up()
        yield fresh


def _say_nothing(router: Namespace) -> None:
    router.nft("""
        add table inet silent
        add chain inet silent out { type filter hook output priority 0; }
        add rule inet silent out icmp type destination-unreachable drop
        add rule inet silent out icmpv6 type packet-too-big drop
    """)


def downloads(world: World, host: str, *, timeout_s: float) -> bool:
    with connect(world.user, host, SERVICE, timeout_s=timeout_s) as connection:
        try:
            return download(connection, MIB) == expected_download(MIB)
        except TimeoutError:
            return False


def test_doctor_measures_the_small_mtu_and_its_line_mends_it(running: World) -> None:
    provider = running.provider_side
    for host in HOSTS:
        assert pings(running.user, host), "small packets pass"
        assert not downloads(running, host, timeout_s=STALLED_S), "the hop must be in the way of large ones"

    told = provider.try_nconnect("doctor", *(w for host in HOSTS for w in ("--host", host))).stdout
    lines = {int(found) for found in re.findall(r"write mtu = (\d+) in \[provide\]", told)}
    assert lines == {HOP_BYTES}, told
    assert told.count(f"takes packets of {HOP_BYTES} bytes") == 2, told

    text = provider.config.read_text()
    provider.config.write_text(text.replace("[provide]\n", f"[provide]\nmtu = {lines.pop()}\n", 1))
    provider.nconnect("reload")
    for host in HOSTS:
        until(lambda host=host: pings(running.user, host), "the way")
        assert downloads(running, host, timeout_s=10)
        data = bytes(range(256)) * (MIB // 256)
        assert tcp_echo(running.user, host, SERVICE, data) == data, "and the other way"
    told = provider.try_nconnect("doctor", *(w for host in HOSTS for w in ("--host", host))).stdout
    assert "write mtu" not in told, told
