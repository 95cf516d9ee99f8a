"""Datagrams that a stranger or a hostile peer sends to whole cores on a direct path."""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.wire.direct import OVERHEAD_BYTES, encode_probe
from nconnect.wire.tunnel import RecordKind, control_batch
from tests.sim.direct import Device, DirectWorld


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
            seen_from(user), memoryview(run), len(batch) + OVERHEAD_BYTES, provider._opened, world.clock.now
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
