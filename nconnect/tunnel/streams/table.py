"""All streams of all peers: who has which, what is due, and the bounds on what a peer may cost."""

from __future__ import annotations

import heapq
from collections import deque

from nconnect.errors import DropReason, RemoteProtocolError
from nconnect.model import Buffer, Endpoint
from nconnect.ncp.memory import StreamMemory
from nconnect.queueing.fq_codel import MAX_FLOWS
from nconnect.tunnel.outputs import Context, DatagramCame, StreamAsked, StreamMoved
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.streams import constants
from nconnect.tunnel.streams.stream import StreamState, TunnelStream
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.wire.tunnel_streams import (
    FROM_OPENER,
    MAX_CARRIED_BYTES,
    PROTOCOL_TCP,
    StreamAnswer,
    StreamFrame,
    StreamKind,
    decode_carried,
    decode_frame,
    decode_opening,
    encode_answer,
    encode_carried,
    encode_frame,
    encode_reset,
    is_acknowledgement,
)

TOO_MANY = 9  # `nconnect.streams.dialler.RefusalCode`
FAILED = 1
LOOK_AGAIN_S = 0.010
_LOOSE_FLOW = 1 << 20
_ACK_FLOW = MAX_FLOWS // 2


class _OfPeer:
    """One peer's."""

    def __init__(self) -> None:
        self.streams: dict[tuple[bool, int], TunnelStream] = {}  # by (ours, id)
        self.ready: dict[TunnelStream, None] = {}  # those that may have a frame to send
        self.loose: deque[tuple[int, bytearray]] = deque()  # (flow, frame) of no stream
        self.datagrams: deque[tuple[int, bytearray]] = deque()
        self.times: list[tuple[float, int, TunnelStream]] = []  # a heap; void if not at stream.look_at
        self.resets = constants.MAX_RESETS_PER_S  # left in the second that began at `since`
        self.since = -NEVER


