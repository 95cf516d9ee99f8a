from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nconnect.daemon.metrics import Metrics
from nconnect.errors import HostError
from nconnect.io.http.http import Request
from nconnect.io.http.http_client import request
from nconnect.io.nkn.stun_server import StunPorts
from nconnect.model import MetricsConfig
from nconnect.node.stun import StunServer
from nconnect.tunnel.core import Tunnel
from nconnect.wire import stun
from tests.control.fake import STATUS


def tunnel_of(*names: str) -> Any:
    """What the metrics look at of a tunnel: peers with a lane and a queue each."""
    peers = {}
    for name in names:
        lane = SimpleNamespace(round_trips=None)
        queue = SimpleNamespace(delays=None)
        peers[name] = _Peer(name, [lane], [queue])
    return SimpleNamespace(peers=peers)


class _Peer:
    def __init__(self, name: str, lanes: list[Any], queues: list[Any]) -> None:
        self.name = name
        self.queues = queues
        self.relayed = SimpleNamespace(lanes=SimpleNamespace(all=lanes))


def made(tunnel: Any, node: Any = None) -> Metrics:

    async def status() -> Any:
        return STATUS

    return Metrics(cast(Tunnel, tunnel), status, node)


def test_it_serves_what_was_counted() -> None:
    async def main() -> None:
        tunnel = tunnel_of("laptop")
        metrics = made(tunnel)
        await metrics.listen(MetricsConfig("127.0.0.1", 0))
        try:
            tunnel.peers["laptop"].relayed.lanes.all[0].round_trips.observe(0.01)
            url = f"http://127.0.0.1:{metrics.port}"
            answer = await request("GET", f"{url}/metrics", timeout_s=5)
            assert answer.status == 200
            assert answer.header("content-type").startswith("text/plain; version=0.0.4")
            assert b'round_trip_seconds_count{interface="nc0",peer="laptop"} 1\n' in answer.body
            assert (await request("GET", f"{url}/", timeout_s=5)).status == 404
            assert (await request("POST", f"{url}/metrics", timeout_s=5)).status == 405
        finally:
            await metrics.close()
            await metrics.close()

    asyncio.run(main())


def test_a_new_lane_counts_into_the_same_histogram() -> None:
    tunnel = tunnel_of("laptop")
    metrics = made(tunnel)
    first = metrics._histograms()["laptop"]
    tunnel.peers["laptop"].relayed.lanes.all.append(SimpleNamespace(round_trips=None))
    assert metrics._histograms()["laptop"] is first
    assert tunnel.peers["laptop"].relayed.lanes.all[1].round_trips is first.round_trip
    tunnel.peers["laptop"] = _Peer("laptop", [], [])
    assert metrics._histograms()["laptop"] is not first


def test_the_node_s_stun_server_is_counted_by_what_became_of_requests() -> None:
    ports = StunPorts([])
    ports.server = StunServer(rate_per_s=1.0, burst=2)
    short = stun.encode_request(b"transaction!")
    for data in (short, short, short, stun.encode_request(b"transaction!", size=44), b"nonsense"):
        ports.server.answer(data, "192.0.2.7", 9, now=100.0)
    assert stun_lines(SimpleNamespace(stun=ports)) == [
        'nconnect_node_stun_answers_total{interface="nc0"} 3',
        'nconnect_node_stun_drops_total{interface="nc0",reason="malformed"} 1',
        'nconnect_node_stun_drops_total{interface="nc0",reason="rate_limited"} 1',
    ]


def test_without_a_node_or_without_its_stun_ports_nothing_is_said_of_them() -> None:
    assert stun_lines(None) == []
    assert stun_lines(SimpleNamespace(stun=None)) == []


def stun_lines(node: object) -> list[str]:
    ask = Request("GET", "/metrics", (("host", "127.0.0.1"),))
    answer = asyncio.run(made(tunnel_of(), node).handle(ask))
    return [line for line in answer.body.decode().splitlines() if line.startswith("nconnect_node_")]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9586", 200),
        ("[::1]:9586", 200),
        ("localhost:9586", 200),
        ("gpu-box:9586", 200),
        ("", 200),
        ("evil.example:9586", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_a_foreign_name_is_refused(host: str, status: int) -> None:
    ask = Request("GET", "/metrics", (("host", host),))
    assert asyncio.run(made(tunnel_of()).handle(ask)).status == status


def test_a_port_in_use_is_one_line() -> None:
    async def main() -> None:
        one, other = made(tunnel_of()), made(tunnel_of())
        await one.listen(MetricsConfig("127.0.0.1", 0))
        try:
            with pytest.raises(HostError, match="cannot listen on"):
                await other.listen(MetricsConfig("127.0.0.1", one.port))
        finally:
            await one.close()
            await other.close()

    asyncio.run(main())
