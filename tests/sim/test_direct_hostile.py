"""Datagrams that a stranger or a hostile peer sends to whole cores on a direct path."""

from __future__ import annotations

import gc
import weakref
from ipaddress import IPv4Address, ip_address

import pytest

from nconnect.errors import DropReason
from nconnect.model import Buffer, Endpoint
from nconnect.queueing.pacer import Pacer
from nconnect.tunnel.paths.direct.blocks import CLEAN_S, BlockRoom
from nconnect.tunnel.paths.direct.forged import FORGED_PROVEN, FORGED_SOURCE, FORGED_STRANGERS, OPENED_ONE_OF
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
    number = FORGED_SOURCE + 10 * OPENED_ONE_OF
    for datagram in forged(world.user, number):
        provider.datagram(STRANGER, datagram)
    assert len(tried) == FORGED_SOURCE + 10
    assert provider.peer.drops[DropReason.NOT_AUTHENTIC] == before + number
    # From everywhere.
    for n, datagram in enumerate(forged(world.user, number := FORGED_STRANGERS + 1000)):
        source = Endpoint(IPv4Address("192.0.2.0") + n % 250, 1000 + n)
        provider.datagram(source, datagram)
    assert len(tried) <= FORGED_STRANGERS + 10 + 1000 // OPENED_ONE_OF
    world.run(1.0)
    tried.clear()
    provider.datagram(STRANGER, forged(world.user, 1)[0])
    assert len(tried) == 1


