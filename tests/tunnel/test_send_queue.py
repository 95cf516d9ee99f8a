"""The data lane to the network: turns between peers, bounds, and batches that fit."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest

from nconnect.crypto.aead import CipherSuite
from nconnect.ip import offload
from nconnect.model import PeerConfig
from nconnect.tunnel.constants import BATCH_BYTES, QUEUE_BYTES
from nconnect.tunnel.core import SEAL_BYTES
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.send_queue import CREDIT_BYTES, GATHER_BYTES, GATHER_S, GATHER_UNDER_WAY_BYTES
from nconnect.tunnel.timers import NEVER
from nconnect.wire.message import Message
from nconnect.wire.tunnel import MAX_PACKET_BODY_BYTES, Feature
from tests.ip.packets import assert_finished, tcp_super, udp_super
from tests.sim.network import Host, Simulation, packet
from tests.tunnel.hostile import connected, count, passes

ON_DEMAND = Settings(CipherSuite.AES256GCM, persistent=False)
NET = "10.{}.0.2"


def star(sim: Simulation, users: int) -> tuple[Host, list[Host]]:
    """One provider and several users, all with a session."""
    provider = sim.host("provider", 100)
    others = [sim.host(f"u{n}", n + 1) for n in range(users)]
    provider.start(
        [
            PeerConfig(f"u{n}", other.address, (ip_network(NET.format(n) + "/32"),))
            for n, other in enumerate(others)
        ],
        ON_DEMAND,
    )
    for n, other in enumerate(others):
        other.start([PeerConfig("provider", provider.address, (ip_network("192.168.50.0/24"),))], ON_DEMAND)
        other.send_packet(packet(NET.format(n), "192.168.50.1"), bytes([192, 168, 50, 1]))
    sim.run(1)
    assert len(provider.delivered) == users
    return provider, others


def wait(host: Host, other: Host, record: bytes, times: int = 1) -> None:
    """Enqueue, and do not flush."""
    for _ in range(times):
        host.tunnel.enqueue(host.peer(other), bytearray(record), host.sim.now)


def batches(host: Host) -> list[tuple[str, int, int]]:
    """All batches that can leave now: (peer, bytes, packets)."""
    found = []
    while (batch := host.tunnel.next_batch(host.arena, host.sim.now)) is not None:
        found.append((batch[0].name, batch[1], batch[2]))
    return found


@pytest.mark.parametrize("room", [6_000, 25_000, 1 << 30])
@pytest.mark.parametrize("held", [3_000, 60_000])
def test_a_peer_with_many_flows_gets_no_more_than_one_with_a_single_flow(room: int, held: int) -> None:
    """Of the single flow little waits at a time, as its congestion control has it; of the others, much."""
    sim = Simulation()
    provider, (one, many) = star(sim, 2)
    sent = {"u0": 0, "u1": 0}
    flow = packet("192.168.50.10", NET.format(0), bytes(1400))
    flows = [packet(f"192.168.50.{n}", NET.format(1), bytes(1400)) for n in range(1, 101)]
    while sum(sent.values()) < 20_000_000:
        while provider.peer(one).path.bytes_held < held:
            wait(provider, one, flow)
        if provider.peer(many).path.bytes_held < 300_000:
            for each in flows:
                wait(provider, many, each)
        batch = provider.tunnel.next_batch(provider.arena, sim.now, room)
        assert batch is not None
        sent[batch[0].name] += batch[1]
    assert sent["u0"] == pytest.approx(sent["u1"], rel=0.05)


def test_who_was_silent_may_not_make_up_for_it() -> None:
    sim = Simulation()
    provider, (one, other) = star(sim, 2)
    record = packet("192.168.50.10", NET.format(0), bytes(1400))
    for _ in range(5):
        wait(provider, one, record, 1000)
        batches(provider)
    wait(provider, one, record, 3000)
    wait(provider, other, packet("192.168.50.10", NET.format(1), bytes(1400)), 3000)
    ahead = 0
    while (batch := provider.tunnel.next_batch(provider.arena, sim.now, 20_000)) is not None:
        if batch[0].name == "u0":
            break
        ahead += batch[1]
    assert 0 < ahead <= CREDIT_BYTES + 60_000


def test_peers_take_turns_a_batch_each() -> None:
    sim = Simulation()
    provider, users = star(sim, 3)
    bulk = packet("192.168.50.1", NET.format(0), bytes(1400))
    wait(provider, users[0], bulk, 1000)
    wait(provider, users[1], packet("192.168.50.1", NET.format(1), bytes(1400)), 400)
    wait(provider, users[2], packet("192.168.50.1", NET.format(2)))
    found = batches(provider)
    names = [name for name, _, _ in found]
    assert names[:3] == ["u0", "u1", "u2"]
    assert names.index("u2") < 3
    assert [name for name in names if name != "u0"][:2] == ["u1", "u2"]
    turns = names[: 2 * names.count("u1")]
    assert abs(turns.count("u0") - turns.count("u1")) <= 1
    total = Counter[str]()
    for name, size, packets in found:
        assert size <= BATCH_BYTES
        total[name] += packets
    assert total == {"u0": 1000, "u1": 400, "u2": 1}
    assert not provider.tunnel.backlog


def test_batches_grow_where_each_is_signed_and_much_is_under_way() -> None:
    sim = Simulation()
    provider, users = star(sim, 1)
    tunnel, peer = provider.tunnel, provider.peer(users[0])
    bulk = packet("192.168.50.1", NET.format(0), bytes(1400))

    def leave(times: int) -> list[tuple[str, int, int]]:
        """Enqueue, and seal what may leave."""
        wait(provider, users[0], bulk, times)
        found = []
        sealed = memoryview(bytearray(len(provider.arena) + SEAL_BYTES))
        while (batch := tunnel.next_batch(provider.arena, sim.now)) is not None:
            _, size, packets, lane = batch
            tunnel.seal(peer, memoryview(provider.arena)[:size], sealed, lane)
            tunnel.sent(peer, lane, size, sim.now)
            found.append((peer.name, size, packets))
        return found

    def is_sent_at_once() -> bool:
        return bool(leave(1))

    assert leave(200), "a burst leaves"
    assert is_sent_at_once(), "a node that waives signatures: nothing waits"
    tunnel.link_signs[0] = True
    assert peer.path.lane.sending.under_way_bytes > GATHER_UNDER_WAY_BYTES
    assert not is_sent_at_once()
    assert tunnel.next_send_at(sim.now) == pytest.approx(peer.path.lane.sent_at + GATHER_S)
    later = sim.now + 10 * GATHER_S
    assert tunnel.next_send_at(later) <= later, "what waits is due, however late we look"
    tunnel.link_signs[0] = False
    assert tunnel.next_send_at(later) == NEVER, "a link that takes nothing says itself when it does"
    tunnel.link_signs[0] = True
    (grown,) = leave(GATHER_BYTES // 1400)
    assert grown[1] >= GATHER_BYTES, "enough waits"
    assert not is_sent_at_once()
    sim.now += 1.01 * GATHER_S
    assert is_sent_at_once(), "and after a moment it goes whatever it is"
    peer.path.lane.sending.reported_bytes = peer.path.lane.sending.total_bytes
    assert is_sent_at_once(), "all has arrived: a lone packet never waits"


def test_a_peer_without_a_session_does_not_hold_the_others_up() -> None:
    sim = Simulation()
    provider, users = star(sim, 3)
    sim.run(1)
    provider.tunnel.close(sim.now)
    provider.restart()
    users[0].stopped = True
    users[1].send_packet(packet(NET.format(1), "192.168.50.1"), bytes([192, 168, 50, 1]))
    sim.run(3)
    wait(provider, users[0], packet("192.168.50.1", NET.format(0)))
    provider.send_packet(packet("192.168.50.1", NET.format(1), b"through"), bytes([10, 1, 0, 2]))
    sim.run(1)
    assert users[1].delivered[-1].endswith(b"through")
    assert list(provider.tunnel.backlog) == [provider.peer(users[0])]


def test_what_waits_is_bounded_in_bytes_and_counted() -> None:
    sim, user, provider = connected()
    user.stopped = True
    sim.run(200)
    record = packet("192.168.50.1", "10.86.0.2", bytes(9000))
    wait(provider, user, record, 2000)
    peer = provider.peer(user)
    assert peer.path.lane.queue.bytes_held <= QUEUE_BYTES
    assert count(provider, "queue_full") + len(peer.path.lane.queue) == 2000


def test_a_batch_leaves_as_one_message_that_holds_all() -> None:
    sim, user, provider = connected()
    wait(user, provider, packet("10.86.0.2", "192.168.50.10", b"x"), 100)
    before = len(sim.sent)
    user.flush()
    assert len(sim.sent) == before + 1
    sim.run(1)
    assert len(provider.delivered) == 101
    assert user.peer(provider).traffic.tx_packets == 101
    assert provider.peer(user).traffic.rx_bytes == user.peer(provider).traffic.tx_bytes


@pytest.mark.parametrize(
    ("features", "whole"),
    [
        (Feature.ALL, {"tcp4", "tcp6", "udp", "partial"}),
        (Feature.ALL & ~Feature.USO, {"tcp4", "tcp6", "partial"}),
        (Feature.CHECKSUM | Feature.TSO4, {"tcp4", "partial"}),
        (Feature.CHECKSUM, {"partial"}),
        (Feature(0), set()),
    ],
)
def test_a_record_is_suited_to_the_peer_s_tun(features: Feature, whole: set[str]) -> None:
    _, user, provider = connected(
        provider=Settings(CipherSuite.AES256GCM, features=features, persistent=False)
    )
    records = {
        "tcp4": bytes(tcp_super(5000, 1000)),
        "tcp6": bytes(tcp_super(5000, 1000, version=6)),
        "udp": bytes(udp_super(5000, 1000)),
    }
    records["partial"] = bytes(offload.cut(memoryview(records["tcp4"]), 1200)[0])
    assert records["partial"][0] & offload.NEEDS_CSUM
    for name, record in records.items():
        pieces = [bytes(piece) for piece in user.peer(provider).path.suited(bytearray(record))]
        if name in whole:
            assert pieces == [record]
            continue
        assert len(pieces) == (1 if name == "partial" else 5)
        for piece in pieces:
            assert piece[:10] == offload.PLAIN
            assert_finished(piece[10:])


def test_the_smallest_segments_never_write_past_the_arena() -> None:
    sim, user, provider = connected(
        provider=Settings(CipherSuite.AES256GCM, features=Feature(0), persistent=False)
    )
    user.arena = bytearray(BATCH_BYTES + 4 + MAX_PACKET_BODY_BYTES)
    size = len(user.arena)
    wait(user, provider, bytes(tcp_super(60_000, 8, options=0)), 2)
    found = batches(user)
    assert len(user.arena) == size
    assert all(batch[1] <= size for batch in found)
    sim.run(0.1)
    assert passes(sim, user, provider)


def test_payloads_are_never_in_the_clear_and_never_the_same_twice() -> None:
    sim, user, provider = connected()
    for _ in range(5):
        wait(user, provider, packet("10.86.0.2", "192.168.50.10", b"the same secret"))
        user.flush()
    sent = [payload for source, _, payload in sim.sent if source == str(user.address)][-5:]
    assert not any(b"secret" in payload for payload in sent)
    assert len({bytes(Message.decode(payload).payload) for payload in sent}) == 5
    assert len({Message.decode(payload).nonce for payload in sent}) == 5
