"""`status`, put together from real parts that were never started."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.control.schema import (
    DIRECT_STATES,
    LINK_STATES,
    NATS,
    PEER_STATES,
    DirectHere,
    DirectStatus,
    MappedRoute,
    SkippedRoute,
    Status,
)
from nconnect.crypto.aead import CipherSuite
from nconnect.daemon import status
from nconnect.daemon.backend import DaemonBackend
from nconnect.daemon.limits import PeerLimits
from nconnect.daemon.settings import InForce
from nconnect.daemon.usage import Usage
from nconnect.errors import DropReason
from nconnect.invite.table import PeerTable
from nconnect.model import AllowRule, Config, Endpoint, MappedPrefix, PeerConfig, Proxy
from nconnect.nkn.link import Link
from nconnect.offers.accept import WaitingPrefix
from nconnect.offers.statement import Statement
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.paths.direct import reasons
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import NatVerdict
from nconnect.wire.jsonrpc import NodeInfo
from tests.sim.lanes import LaneNet, Path, joined
from tests.sim.network import Host, Simulation, packet
from tests.tunnel.hostile import connected, passes

WAITING = (WaitingPrefix(ip_network("8.8.8.0/24"), "it is not private"),)


def made(
    sim: Simulation, host: Host, refused: dict[str, dict[str, int]] | None = None, *, stream: object = None
) -> Status:
    config = Config("nc7", bytes(32), host.name, (ip_interface("10.86.0.1/24"),))
    link = Link(host.identity, host.address, ("http://127.0.0.1:1",), now=sim.now, rng=sim.random_bytes)
    links = SimpleNamespace(links=[link], shared_with=[None], link=link)
    host_state = SimpleNamespace(
        plan=None, refused_counts=AsyncMock(return_value=refused or {}), waiting_of=lambda _: WAITING
    )
    used = Usage(
        cast(Any, SimpleNamespace(days=lambda since: [], peers=list, problem="")),
        host.tunnel.peers.values,
        wall=lambda: 1.8e9 + sim.now,
        clock=lambda: sim.now,
        flows=AsyncMock(return_value={}),
        on_spent=lambda: None,
        await_traffic=lambda: None,
    )
    backend = DaemonBackend(
        InForce(PeerTable(config, {})),
        host.address,
        UNPROXIED,
        cast(Any, links),
        host.tunnel,
        cast(Any, SimpleNamespace(drops={DropReason.NOT_OURS: 2, DropReason.MALFORMED: 1})),
        cast(Any, SimpleNamespace(link=lambda _: stream, refused={DropReason.MALFORMED: 4})),
        cast(Any, SimpleNamespace(refused={})),
        cast(Any, None),
        cast(Any, host_state),
        file_watch=cast(Any, AsyncMock()),
        changes=cast(Any, None),
        waiting=cast(Any, None),
        usage=used,
        limits=PeerLimits(host.tunnel.peers.values, used, lambda _: Statement()),
        direct=DirectHere,
        names=cast(
            Any,
            SimpleNamespace(by="hosts", dropped={"gpu": 2}, texts=lambda: {"gpu.internal": ("10.86.0.1",)}),
        ),
        announcing=cast(Any, SimpleNamespace(statements={})),
        problems=lambda: ["", "no link to a node: still connecting"],
        started_at=sim.now - 50,
        clock=lambda: sim.now,
    )
    return asyncio.run(backend.status())


@pytest.mark.parametrize(
    ("verdict", "seen", "nat"),
    [
        (NatVerdict.UNKNOWN, None, "unknown"),
        (NatVerdict.BLOCKED, None, "blocked"),
        (NatVerdict.HARD, "203.0.113.5", "hard"),
        (NatVerdict.EASY, "203.0.113.5", "easy"),
        (NatVerdict.EASY, "198.51.100.7", "none"),
    ],
)
def test_what_this_device_has_for_direct_paths(verdict: NatVerdict, seen: str | None, nat: str) -> None:
    around = Surroundings(41641, network=Network((LocalAddress(ip_interface("198.51.100.7/24")),)))
    around.set_reflexive([Endpoint(ip_address(seen), 4000)] if seen else [], verdict)
    here = status.direct_here(around, "it is silent", ("ufw drops",))
    public = (f"{seen}:4000",) if seen else ()
    assert here == DirectHere(41641, nat, public, (), "it is silent", ("ufw drops",))
    assert here.nat in NATS
    around.set_mapped([Endpoint(ip_address("203.0.113.5"), 41641)])
    assert status.direct_here(around, "", ()).mapped == ("203.0.113.5:41641",)
    around.set_port(0)
    assert status.direct_here(around, "", ("ufw drops",)) == DirectHere()


def test_a_link_tells_port_and_tls() -> None:
    net = LaneNet()
    user, _ = joined(net, 1, 1)
    link = Link(user.identity, user.address, ("https://n:443",), now=net.now, rng=net.random_bytes)
    (found,) = status.link_statuses([link], [None], user.tunnel)
    assert (found.tls, found.port) == (False, None)
    link.start(net.now)
    link.resolved(NodeInfo("n:443", "", "ab" * 32, ""), net.now, seed="https://n:443")
    (found,) = status.link_statuses([link], [None], user.tunnel)
    assert (found.tls, found.port) == (True, 443)


def test_each_link_has_its_share_of_the_traffic() -> None:
    net = LaneNet()
    net.paths[1, 1] = Path(delay_s=0.05)
    user, _ = joined(net, 2, 2)
    for _ in range(50):
        user.send_packet(packet("10.86.0.2", "192.168.50.10", bytes(1000)), bytes([192, 168, 50, 10]))
    net.run(1)
    links = [
        Link(user.identity, user.address, ("http://127.0.0.1:1",), now=net.now, rng=net.random_bytes)
        for _ in range(3)
    ]
    quick, slow, shared = status.link_statuses(links, [None, None, 0], user.tunnel)
    assert quick.share is not None
    assert slow.share is not None
    assert quick.share > 0.9
    assert quick.share + slow.share == pytest.approx(1)
    assert (shared.shared_with, shared.share, shared.tx_bytes) == (0, 0.0, 0)


def test_each_link_names_its_proxy_and_not_how_to_log_in_there() -> None:
    net = LaneNet()
    user, _ = joined(net, 1, 1)
    link = Link(user.identity, user.address, ("http://127.0.0.1:1",), now=net.now, rng=net.random_bytes)
    proxies = Proxies(Proxy("http", "10.0.0.1", 3128, "bob", "hunter2"), ("excepted.example",))
    found = []
    for host in ("node.example", "excepted.example", "127.0.0.1"):
        link.node = NodeInfo(f"{host}:30002", "", "ab" * 32, "")
        found += [each.proxy for each in status.link_statuses([link], [None], user.tunnel, proxies)]
    assert found == ["10.0.0.1:3128", None, None]


def test_an_interface_with_a_peer_that_is_up() -> None:
    sim, user, provider = connected()
    sim.run(3)
    found = made(sim, provider, {"laptop": {"refused": 4, "flow_limit": 2, "other": 0}})
    assert (found.interface, found.address) == ("nc7", str(provider.address))
    assert found.public_key == provider.identity.public_key.hex()
    assert found.started_at == pytest.approx(time.time() - 50, abs=5)
    assert found.drops == {"malformed": 5, "not_ours": 2}
    assert found.names == {"gpu.internal": ("10.86.0.1",)}
    assert (found.names_by, found.names_dropped) == ("hosts", {"gpu": 2})
    assert Status.from_json(json.loads(json.dumps(found.to_json()))).names == found.names
    assert found.problems == ("no link to a node: still connecting",)
    (link,) = found.links
    assert link.state in LINK_STATES
    assert link.state != "up"
    assert (link.node, link.rtt_ms) == ("", None)
    (peer,) = found.peers
    assert (peer.name, peer.address, peer.state) == ("laptop", str(user.address), "up")
    assert (peer.allowed_ips, peer.allow) == (("10.86.0.2/32",), None)
    assert peer.cipher == "aes256gcm"
    assert peer.handshake_age_s == pytest.approx(3.1, abs=0.2)
    assert peer.last_handshake_at == pytest.approx(time.time() - 3.1, abs=5)
    assert (peer.rx_packets, peer.tx_packets) == (1, 1)
    assert (peer.drops["refused"], peer.drops["flow_limit"]) == (4, 2)
    assert "other" not in peer.drops


def test_a_peer_that_was_never_there() -> None:
    sim = Simulation()
    host = sim.host("provider", 2)
    rule = AllowRule(ip_network("192.168.50.10/32"), (8000, 8000), "tcp")
    other = Host(sim, "laptop", 1).address

    host.start(
        [PeerConfig("laptop", other, (ip_network("10.86.0.2/32"),), allow=(rule,), expires_at=4e9)],
        Settings(CipherSuite.AES256GCM, persistent=False),
    )
    (peer,) = made(sim, host).peers
    assert (peer.state, peer.cipher, peer.rtt_ms) == ("never", None, None)
    assert (peer.last_handshake_at, peer.handshake_age_s, peer.expires) == (None, None, 4e9)
    assert peer.allow == ("192.168.50.10:8000/tcp",)
    assert peer.drops == {}


def test_every_state_and_every_drop_has_a_name_that_the_schema_knows() -> None:
    sim, user, provider = connected()
    seen = {made(sim, provider).peers[0].state}
    provider.peer(user).doubtful = True
    seen.add(made(sim, provider).peers[0].state)
    provider.peer(user).expired = True
    seen.add(made(sim, provider).peers[0].state)
    assert seen == {"up", "stale", "expired"}
    assert seen <= set(PEER_STATES)
    for reason in DropReason:
        provider.peer(user).drops[reason] += 1
    assert set(made(sim, provider).peers[0].drops) == {reason.value for reason in DropReason}


@pytest.mark.parametrize(
    ("node_s", "peer_node_s", "rest_ms"),
    [
        (0.012, 0.022, 8.0),
        (0.030, 0.020, 0.0),  # measured at other moments, and more than the whole
        (0.012, None, 30.0),
        (None, 0.022, None),
        (None, None, None),
    ],
)
def test_what_is_left_of_a_round_trip(
    node_s: float | None, peer_node_s: float | None, rest_ms: float | None
) -> None:
    reply = status.ping_reply("gpu-box", 0.042, node_s, peer_node_s)
    assert reply.rtt_ms == pytest.approx(42)
    assert reply.rest_ms == (None if rest_ms is None else pytest.approx(rest_ms))


def test_traffic_is_counted_as_inner_packets() -> None:
    sim, user, provider = connected()
    before = made(sim, provider).peers[0]
    assert passes(sim, user, provider)
    after = made(sim, provider).peers[0]
    assert (after.rx_packets - before.rx_packets, after.rx_bytes - before.rx_bytes) == (1, 36)


def direct_path(**fields: object) -> DirectPath:
    known = {"mode": "on", "state": PathState.RELAY, "why": reasons.IDLE, "remote": None, "seen": None}
    return cast(DirectPath, SimpleNamespace(**{**known, "rtt_s": None, "datagram_bytes": 1200, **fields}))


PROXIED = Proxies(Proxy("http", "10.0.0.1", 3128))
SEEN, REMOTE = (Endpoint(ip_address(text), 41000) for text in ("198.51.100.7", "2001:db8::9"))


@pytest.mark.parametrize(
    ("path", "proxies", "expected"),
    [
        (None, UNPROXIED, DirectStatus()),
        (direct_path(), UNPROXIED, DirectStatus("off", why="idle")),
        (direct_path(mode="off", why=reasons.OFF), UNPROXIED, DirectStatus("off", why=reasons.OFF)),
        (direct_path(mode="off", why=reasons.OFF), PROXIED, DirectStatus("off", why=status.PAST_A_PROXY)),
        (
            direct_path(state=PathState.SEARCH, why="searching"),
            UNPROXIED,
            DirectStatus("search", why="searching"),
        ),
        (direct_path(why=reasons.HARD), UNPROXIED, DirectStatus("failed", why=reasons.HARD)),
        (direct_path(why=reasons.PEER_OFF), UNPROXIED, DirectStatus("failed", why=reasons.PEER_OFF)),
        (
            direct_path(state=PathState.DIRECT, why="", remote=REMOTE, seen=SEEN, rtt_s=0.0125),
            UNPROXIED,
            DirectStatus("up", "udp", "198.51.100.7:41000", "[2001:db8::9]:41000", 12.5, 1200),
        ),
        (
            direct_path(state=PathState.SUSPECT, why=reasons.SILENT, remote=REMOTE),
            UNPROXIED,
            DirectStatus("up", "udp", None, "[2001:db8::9]:41000", None, 1200, reasons.SILENT),
        ),
    ],
)
def test_what_is_said_of_a_direct_path(
    path: DirectPath | None, proxies: Proxies, expected: DirectStatus
) -> None:
    assert status.direct_status(path, proxies) == expected
    assert expected.state in DIRECT_STATES


def test_a_direct_tcp_stream_is_told_while_it_carries() -> None:
    sim, user, provider = connected()
    stream = SimpleNamespace(remote=Endpoint(ip_address("192.0.2.7"), 41000))
    assert user.tunnel.stream_opened(str(provider.address), 8, sim.now)
    lane = user.peer(provider).relayed.lanes.stream
    assert lane is not None
    lane.rtt_s = 0.0005
    told = made(sim, user, stream=stream).peers[0]
    assert (told.path, told.direct) == (
        "direct",
        DirectStatus("up", "tcp", remote="192.0.2.7:41000", rtt_ms=0.5),
    )
    lane.dead = True
    assert made(sim, user, stream=stream).peers[0].path == "node"


def test_networks_are_told_as_the_peer_calls_them_and_as_they_are_seen() -> None:
    sim, host, other = connected()
    peer = host.peer(other)
    tunnel = MappedPrefix(ip_network("10.86.0.0/24"), ip_network("10.201.7.0/24"))
    peer.config = replace(
        peer.config, allowed_ips=(ip_network("10.201.7.1/32"), ip_network("172.16.0.0/16")), mapped=(tunnel,)
    )
    said = status.peer_status(peer, host.tunnel, sim.now, 0.0, {}, waiting=WAITING)
    assert said.allowed_ips == ("10.86.0.1/32", "172.16.0.0/16")
    assert said.mapped == (MappedRoute("10.86.0.0/24", "10.201.7.0/24"),)
    assert said.waiting == (SkippedRoute("8.8.8.0/24", "it is not private"),)