class StreamTable:
    """Part of `nconnect.tunnel.core.Tunnel`. The send queue pulls frames by `pull`."""

    def __init__(self, context: Context) -> None:
        self.ready: dict[Peer, None] = {}  # peers for which there may be frames
        self._outputs, self._timer_heap = context.outputs, context.timer_heap
        self._of: dict[Peer, _OfPeer] = {}
        self._memory = StreamMemory()
        self._rng = context.rng
        self._last_id = 0  # begins anywhere: the peer may hold streams of our last run
        self._number = 0

    @property
    def count(self) -> int:
        """How many streams there are, those that are about to be forgotten included."""
        return sum(len(of.streams) for of in self._of.values())

    @property
    def memory_used(self) -> int:
        """Bytes that came and were not read yet."""
        return self._memory.used

    # What this side does

    def open(self, peer: Peer, target: Endpoint, now: float) -> TunnelStream:
        """Open a stream to a TCP server behind the peer; `StreamMoved` says when there is an answer."""
        of = self._of.setdefault(peer, _OfPeer())
        stream = self._made(peer, of, self._new_id(), target, now, is_ours=True)
        if len(of.streams) > constants.MAX_STREAMS:
            stream.lose("this device has too many streams to that peer", now)
            stream.code = TOO_MANY
        self.touched(stream, now)
        return stream

    def accept(self, stream: TunnelStream, now: float) -> None:
        """The target of a stream that the peer asked for is connected."""
        stream.accept(now)
        self.touched(stream, now)

    def touched(self, stream: TunnelStream, now: float) -> None:
        """Call it after each call of a stream's own methods, other than its properties."""
        of = self._of.get(stream.peer)
        if of is not None and (stream.is_ours, stream.id) in of.streams:
            of.ready[stream] = None
            self._wake(stream.peer, now)

    def send_datagram(
        self, peer: Peer, channel: int, place: Endpoint, data: Buffer, now: float, *, is_ours: bool
    ) -> bool:
        """Send a datagram to `place` (`is_ours`: this side opened the channel) or from it; False: dropped."""
        of = self._of.setdefault(peer, _OfPeer())
        if len(of.datagrams) >= constants.MAX_DATAGRAMS or len(data) > MAX_CARRIED_BYTES - 32:
            return False
        frame = encode_frame(
            StreamKind.DATAGRAM, FROM_OPENER if is_ours else 0, channel, encode_carried(place, data)
        )
        of.datagrams.append((_LOOSE_FLOW + channel, frame))
        self._wake(peer, now)
        return True

    def new_channel(self) -> int:
        """The id of a new channel for datagrams."""
        return self._new_id()

    def _new_id(self) -> int:
        self._last_id = (self._last_id or int.from_bytes(self._rng(4))) % 0xFFFFFFFF + 1
        return self._last_id

    # What the peers do

    def receive(self, peer: Peer, record: memoryview, now: float) -> None:
        """An authentic frame of this peer's. Hostile ones are counted."""
        try:
            self._receive(peer, decode_frame(record), now)
        except RemoteProtocolError:
            peer.drops[DropReason.BAD_RECORD] += 1

    def _receive(self, peer: Peer, frame: StreamFrame, now: float) -> None:
        is_ours = not frame.flags & FROM_OPENER
        of = self._of.get(peer)
        if frame.kind is StreamKind.DATAGRAM:
            place, data = decode_carried(frame.body)
            self._outputs.append(DatagramCame(peer, frame.id, place, bytes(data), is_ours))
            return
        stream = None if of is None else of.streams.get((is_ours, frame.id))
        if frame.kind is StreamKind.OPEN:
            if is_ours:
                raise RemoteProtocolError("a stream that its accepter opens")
            if stream is None:
                self._asked(peer, frame, now)
                return
            stream.asked_again(now)
        elif stream is None:
            if frame.kind is not StreamKind.RESET:
                self._unknown(peer, frame, now)
            return
        else:
            stream.receive(frame, now)
            if not stream.is_told:
                stream.is_told = True
                self._outputs.append(StreamMoved(stream))
        self.touched(stream, now)

    def _asked(self, peer: Peer, frame: StreamFrame, now: float) -> None:
        opening = decode_opening(frame.body)
        of = self._of.setdefault(peer, _OfPeer())
        why = ""
        if opening.protocol != PROTOCOL_TCP:
            code, why = FAILED, "only TCP is understood"
        elif len(of.streams) >= constants.MAX_STREAMS:
            code, why = TOO_MANY, f"there are {constants.MAX_STREAMS} streams already"
        if why:
            self._say(
                peer, of, StreamKind.ANSWER, 0, frame.id, encode_answer(StreamAnswer(0, code, why)), now
            )
            return
        stream = self._made(peer, of, frame.id, opening.target, now, is_ours=False)
        stream.peer_window = opening.window
        self._outputs.append(StreamAsked(stream))

    def _unknown(self, peer: Peer, frame: StreamFrame, now: float) -> None:
        """A frame of a stream that we do not have, or no more: say so."""
        of = self._of.setdefault(peer, _OfPeer())
        body = encode_reset(0, "the other side does not know this stream: it was restarted, perhaps")
        self._say(peer, of, StreamKind.RESET, frame.flags & FROM_OPENER ^ FROM_OPENER, frame.id, body, now)

    def _say(
        self, peer: Peer, of: _OfPeer, kind: StreamKind, flags: int, id: int, body: bytes, now: float
    ) -> None:
        if now - of.since >= 1.0:
            of.since, of.resets = now, constants.MAX_RESETS_PER_S
        if of.resets > 0 and len(of.loose) < constants.MAX_LOOSE:
            of.resets -= 1
            of.loose.append((_LOOSE_FLOW, encode_frame(kind, flags, id, body)))
            self._wake(peer, now)

    def _made(
        self, peer: Peer, of: _OfPeer, id: int, target: Endpoint, now: float, *, is_ours: bool
    ) -> TunnelStream:
        share = constants.UNACKED_BYTES // (len(of.streams) + 1)
        window = max(constants.LEAST_WINDOW_BYTES, min(constants.WINDOW_BYTES, share))
        stream = of.streams[is_ours, id] = TunnelStream(
            peer, id, target, now, is_ours=is_ours, window=window, memory=self._memory
        )
        self._schedule(of, stream)
        return stream

    # The end of a session

    def end(self, peer: Peer, why: str, now: float) -> None:
        """The session with this peer has ended: all its streams are lost."""
        of = self._of.pop(peer, None)
        if of is None:
            return
        self.ready.pop(peer, None)
        peer.timers.clear(Timer.STREAMS)
        for stream in of.streams.values():
            if stream.state is not StreamState.CLOSED:
                stream.lose(why, now)
                self._tell(stream)

    def of(self, peer: Peer) -> list[TunnelStream]:
        """The streams with this peer that are not over."""
        of = self._of.get(peer)
        return [] if of is None else [s for s in of.streams.values() if s.state is not StreamState.CLOSED]

    # Time

    def on_timer(self, peer: Peer, now: float) -> None:
        """This peer's timer is due: the streams whose time has come may have frames."""
        of = self._of.get(peer)
        if of is None:
            return
        times = of.times
        while times and times[0][0] <= now:
            at, _, stream = heapq.heappop(times)
            if at != stream.look_at:
                continue
            stream.look_at = NEVER
            state = stream.state
            stream.handle_timeout(now)
            if stream.state is not state:
                self._tell(stream)
            if stream.forget_at <= now:
                of.streams.pop((stream.is_ours, stream.id), None)
                of.ready.pop(stream, None)
                continue
            of.ready[stream] = None
            self._schedule(of, stream, now + LOOK_AGAIN_S)  # in case the send queue has no room for it
        if of.ready or of.loose or of.datagrams:
            self.ready[peer] = None
        self._set_timer(peer, of)

    def _tell(self, stream: TunnelStream) -> None:
        if not stream.is_told:
            stream.is_told = True
            self._outputs.append(StreamMoved(stream))

    def _wake(self, peer: Peer, now: float) -> None:
        self.ready[peer] = None
        peer.timers.set(Timer.STREAMS, now)
        self._timer_heap.schedule(peer)

    def _schedule(self, of: _OfPeer, stream: TunnelStream, least: float = -NEVER) -> None:
        at = max(least, stream.timeout_at())
        if at < stream.look_at:
            stream.look_at = at
            self._number += 1
            heapq.heappush(of.times, (at, self._number, stream))

    def _set_timer(self, peer: Peer, of: _OfPeer) -> None:
        times = of.times
        while times and times[0][0] != times[0][2].look_at:
            heapq.heappop(times)
        peer.timers.set(Timer.STREAMS, times[0][0] if times else NEVER)
        self._timer_heap.schedule(peer)

    # What is to be sent

    def pull(
        self, peer: Peer, most: int, held: dict[int, int], room_each: int, now: float
    ) -> list[tuple[int, bytearray]]:
        """Frames that may enter the send queue now, each with its flow, in turns.

        `most`: about how much data one should have. `held`: what the queue holds already, by flow modulo
        `MAX_FLOWS`. `room_each`: so much of one stream may wait there.
        """
        del self.ready[peer]
        of = self._of.get(peer)
        if of is None:
            return []
        found = [*of.loose]
        of.loose.clear()
        room = constants.MAX_PULL_BYTES
        while of.datagrams and room > 0:
            found.append(of.datagrams.popleft())
            room -= len(found[-1][1])
        turn = list(of.ready)
        while turn and room > 0:
            again = []
            for stream in turn:
                if room <= 0 or held.get(stream.flow % MAX_FLOWS, 0) >= room_each:
                    continue  # stays ready: there is room when the queue has moved
                unsent = stream.unsent
                frame = stream.next_frame(now, most)
                if frame is None:
                    del of.ready[stream]
                    if stream.unsent < unsent:
                        self._tell(stream)
                    self._schedule(of, stream)
                    continue
                if is_acknowledgement(frame):  # goes ahead of the stream's own bulk
                    found.append((stream.flow ^ _ACK_FLOW, frame))
                    again.append(stream)
                    continue
                found.append((stream.flow, frame))
                flow = stream.flow % MAX_FLOWS
                held[flow] = held.get(flow, 0) + len(frame)
                room -= len(frame)
                again.append(stream)
                if unsent and stream.unsent < unsent:
                    self._tell(stream)
            turn = again
        if of.ready:
            self.ready[peer] = None
        self._set_timer(peer, of)
        return found
