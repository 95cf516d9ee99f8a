"""Asking STUN servers on loopback: a node's two ports, ports that are silent, both IP versions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest
import uvloop

from nconnect.io.clock import boottime
from nconnect.io.net import stun
from nconnect.io.nkn.stun_server import StunPorts
from nconnect.model import Endpoint
from nconnect.wire.direct import NatVerdict


def served(ports: StunPorts, *hosts: str) -> list[Endpoint]:
    return [(ip_address(host), port) for host in hosts for port in ports.ports]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_without_a_nat_both_versions_see_our_own_address(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def run() -> None:
        ports = StunPorts.bind("::", (0, 0))
        ports.start()
        try:
            async with asyncio.timeout(20):
                found = await stun.ask(served(ports, "127.0.0.1", "::1"))
        finally:
            ports.close()
        assert set(found) == {4, 6}
        for version, host in ((4, "127.0.0.1"), (6, "::1")):
            verdict, own = found[version]
            assert verdict.nat is NatVerdict.EASY
            assert verdict.mapped is not None
            assert verdict.mapped[0] == own == ip_address(host)
        assert ports.server.answers == 4
        assert not ports.server.drops

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize(("answering", "nat"), [(0, NatVerdict.BLOCKED), (1, NatVerdict.UNKNOWN)])
def test_silence_ends_it_in_time(answering: int, nat: NatVerdict) -> None:
    """A bound socket that nobody reads: no answer, and no ICMP error either."""

    async def run() -> None:
        ports = StunPorts.bind("127.0.0.1", (0,) * answering)
        ports.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            began = boottime()
            try:
                async with asyncio.timeout(20):
                    found = await stun.ask(
                        [
                            *served(ports, "127.0.0.1"),
                            Endpoint(ip_address("127.0.0.1"), silent.getsockname()[1]),
                        ]
                    )
            finally:
                ports.close()
            verdict, _ = found[4]
            assert verdict.nat is nat
            assert verdict.at - began >= 0.7
            for _ in range(3):  # it was asked three times
                silent.recv(2000, socket.MSG_DONTWAIT)
            with pytest.raises(BlockingIOError):
                silent.recv(2000, socket.MSG_DONTWAIT)

    asyncio.run(run())


def test_nobody_to_ask() -> None:
    assert asyncio.run(stun.ask([])) == {}
