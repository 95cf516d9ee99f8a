"""A thousand peers cost memory, not time: what a packet costs does not grow with the peer table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import ip_network
from types import FrameType
from typing import Any

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.model import PeerConfig
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.peer import PeerState
from tests.sim.network import Host, Simulation, ip, packet

MANY = 100


def provider_with(users: int) -> tuple[Simulation, Host, list[Host]]:
    """A provider with so many peers, each with a session."""
    sim = Simulation()
    hosts = [sim.host(f"u{n}", n + 2) for n in range(users)]
    provider = sim.host("provider", 1)
    peers = [
        PeerConfig(host.name, host.address, (ip_network(f"10.86.1.{n + 1}/32"),))
        for n, host in enumerate(hosts)
    ]
    provider.start(peers, Settings(CipherSuite.AES256GCM, persistent=False))
    of_user = [PeerConfig("provider", provider.address, (ip_network("10.86.0.1/32"),))]
    for host in hosts:
        host.start(of_user, Settings(CipherSuite.AES256GCM))
        host.tunnel.link_up(sim.now)
        host.drain()
    assert sim.run(5, lambda: all(provider.peer(host).state is PeerState.UP for host in hosts))
    return sim, provider, hosts


def steps(work: Callable[[], Any]) -> int:
    """How many instructions of Python it takes."""
    count = 0
    if sys.version_info >= (3, 12):  # 3.12.1 gives a trace function no instructions

        def counted(_: object, __: int) -> None:
            nonlocal count
            count += 1

        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.PROFILER_ID, "steps")
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION, counted)
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION)
        try:
            work()
        finally:
            monitoring.set_events(monitoring.PROFILER_ID, 0)
            monitoring.free_tool_id(monitoring.PROFILER_ID)
        return count

    def traced(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def costs(users: int) -> dict[str, int]:
    sim, provider, hosts = provider_with(users)
    user = hosts[users // 2]
    address = f"10.86.1.{users // 2 + 1}"
    there, back = packet(address, "10.86.0.1", b"there"), packet("10.86.0.1", address, b"back")
    for _ in range(3):  # routes are in their caches, and the timers set
        user.send_packet(there, ip("10.86.0.1"))
        provider.send_packet(back, ip(address))
        sim.run(1)
    sim.sent.clear()
    user.send_packet(there, ip("10.86.0.1"))
    ((source, _, payload),) = sim.sent
    found = {
        "receive": steps(lambda: provider.receive(source, payload)),
        "send": steps(lambda: provider.send_packet(back, ip(address))),
        "deadline": steps(provider.tunnel.next_at),
    }
    sim.run(1)
    assert provider.delivered[-1] == there
    assert user.delivered[-1] == back
    return found


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage or a debugger traces already")
def test_what_a_packet_costs_does_not_grow_with_the_peers() -> None:
    one, many = costs(1), costs(MANY)
    assert one["receive"] > 100
    for what, count in many.items():
        assert count < 1.1 * one[what] + 50, (what, one, many)
