"""Targets for NKN's sessions: packets, and a peer that sends whatever it likes."""

from __future__ import annotations

import random

from google.protobuf.message import DecodeError

from nconnect.errors import RemoteProtocolError
from nconnect.ncp.session import NcpState
from nconnect.ncp.settings import SessionSettings
from nconnect.wire.ncp import NcpPacket
from tests.fuzz.draw import Draw
from tests.ncp.world import IDS, World
from tests.wire import nkn_proto

_WINDOW_BYTES = 64 << 10
_NUMBERS = (0, 1, 2, 3, 60, 1 << 10, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)
_HOSTILE = "mallory." + "c" * 64


def ncp_packets(data: bytes) -> None:
    _packet(data)
    draw = Draw(data)
    _packet(_drawn(draw).encode() + draw.of((b"", b"", draw.piece(9))))


def _packet(data: bytes) -> None:
    """What is taken means the same to the protobuf library."""
    try:
        packet = NcpPacket.decode(data)
    except RemoteProtocolError:
        return
    try:
        theirs = nkn_proto.read("NcpPacket", data)
    except DecodeError:
        raise AssertionError("the library refuses it") from None
    assert packet.encode() == NcpPacket(
        theirs.sequence_id, theirs.data, tuple(theirs.ack_starts), tuple(theirs.ack_counts),
        theirs.bytes_read, tuple(theirs.client_ids), theirs.window_size, theirs.mtu,
        theirs.close, theirs.handshake, theirs.features, theirs.end,
    ).encode()  # fmt: skip
    assert NcpPacket.decode(packet.encode()) == packet


def _drawn(draw: Draw) -> NcpPacket:
    """A packet that is nearly right."""
    kind = draw.below(6)
    if kind == 0:
        ids = IDS[: draw.below(5)]
        return NcpPacket(
            client_ids=ids, window_size=draw.of(_NUMBERS), mtu=draw.of(_NUMBERS), handshake=True,
            features=draw.below(3),
        )  # fmt: skip
    if kind == 1:
        return NcpPacket(close=True)
    ranges = draw.below(4)
    return NcpPacket(
        draw.of(_NUMBERS) if kind > 2 else draw.below(8),
        draw.piece(9) or bytes(draw.of((0, 1, 1024, 60_000, 60_001))),
        tuple(draw.of(_NUMBERS) for _ in range(ranges)),
        tuple(draw.of(_NUMBERS) for _ in range(ranges)) if draw.flag() else (),
        draw.of(_NUMBERS),
        end=draw.flag(),
    )


def ncp_sessions(data: bytes) -> None:
    """A hostile peer with sessions at `b`, beside one of `a` that must not notice."""
    draw = Draw(data)
    world = World(a=SessionSettings(window=_WINDOW_BYTES), b=SessionSettings(window=_WINDOW_BYTES))
    session, other = world.established()
    sent = random.Random(data).randbytes(30_000)
    world.b.reads = draw.flag()
    world._sides[_HOSTILE] = _Sink()  # type: ignore[assignment]
    for id in (b"00000001", b"00000002"):
        mtu = draw.of((1, 1024, 60_000))
        handshake = NcpPacket(client_ids=IDS, window_size=1 << 20, mtu=mtu, handshake=True)
        if draw.flag():
            world.b.receive(_HOSTILE, id, "__0__", "__0__", handshake.encode())
    for _ in range(30):
        if not draw:
            break
        id = draw.of((b"00000001", b"00000002"))
        packet = _drawn(draw).encode() if draw.flag() else draw.piece(20)
        world.b.receive(_HOSTILE, id, draw.of(IDS), draw.of((*IDS, "", "__9__")), packet)
        theirs = [each for each in world.b.accepted if each.remote == _HOSTILE]
        if theirs and draw.flag():
            victim = draw.of(theirs)
            if victim.can_write and draw.flag():
                world.b.write(victim, bytes(draw.of((1, 5000))))
            elif draw.flag():
                world.b.close(victim)
        world.run(draw.of((0.0, 0.01, 0.1, 2.0)))
    for victim in world.b.accepted:
        assert victim.receiver.ready_bytes <= _WINDOW_BYTES
        if victim.sender is not None:
            assert victim.sender.peer_read <= victim.sender.written
            assert victim.sender.base <= victim.sender.next
    assert world.b.sessions.memory.used <= 3 * _WINDOW_BYTES
    world.b.reads = True
    assert session.state is NcpState.OPEN
    world.a.write(session, sent)
    world.until(lambda: len(world.b.got.get(other.id, b"")) == len(sent), within_s=10.0)
    assert bytes(world.b.got[other.id]) == sent


class _Sink:
    """Where what is sent to the hostile peer goes."""

    name = _HOSTILE

    def receive(self, *_: object) -> None: ...