def test_a_stranger_s_flood_stops_nothing_of_the_peer_s() -> None:
    """It has seen a datagram, so it knows the index. In the peer's name it would."""
    world = found()
    user, provider = world.user, world.provider
    for datagram in forged(user, FORGED_PROVEN + 100):
        provider.datagram(STRANGER, datagram)
    packet = provider.order[-1]
    seen = provider.got[packet]
    provider.datagram(seen_from(user), sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 1
    world.chat(2.0)
    assert user.state is provider.state is PathState.DIRECT
    for datagram in forged(user, FORGED_PROVEN + 1):
        provider.datagram(seen_from(user), datagram)
    provider.datagram(seen_from(user), sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 1


def test_a_stranger_s_flood_does_not_stop_a_peer_that_moves() -> None:
    """Its new address has answered nothing yet, and has a count of its own."""
    world = found()
    user, provider = world.user, world.provider
    for datagram in forged(user, FORGED_PROVEN):
        provider.datagram(STRANGER, datagram)
    packet = provider.order[-1]
    seen = provider.got[packet]
    elsewhere = Endpoint(IPv4Address("203.0.113.99"), 4444)
    provider.datagram(elsewhere, sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 1
    # Nor does another port of the peer's address, as of a neighbour behind the same NAT.
    neighbour = Endpoint(seen_from(user).address, 4444)
    for datagram in forged(user, FORGED_PROVEN):
        provider.datagram(neighbour, datagram)
    provider.datagram(seen_from(user), sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 2
    # A stranger's count is for one second.
    world.run(1.1)
    provider.datagram(STRANGER, sealed(user, control_batch((RecordKind.PACKET, packet))))
    assert provider.got[packet] == seen + 3


def test_a_peer_that_is_removed_is_forgotten() -> None:
    """Also after forged datagrams in its name, which are counted."""
    world = found()
    provider = world.provider
    provider.datagram(STRANGER, forged(world.user, 1)[0])
    peer = weakref.ref(provider.peer)
    provider.tunnel.set_peers((), world.clock.now)
    while provider.tunnel.poll_output() is not None:
        pass
    provider.pongs.clear()
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
    assert datagrams.copies._came
    provider.tunnel.close(world.clock.now)
    assert not datagrams.copies._came


def test_what_a_peer_lies_about_its_addresses_is_seen_in_its_drops() -> None:
    world = found()
    peer = world.provider.peer
    assert peer.direct is not None
    before = peer.all_drops().get("bad_record", 0)
    peer.direct.on_candidates(b"short", world.clock.now)
    assert peer.all_drops()["bad_record"] == before + 1


def pieces(device: Device, *packets: bytes, datagram_bytes: int = 1200) -> list[bytes]:
    """Datagrams of a block."""
    pair = device.peer.session.current
    assert pair is not None
    batch = control_batch(*((RecordKind.PACKET, packet) for packet in packets))
    parts = pair.direct.seal_block(batch, datagram_bytes, BlockRoom())
    return [bytes(parts[at]) + bytes(parts[at + 1]) for at in range(0, len(parts), 2)]


def take(device: Device, *datagrams: bytes, segment: int = 1200) -> list[bytes]:
    """What one run of datagrams brings."""
    world = device.world
    other = world.provider if device is world.user else world.user
    run = memoryview(b"".join(datagrams))
    found = device.tunnel.receive_datagrams(seen_from(other), run, segment, world.clock.now)
    return [bytes(packet) for packet in found]


def test_a_block_comes_whole_or_in_any_pieces() -> None:
    world = found()
    user, provider = world.user, world.provider
    packets = [provider.order[-1]] * 40
    run = pieces(user, *packets)
    assert len(run) > 3
    assert take(provider, *run) == packets
    assert take(provider, *run) == []  # again
    run = pieces(user, *packets)
    assert take(provider, *run[:2]) == []
    assert take(provider, *run[2:]) == packets
    run = pieces(user, *packets)
    assert [take(provider, datagram) for datagram in run[1:]] == [[]] * (len(run) - 1)
    assert take(provider, run[0]) == packets
    one, two = pieces(user, *packets), pieces(user, *packets[:1] * 30)
    assert take(provider, one[0], two[0], *one[1:-1], *two[1:]) == packets[:30]
    assert take(provider, one[-1]) == packets


def test_a_run_may_have_blocks_and_single_datagrams() -> None:
    world = found()
    user, provider = world.user, world.provider
    packet = provider.order[-1]
    size = len(control_batch((RecordKind.PACKET, packet))) + OVERHEAD_BYTES
    batch = control_batch((RecordKind.PACKET, packet))
    single, block = sealed(user, batch), pieces(user, *[packet] * 3, datagram_bytes=size)
    after = sealed(user, batch)
    assert len(block) > 2
    assert len(take(provider, single, *block[:-1], after, segment=size)) == 2
    assert len(take(provider, block[-1], segment=size)) == 3


def test_a_forged_piece_spoils_its_block_and_no_other() -> None:
    world = found()
    user, provider = world.user, world.provider
    packets = [provider.order[-1]] * 40
    run = pieces(user, *packets)
    spoilt = [*run[:1], run[1][:-1] + bytes([run[1][-1] ^ 1]), *run[2:]]
    bad = provider.peer.drops[DropReason.NOT_AUTHENTIC]
    assert take(provider, *spoilt) == []
    assert provider.peer.drops[DropReason.NOT_AUTHENTIC] == bad + len(run)
    assert take(provider, *pieces(user, *packets)) == packets
    assert take(provider, *run) == packets  # the genuine one, later


def test_pieces_of_no_block_are_counted() -> None:
    world = found()
    user, provider = world.user, world.provider
    first, *_ = run = pieces(user, *[provider.order[-1]] * 40)
    malformed = provider.peer.drops[DropReason.MALFORMED]
    for place, number in ((0, 0), (4, 4), (200, 3)):
        assert take(provider, first[:8] + bytes((place, number)) + first[10:]) == []
    assert provider.peer.drops[DropReason.MALFORMED] == malformed + 3
    unknown = provider.tunnel.drops[DropReason.NO_SESSION]
    assert take(provider, bytes([first[0] ^ 1]) + first[1:]) == []
    assert provider.tunnel.drops[DropReason.NO_SESSION] == unknown + 1
    assert take(provider, *run) == [provider.order[-1]] * 40


def runs_of(device: Device, packets: list[bytes]) -> list[tuple[list[bytes], int]]:
    """What a device sends for a batch: (parts, size of a datagram) of each run."""
    batch = control_batch(*((RecordKind.PACKET, packet) for packet in packets))
    runs = device.tunnel.seal_datagrams(device.peer, memoryview(batch), device.world.clock.now)
    return [([bytes(part) for part in parts], segment) for parts, segment in runs]


def test_blocks_are_sent_where_much_arrives_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    world = found()
    user, provider = world.user, world.provider
    assert user.peer.datagrams is not None
    packets = [provider.order[-1]] * 700

    def are_blocks() -> bool:
        found: set[bool] = set()
        came: list[bytes] = []
        for parts, segment in runs_of(user, packets):
            assert sum(map(len, parts)) <= 65507
            assert len(parts) <= 2 * 64
            found.add(bool(parts[0][7] & 0x80))
            came += take(provider, *parts, segment=segment or 1200)
        provider.tunnel.datagrams.flush(world.clock.now)
        provider.drain()
        world.run(0.1)
        assert came == packets
        assert len(found) == 1
        return found.pop()

    assert not are_blocks(), "it would arrive later as a whole"
    monkeypatch.setattr(Pacer, "acknowledged_rate", 1e9)
    assert are_blocks()
    runs_of(user, packets[:100])  # which are lost
    assert are_blocks()
    assert not are_blocks(), "the loss was reported"
    world.run(CLEAN_S)
    assert are_blocks()
