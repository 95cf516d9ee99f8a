"""One stream: opening, data both ways, the end. A state machine without I/O or clock."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from nconnect.model import Buffer, Endpoint
from nconnect.ncp.memory import StreamMemory
from nconnect.ncp.pairs import SubClientPair
from nconnect.ncp.receiving import NcpReceiver
from nconnect.ncp.sending import NcpSender
from nconnect.ncp.sequence import to_wire
from nconnect.tunnel.streams import constants
from nconnect.tunnel.timers import NEVER
from nconnect.wire.tunnel_streams import (
    ACCEPTED,
    ASK,
    END,
    FROM_OPENER,
    MAX_DATA_BYTES,
    PROTOCOL_TCP,
    Ack,
    Opening,
    StreamAnswer,
    StreamFrame,
    StreamKind,
    decode_ack,
    decode_answer,
    decode_data,
    decode_reset,
    encode_ack,
    encode_answer,
    encode_frame,
    encode_opening,
    encode_reset,
    encode_sequence,
)

if TYPE_CHECKING:
    from nconnect.tunnel.peer import Peer


_READS_NO_MORE = "the other side reads no more"


class StreamState(Enum):
    ASKED = "asked"  # opened by one side, not answered by the other
    OPEN = "open"
    CLOSED = "closed"  # nothing is written any more; what came may be read


class TunnelStream:
    """A stream with a peer. Every method that takes `now` may make frames due; `StreamTable` collects them.

    `code` and `why` say what is wrong with a stream that was refused, reset or lost; after a proper end
    `why` is "".
    """

    def __init__(
        self,
        peer: Peer,
        id: int,
        target: Endpoint,
        now: float,
        *,
        is_ours: bool,
        window: int,
        memory: StreamMemory,
    ) -> None:
        """`is_ours`: this side opens it, to `target` at the peer. `window`: in bytes, each way."""
        self.peer = peer
        self.id = id
        self.target = target
        self.is_ours = is_ours
        self.state = StreamState.ASKED
        self.why = ""
        self.code = 0
        self.closed_here = False
        self.is_told = False  # a `StreamMoved` is under way to the shell
        self.look_at = NEVER  # when the table looks at its time
        self.peer_window = 0  # of a stream that the peer opens: what it takes
        self.receiver = NcpReceiver(peer.dest, window=window, mtu=MAX_DATA_BYTES, memory=memory)
        self.sender: NcpSender | None = None  # once it is open
        self._window = window
        self._due: deque[bytearray] = deque()
        self._asking = _Asking(now) if is_ours else None
        self._acks = _Acks()
        self._silence = _Silence(now)
        self._progress_at = now
        self.forget_at = NEVER

    # What the program does

    @property
    def flow(self) -> int:
        """Its flow in the send queue."""
        return self.id

    @property
    def _flags(self) -> int:
        return FROM_OPENER if self.is_ours else 0

    @property
    def can_write(self) -> bool:
        sender = self.sender
        return self.state is StreamState.OPEN and sender is not None and not sender.wants_end

    @property
    def at_eof(self) -> bool:
        """Whether everything was read that will ever come."""
        ended = self.receiver.at_end or self.state is StreamState.CLOSED
        return ended and not self.receiver.ready_bytes

    @property
    def unsent(self) -> int:
        """Bytes written that no frame has taken yet."""
        return 0 if self.sender is None else self.sender.buffered

    @property
    def is_over(self) -> bool:
        """Whether it is closed, and what had to be said is said."""
        return self.state is StreamState.CLOSED and not self._due

    def write(self, data: Buffer) -> None:
        """Append to the stream. Only while `can_write`; `data` must not change afterwards."""
        assert self.can_write
        assert self.sender is not None
        self.sender.write(data)

    def read(self, most: int, now: float) -> bytes:
        """Take up to `most` bytes of what came."""
        data = self.receiver.read(most)
        if data and self.state is StreamState.OPEN:
            unsaid = self.receiver.bytes_read - self._acks.told_read
            self._acks.due_by(now if unsaid >= self._window // 4 else now + constants.READ_S)
        return data

    def accept(self, now: float) -> None:
        """The target of a stream that the peer opened is connected."""
        if self.state is StreamState.ASKED:
            self._say_accepted()
            self._open(self.peer_window, now)

    def refuse(self, code: int, why: str, now: float) -> None:
        """The peer may not have this stream, or its target cannot be reached."""
        if self.state is StreamState.ASKED:
            self._due.append(self._frame(StreamKind.ANSWER, encode_answer(StreamAnswer(0, code, why))))
            self._break(code, why, now)

    def end(self, now: float) -> None:
        """Nothing more will be written."""
        if self.can_write and self.sender is not None:
            self.sender.wants_end = True
            self._progress_at = now

    def close(self, now: float) -> None:
        """Nothing more is written or read; what was written still arrives."""
        if self.closed_here:
            return
        if self.state is StreamState.ASKED:
            self.abort(0, "the stream was closed before it was open", now)
            return
        self.closed_here = True
        self.end(now)
        self.receiver.close(discard=True)
        self._progress_at = now
        self._finish(now)

    def abort(self, code: int, why: str, now: float) -> None:
        """End both directions at once, and tell the peer."""
        if self.state is not StreamState.CLOSED:
            self._due.append(self._frame(StreamKind.RESET, encode_reset(code, why)))
            self._break(code, why, now)
        self.closed_here = True
        self.receiver.close(discard=True)

    def lose(self, why: str, now: float) -> None:
        """The session with the peer has ended: there is nobody to tell."""
        if self.state is not StreamState.CLOSED:
            self._break(0, why, now)
        self._due.clear()

    # What the network brings

    def receive(self, frame: StreamFrame, now: float) -> None:
        """A frame of this stream, other than OPEN. Raises `RemoteProtocolError`, with nothing changed."""
        kind, flags, _, body = frame
        if kind is StreamKind.DATA:
            sequence, data = decode_data(body)
            self._silence.broken(now)
            self._on_data(sequence, data, is_end=bool(flags & END), now=now)
        elif kind is StreamKind.ACK:
            ack = decode_ack(body)
            self._silence.broken(now)
            self._on_ack(ack, now)
            if flags & ASK and self.state is StreamState.OPEN:
                self._acks.due_by(now)
        elif kind is StreamKind.ANSWER:
            answer = decode_answer(body)
            self._silence.broken(now)
            self._on_answer(answer, now)
        elif kind is StreamKind.RESET:
            code, text = decode_reset(body)
            if self.state is not StreamState.CLOSED:
                self._break(code, text or "the other side has reset the stream", now)

    def asked_again(self, now: float) -> None:
        """The peer has repeated its OPEN: our answer was lost, unless there is none yet."""
        if self.state is StreamState.OPEN and not self.is_ours and not self._due:
            self._say_accepted()

    def _say_accepted(self) -> None:
        answer = StreamAnswer(self._window, ACCEPTED, "")
        self._due.append(self._frame(StreamKind.ANSWER, encode_answer(answer)))

    def _on_answer(self, answer: StreamAnswer, now: float) -> None:
        if not self.is_ours or self.state is not StreamState.ASKED:
            return
        if answer.code == ACCEPTED:
            self._open(answer.window, now)
        else:
            self._break(answer.code, answer.text or "the provider refuses it", now)

    def _on_data(self, sequence: int, data: memoryview, *, is_end: bool, now: float) -> None:
        if self.state is StreamState.ASKED:
            return  # the answer is late or lost; both are sent again
        if self.why or (self.closed_here and len(data)):
            if self.state is not StreamState.CLOSED:
                is_delivered = self.sender is not None and not self.sender.has_unacked_data()
                self.abort(0, _READS_NO_MORE, now)
                self.why = "" if is_delivered else self.why  # then nothing is wrong on this side
            elif not self._due:
                why = self.why or _READS_NO_MORE
                self._due.append(self._frame(StreamKind.RESET, encode_reset(self.code, why)))
            return
        receiver = self.receiver
        receiver.receive(sequence, bytes(data), is_end)
        self._acks.bytes_since += len(data)
        if receiver.owes_ack:
            self._acks.due_by(now if self._acks.bytes_since >= self._window // 8 else now + constants.ACK_S)
        self._finish(now)

    def _on_ack(self, ack: Ack, now: float) -> None:
        sender = self.sender
        if sender is None or self.state is not StreamState.OPEN:
            return
        fresh = bool(ack.ranges) and sender.acked(ack.ranges, now)
        if sender.read_by_peer(ack.bytes_read) or fresh:
            self._progress_at = now
            self._finish(now)

    def _open(self, window: int, now: float) -> None:
        pair = SubClientPair(0, "", "", 1.0)
        pair.min_rto_s, pair.reorder_s = constants.MIN_RTO_S, constants.REORDER_S
        self.sender = NcpSender([pair], window=min(self._window, window), mtu=constants.MIN_DATA_BYTES)
        self.state = StreamState.OPEN
        self._progress_at = now
        self._silence.broken(now)

    def _finish(self, now: float) -> None:
        """Close it when both directions have ended and are acknowledged."""
        sender = self.sender
        if self.state is not StreamState.OPEN or sender is None or not (sender.sent_end and sender.is_acked):
            return
        if self.receiver.at_end or self.closed_here:
            self.state = StreamState.CLOSED
            self.forget_at = now + constants.FORGET_S

    def _break(self, code: int, why: str, now: float) -> None:
        self.state = StreamState.CLOSED
        self.code, self.why = code, why
        self._acks.at = NEVER
        self.forget_at = now + constants.FORGET_S
        if self.sender is not None:
            self.sender.drop()
        self.receiver.close(discard=False)

    # What is to be sent

    def next_frame(self, now: float, most: int) -> bytearray | None:
        """The next frame, with at most about `most` bytes of data; it counts as sent. None: there is none."""
        if self._due:
            return self._due.popleft()
        if self.state is StreamState.ASKED:
            if self._asking is None or not self._asking.is_due(now):
                return None
            opening = Opening(self._window, PROTOCOL_TCP, self.target)
            return self._frame(StreamKind.OPEN, encode_opening(opening))
        sender = self.sender
        if sender is None:
            return None
        if self._acks.at <= now or self._silence.asks:
            return self._acknowledgement(now)
        if self.state is not StreamState.OPEN:
            return None
        sender.mtu = max(constants.MIN_DATA_BYTES, min(most, MAX_DATA_BYTES))
        sent = sender.next_packet(now, _always)
        if sent is None:
            return None
        _, count, packet = sent
        flags = self._flags | END if packet.end else self._flags
        return encode_frame(StreamKind.DATA, flags, self.id, encode_sequence(to_wire(count)), packet.data)

    def _acknowledgement(self, now: float) -> bytearray:
        receiver = self.receiver
        starts, lengths = receiver.acks()
        self._acks.said(receiver.bytes_read, now if receiver.owes_ack else NEVER)
        flags = self._flags | ASK if self._silence.asks else self._flags
        self._silence.asks = False
        ranges = list(zip(starts, lengths or (1,) * len(starts), strict=True))
        return encode_frame(StreamKind.ACK, flags, self.id, encode_ack(Ack(receiver.bytes_read, ranges)))

    def _frame(self, kind: StreamKind, body: bytes) -> bytearray:
        return encode_frame(kind, self._flags, self.id, body)

    # Time

    def timeout_at(self) -> float:
        """When `handle_timeout` must be called; `NEVER` if nothing is to come."""
        if self.state is StreamState.CLOSED:
            return min(self.forget_at, self._acks.at)
        if self.state is StreamState.ASKED:
            return NEVER if self._asking is None else self._asking.next_at()
        sender = self.sender
        assert sender is not None
        at = min(self._acks.at, self._silence.next_at(is_full=sender.waits_for_room))
        if (lost_at := sender.timeout_at()) is not None:
            at = min(at, lost_at)
        return min(at, self._progress_at + constants.LINGER_S) if self.closed_here else at

    def handle_timeout(self, now: float) -> None:
        """A deadline has passed."""
        if self.state is StreamState.ASKED:
            if self._asking is not None and now >= self._asking.until:
                self.abort(0, "the peer does not answer", now)
            return
        sender = self.sender
        if self.state is not StreamState.OPEN or sender is None:
            return
        if self.closed_here and now >= self._progress_at + constants.LINGER_S:
            self.abort(0, f"the other side has taken nothing for {constants.LINGER_S:.0f} s", now)
        elif self._silence.is_gone(now):
            self.abort(0, f"the peer has been silent for {now - self._silence.heard_at:.0f} s", now)
        else:
            self._silence.look(now, is_full=sender.waits_for_room)
            sender.look_for_losses(now)


class _Asking:
    """When OPEN is sent, and sent again."""

    def __init__(self, now: float) -> None:
        self.until = now + constants.OPEN_S
        self._tries = 0
        self._at = now

    def is_due(self, now: float) -> bool:
        """Whether it is to be sent now; it counts as sent."""
        if now < self._at:
            return False
        self._at = now + constants.OPEN_RETRY_S[min(self._tries, len(constants.OPEN_RETRY_S) - 1)]
        self._tries += 1
        return True

    def next_at(self) -> float:
        return min(self._at, self.until)


class _Acks:
    """When an acknowledgement is due, and what the last one said."""

    def __init__(self) -> None:
        self.at = NEVER
        self.told_read = 0
        self.bytes_since = 0  # received since then

    def due_by(self, at: float) -> None:
        self.at = min(self.at, at)

    def said(self, bytes_read: int, next_at: float) -> None:
        self.told_read, self.bytes_since, self.at = bytes_read, 0, next_at


class _Silence:
    """How long nothing came, and whether the other side is to be asked for a sign of life, or for room."""

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.asks = False
        self._tries = 0
        self._ask_at = NEVER  # the next time, once it was asked

    def broken(self, now: float) -> None:
        """Something came."""
        self.heard_at = now
        self._tries, self._ask_at = 0, NEVER

    def next_at(self, *, is_full: bool) -> float:
        """When to ask. `is_full`: the other side has no room for what is to be sent."""
        if self._ask_at < NEVER:
            return self._ask_at
        return self.heard_at + (constants.FULL_S if is_full else constants.IDLE_S)

    def look(self, now: float, *, is_full: bool) -> None:
        if now >= self.next_at(is_full=is_full):
            self.asks = True
            self._tries += 1
            self._ask_at = now + (constants.FULL_S if is_full else constants.PROBE_S)

    def is_gone(self, now: float) -> bool:
        """Whether it has not answered for too long."""
        return (
            self._tries >= constants.GONE_PROBES
            and now - self.heard_at >= constants.GONE_S
            and now >= self._ask_at
        )


def _always(_: int) -> bool:
    return True
