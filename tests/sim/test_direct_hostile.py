"""Datagrams that a stranger or a hostile peer sends to whole cores on a direct path."""

from __future__ import annotations

import gc
import weakref
from ipaddress import ip_address

import pytest

from nconnect.errors import DropReason
from nconnect.model import Buffer, Endpoint
from nconnect.tunnel.paths.datagrams import BAD_TAGS, BAD_TAGS_ONE_OF
from nconnect.tunnel.paths.direct.keys import DirectKeys
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.wire.direct import OVERHEAD_BYTES, encode_header, encode_probe
from nconnect.wire.tunnel import RecordKind, control_batch
from tests.sim.direct import Device, DirectWorld

STRANGER = Endpoint(ip_address("203.0.113.77"), 5353)


def found() -> DirectWorld:
    world = DirectWorld()
    world.chat(1.0)
    assert world.both_direct
    world.run(0.2)
    return world


def seen_from(device: Device) -> Endpoint:
    """Where the other side sends to, and gets datagrams from."""
    other = device.world.provider if device is device.world.user else device.world.user
    assert other.peer.direct is not None
    assert other.peer.direct.remote is not None
    return other.peer.direct.remote


def sealed(device: Device, *batches: bytes) -> bytes:
    pair = device.peer.session.current
    assert pair is not None
    return b"".join(pair.direct.seal_run(batches))


def test_a_forged_tail_takes_nothing_with_it() -> None:
    """The kernel joins a shorter datagram to those before it from the same address, which may be forged."""
    world = found()
    user, provider = world.user, world.provider
    batch = control_batch((RecordKind.PACKET, provider.order[-1]))
    got, drops = len(provider.order), provider.tunnel.drops[DropReason.MALFORMED]
    for number, tail in enumerate((b"", b"x", bytes(OVERHEAD_BYTES - 1)), 1):
        run = sealed(user, batch, batch, batch) + tail
        packets = provider.tunnel.receive_datagrams(
            seen_from(user), memoryview(run), len(batch) + OVERHEAD_BYTES, world.clock.now
        )
        assert len(packets) == 3, number
    assert provider.tunnel.drops[DropReason.MALFORMED] == drops + 2
    provider.datagram(seen_from(user), b"x")
    assert provider.tunnel.drops[DropReason.MALFORMED] == drops + 3
    assert len(provider.order) == got


def test_many_probes_in_a_datagram_are_not_answered() -> None:
    """Each would be a datagram, and a call to the kernel: 30 for one, 1,600 for the largest."""
    world = found()
    user, provider = world.user, world.provider
    probes = [(RecordKind.PROBE, encode_probe(number)) for number in range(30)]
    before = provider.datagrams
    provider.datagram(seen_from(user), sealed(user, control_batch(*probes[:1])))
    assert provider.datagrams == before + 1
    bad = provider.peer.drops[DropReason.BAD_RECORD]
    provider.datagram(seen_from(user), sealed(user, control_batch(*probes)))
    assert provider.datagrams == before + 1
    assert provider.peer.drops[DropReason.BAD_RECORD] == bad + 1
    world.chat(1.0)
    assert user.state is provider.state is PathState.DIRECT


def forged(device: Device, number: int) -> list[bytes]:
    """Datagrams with the index of this device's session, from who does not have its keys."""
    pair = device.peer.session.current
    assert pair is not None
    first = pair.direct.counter + 1_000_000
    return [encode_header(pair.remote_index, first + n) + bytes(OVERHEAD_BYTES) for n in range(number)]


def test_of_a_flood_of_forged_datagrams_some_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    world = found()
    provider = world.provider
    tried: list[int] = []
    opens = DirectKeys.open

    def counted(keys: DirectKeys, counter: int, datagram: Buffer) -> bytes | DropReason:
        tried.append(counter)
        return opens(keys, counter, datagram)

    monkeypatch.setattr(DirectKeys, "open", counted)
    before = provider.peer.drops[DropReason.NOT_AUTHENTIC]
    for datagram in forged(world.user, BAD_TAGS + 10 * BAD_TAGS_ONE_OF):
        provider.datagram(STRANGER, datagram)
    assert len(tried) == BAD_TAGS + 10
    assert provider.peer.drops[DropReason.NOT_AUTHENTIC] == before + BAD_TAGS + 10 * BAD_TAGS_ONE_OF
    world.run(1.0)
    tried.clear()
    provider.datagram(STRANGER, forged(world.user, 1)[0])
    assert len(tried) == 1


def test_a_stranger_s_flood_stops_nothing_of_the_peer_s() -> None:
    """It has seen a datagram, so it knows the index. In the peer's name it would."""
    world = found()
    user, provider = world.user, world.provider
    for datagram in forged(user, BAD_TAGS + 100):
        provider.datagram(STRANGER, datagram)
    packet = provider.order[-1]
    seen = provider.got[packet]
    provider.datagram(seen_from(user), sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 1
    world.chat(2.0)
    assert user.state is provider.state is PathState.DIRECT
    for datagram in forged(user, BAD_TAGS + 1):
        provider.datagram(seen_from(user), datagram)
    provider.datagram(seen_from(user), sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 1


def test_a_peer_that_is_removed_is_forgotten() -> None:
    """Also after forged datagrams in its name, which are counted."""
    world = found()
    provider = world.provider
    provider.datagram(STRANGER, forged(world.user, 1)[0])
    peer = weakref.ref(provider.peer)
    provider.tunnel.set_peers((), world.clock.now)
    while provider.tunnel.poll_output() is not None:
        pass
    gc.collect()
    assert peer() is None


def test_what_came_first_by_udp_is_forgotten_with_the_session() -> None:
    world = found()
    user, provider = world.user, world.provider
    pair = user.peer.session.current
    assert pair is not None
    datagrams = provider.peer.datagrams
    assert datagrams is not None
    pair.counter += 1  # of a batch that the relay has yet to bring
    batch = memoryview(control_batch((RecordKind.PACKET, provider.order[-1])))
    for parts, _ in user.tunnel.seal_copies(user.peer, batch, world.clock.now):
        provider.datagram(seen_from(user), b"".join(parts))
    assert datagrams._copies
    provider.tunnel.close(world.clock.now)
    assert not datagrams._copies


def test_what_a_peer_lies_about_its_addresses_is_seen_in_its_drops() -> None:
    world = found()
    peer = world.provider.peer
    assert peer.direct is not None
    before = peer.all_drops().get("bad_record", 0)
    peer.direct.on_candidates(b"short", world.clock.now)
    assert peer.all_drops()["bad_record"] == before + 1
