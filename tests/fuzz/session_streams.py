"""Targets for streams inside a session: frames, and a peer that sends whatever it likes."""

from __future__ import annotations

from ipaddress import ip_address

from nconnect.errors import RemoteProtocolError
from nconnect.model import Endpoint
from nconnect.tunnel.streams.constants import MAX_STREAMS, WINDOW_BYTES
from nconnect.wire import tunnel_streams as wire
from nconnect.wire.tunnel_streams import Ack, Opening, StreamAnswer, StreamKind
from tests.fuzz.draw import Draw
from tests.tunnel.stream_world import World, pattern

_NUMBERS = (0, 1, 2, 3, 60, 1 << 10, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)
_PLACES = tuple(Endpoint(ip_address(text), 80) for text in ("192.168.50.10", "127.0.0.1", "fd50::10", "::"))
_READERS = {
    StreamKind.OPEN: (wire.decode_opening, wire.encode_opening),
    StreamKind.ACK: (wire.decode_ack, wire.encode_ack),
}


def stream_frames(data: bytes) -> None:
    _frame(data)
    _frame(_drawn(Draw(data), 7))


def _frame(data: bytes | bytearray) -> None:
    """What is taken is written again in the same way."""
    record = memoryview(bytes(data))
    try:
        frame = wire.decode_frame(record)
    except RemoteProtocolError:
        return
    for kind, (read, write) in _READERS.items():
        if frame.kind is kind:
            try:
                assert write(read(frame.body)) == frame.body  # type: ignore[operator]
            except RemoteProtocolError:
                return
    for reader in (wire.decode_answer, wire.decode_data, wire.decode_reset, wire.decode_carried):
        try:
            reader(frame.body)
        except RemoteProtocolError:
            continue


def _drawn(draw: Draw, id: int) -> bytearray:
    """A frame that is nearly right."""
    kind = draw.of(tuple(StreamKind))
    body = {
        StreamKind.OPEN: lambda: wire.encode_opening(
            Opening(draw.of(_NUMBERS), draw.of((6, 17, 0)), draw.of(_PLACES))
        ),
        StreamKind.ANSWER: lambda: wire.encode_answer(
            StreamAnswer(draw.of(_NUMBERS), draw.below(12), draw.text(9))
        ),
        StreamKind.DATA: lambda: (
            wire.encode_sequence(draw.of(_NUMBERS)) + bytes(draw.of((0, 1, 1200, 65_000)))
        ),
        StreamKind.ACK: lambda: wire.encode_ack(
            Ack(
                draw.of(_NUMBERS) << draw.of((0, 32)),
                [(draw.of(_NUMBERS), draw.of(_NUMBERS)) for _ in range(draw.below(4))],
            )
        ),
        StreamKind.RESET: lambda: wire.encode_reset(draw.below(12), draw.text(9)),
        StreamKind.DATAGRAM: lambda: wire.encode_carried(draw.of(_PLACES), draw.piece(9)),
    }[kind]()
    return wire.encode_frame(kind, draw.below(8), id, body + draw.of((b"", b"", draw.piece(9))))


def stream_machine(data: bytes) -> None:
    """Frames of the peer's that are nearly right, beside a stream of its that must not be disturbed."""
    draw = Draw(data)
    world = World()
    user, provider = world.opened()
    hostile, _ = world.opened()
    user.to_write += pattern(30_000)
    user.ends = True
    user.step()
    peer = world.user.peer(world.provider)
    for _ in range(min(40, draw.below(64))):
        id = draw.of((hostile.stream.id, hostile.stream.id + 1, 0))
        frame = _drawn(draw, id)
        peer.path.lane.queue.enqueue(1, frame, len(frame), world.sim.now)
        world.user.tunnel.backlog[peer] = None
        world.user.flush()
        world.run(draw.of((0.0, 0.001, 0.1)))
    assert world.run(30, lambda: provider.saw_eof)
    assert bytes(provider.got) == pattern(30_000)
    streams = world.provider.tunnel.streams
    assert streams.count <= MAX_STREAMS
    assert streams.memory_used <= 4 * WINDOW_BYTES
