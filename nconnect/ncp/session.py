"""One session: handshake, data both ways, the end. A state machine without I/O or clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer, Deadline
from nconnect.ncp import settings
from nconnect.ncp.memory import StreamMemory
from nconnect.ncp.pairs import SubClientPair, paired
from nconnect.ncp.receiving import NcpReceiver
from nconnect.ncp.sending import NcpSender
from nconnect.ncp.sequence import to_wire
from nconnect.ncp.settings import SessionSettings
from nconnect.wire.ncp import FEATURE_END, NcpPacket

_EARLY_PACKETS = 64  # kept until the handshake comes, where the network changes the order
_MAX_ID_CHARS = 64  # guessed: of a sub-client's id; official ones have 5
_LATELY_S = 2.0
_TOLD_AGAIN_S = (1.0, 3.0)  # a window that opened, to a sender that may not have heard of it


class NcpState(Enum):
    """Of a session."""

    DIALLING = "dialling"  # our handshake is not answered yet
    OPEN = "open"
    CLOSING = "closing"  # closed here: what was written is on its way
    CLOSED = "closed"  # nothing is sent any more; what was received may be read


class NcpSession:
    """One stream between two clients. Every method that takes `now` may make packets due: then call
    `next_packet` until it returns None, and `handle_timeout` at `poll_timeout`.
    """

    def __init__(
        self,
        remote: str,
        id: bytes,
        local_ids: Sequence[str],
        now: float,
        *,
        dials: bool,
        chosen: SessionSettings,
        memory: StreamMemory,
    ) -> None:
        """`remote`: the bare NKN address. `local_ids`: our sub-clients, such as `__0__`, that take part."""
        self.remote = remote
        self.id = id
        self.state = NcpState.DIALLING
        self.why = ""  # it broke: what is wrong, a clause; "" after a proper end
        self.undelivered = False  # the other side closed before it had received everything
        self.dials = dials
        self.closed_here = False  # by `close` or `abort`
        self.local_ids = sorted(local_ids)
        self.bad_packets = 0
        self.receiver = NcpReceiver(remote[-64:], window=chosen.window, mtu=chosen.mtu, memory=memory)
        self.sender: NcpSender | None = None  # once it is established
        self.pairs: list[SubClientPair] = []
        self.knows_end = False  # the other side tells and understands the end of one direction
        self._settings = chosen
        self._index: dict[tuple[str, str], int] = {}
        self._early: list[tuple[str, str, bytes]] = []
        # The handshake
        self._greetings: set[int] = set()  # pairs over which ours is due
        self._greet_at: float | None = None
        self._greet_gap_s = settings.HANDSHAKE_S
        self._answered_at = 0.0
        # Acknowledgements
        self._ack_at: float | None = None
        self._ack_turn = 0
        self._unacked_bytes = 0  # received since the last acknowledgement
        self._told_read = 0
        self._tell_read: set[int] = set()  # pairs over which a read is due to be told
        self._retell: list[float] = []
        # Life
        self._heard_at = now
        self._heard_over: dict[str, float] = {}  # by our sub-client
        self._asked = 0  # packets sent since then that the other side must answer
        self._probe_at: float | None = None
        self._probe_due = False
        # The end
        self._progress_at = now
        self._goodbyes: set[int] = set()  # pairs over which our close packet is due
        self._goodbye = b""
        self._goodbye_until = 0.0
        self._closed_over: set[int] = set()  # pairs over which theirs came
        self._finish_at: float | None = None
        if dials:
            self.pairs = self._made(paired(self.local_ids, self.local_ids))
            self._greet(now)

    # What the application does

    @property
    def is_established(self) -> bool:
        return self.sender is not None

    @property
    def is_closed(self) -> bool:
        return self.state is NcpState.CLOSED

    @property
    def can_write(self) -> bool:
        sender = self.sender
        return self.state is NcpState.OPEN and sender is not None and not sender.wants_end

    @property
    def at_eof(self) -> bool:
        """Whether everything was read that will ever come."""
        ended = self.receiver.at_end or self.state is NcpState.CLOSED
        return ended and not self.receiver.ready_bytes

    @property
    def is_over(self) -> bool:
        """Whether nothing will be sent any more."""
        return self.state is NcpState.CLOSED and not self._goodbyes

    @property
    def unsent(self) -> int:
        """Bytes written that no packet has taken yet."""
        return self.sender.buffered if self.sender is not None else 0

    @property
    def is_delivered(self) -> bool:
        """Whether the other side acknowledged all that was written, and its application read it if only
        that keeps it (official clients drop what they did not read when the session is closed).
        """
        sender = self.sender
        return sender is None or (sender.is_acked and (self.knows_end or sender.peer_read >= sender.written))

    def write(self, data: Buffer) -> None:
        """Append to the stream. Only while `can_write`; `data` must not change afterwards."""
        assert self.can_write
        assert self.sender is not None
        self.sender.write(data)

    def end(self, now: float) -> None:
        """Nothing more will be written. Official clients learn it only from `close`."""
        if self.can_write and self.sender is not None:
            if self.knows_end:
                self.sender.wants_end = True
            self._progress_at = now

    def read(self, most: int, now: float) -> bytes:
        """Take up to `most` bytes of what came."""
        data = self.receiver.read(most)
        if data and self.state is NcpState.OPEN:
            unsaid = self.receiver.bytes_read - self._told_read
            if unsaid >= self._settings.window // 4:
                self._say_read(now)
            elif self._ack_at is None:
                self._ack_at = now + settings.READ_S
        return data

    def close(self, now: float) -> None:
        """Close it once everything is delivered; what still comes is dropped."""
        self.closed_here = True
        if self.state in (NcpState.CLOSED, NcpState.CLOSING):
            self.receiver.close(discard=True)
            return
        if self.sender is None:
            self._say_goodbye(now)
            return
        self.state = NcpState.CLOSING
        self._progress_at = now
        self.receiver.close(discard=True)
        if self.knows_end:
            self.sender.wants_end = True
        self._close_if_delivered(now)

    def abort(self, why: str, now: float) -> None:
        """Close it now, whatever is on its way. `why`: what is wrong, a clause."""
        if self.state is not NcpState.CLOSED:
            self.why = why
            self._say_goodbye(now)
        self.receiver.close(discard=True)

    # What the network brings

    def receive(self, local: str, remote: str, packet: Buffer, now: float) -> None:
        """A packet that our sub-client `local` got from the other side's `remote`."""
        if self.state is NcpState.CLOSED:
            return
        try:
            read = NcpPacket.decode(packet)
        except RemoteProtocolError:
            self.bad_packets += 1
            return
        self._heard_at = now
        if (local, remote) in self._index:
            self._heard_over[local] = now
        self._asked = 0
        self._probe_at = None
        if read.close:
            if self.sender is not None:
                self._take(self.sender, read, now)
            if not self.is_closed:  # by what was acknowledged with it
                self._peer_closed(local, remote, now)
        elif self.sender is None:
            if read.handshake:
                self._establish(read, now)
            elif self.dials and len(self._early) < _EARLY_PACKETS:
                self._early.append((local, remote, bytes(packet)))
        elif read.handshake:
            if not self.dials and now - self._answered_at >= settings.HANDSHAKE_S / 2:
                self._greetings = set(range(len(self.pairs)))  # our answer was lost
                self._answered_at = now
        else:
            self._greet_at = None
            self._take(self.sender, read, now)

    def _take(self, sender: NcpSender, read: NcpPacket, now: float) -> None:
        fresh = False
        if read.ack_starts or read.ack_counts:
            fresh = sender.acked(read.ack_ranges(), now)
        if read.bytes_read:
            fresh = sender.read_by_peer(read.bytes_read) or fresh
        if fresh:
            self._progress_at = now
        if read.sequence_id:
            new = self.receiver.receive(read.sequence_id, read.data, read.end and self.knows_end)
            if new and self._finish_at is not None:
                self._finish_at = now + settings.GRACE_S  # what was sent before the close is still coming
            self._unacked_bytes += len(read.data)
            if self.receiver.owes_ack:
                soon = now if self._unacked_bytes >= self._settings.window // 8 else now + settings.ACK_S
                self._ack_at = soon if self._ack_at is None else min(soon, self._ack_at)
            self._retell.clear()
        if fresh and self.state is NcpState.CLOSING:
            self._close_if_delivered(now)
        if self._finish_at is not None:
            self._finish_if_whole(now)

    def _establish(self, read: NcpPacket, now: float) -> None:
        is_empty = not read.window_size or not read.mtu or not read.client_ids
        if is_empty or any(len(id) > _MAX_ID_CHARS for id in read.client_ids):
            self.bad_packets += 1
            return
        pairs = paired(self.local_ids, read.client_ids)
        self.pairs = self._made(pairs)
        self.knows_end = bool(read.features & FEATURE_END)
        if self.knows_end:
            for pair in self.pairs:
                pair.min_rto_s = settings.MIN_RTO_S
        self.sender = NcpSender(
            self.pairs,
            window=min(self._settings.window, read.window_size),
            mtu=min(self._settings.mtu, read.mtu),
        )
        self.state = NcpState.OPEN
        self._progress_at = now
        if self.dials:
            self._greetings.clear()
            self._greet_at = None
        else:
            self._greet(now)
        early, self._early = self._early, []
        for local, remote, packet in early:
            self.receive(local, remote, packet, now)

    def _made(self, ids: Sequence[tuple[str, str]]) -> list[SubClientPair]:
        self._index = {pair: index for index, pair in enumerate(ids)}
        return [SubClientPair(index, local, remote, 1.0) for index, (local, remote) in enumerate(ids)]

    def pair_is_down(self, local: str) -> None:
        """The link of our sub-client broke: what it was given may be lost."""
        for pair in self.pairs:
            if pair.local == local and self.sender is not None:
                self.sender.pair_is_down(pair.index)

    # What is to be sent

    def next_packet(self, now: float, ready: Callable[[str], bool]) -> tuple[str, str, bytes] | None:
        """(our sub-client, theirs, packet) to be sent now; it counts as sent. None: nothing, or no link.

        `ready` says of a sub-client of ours whether its link takes data.
        """
        for due in (self._greetings, self._goodbyes):
            for index in due:
                pair = self.pairs[index]
                if ready(pair.local):
                    due.discard(index)
                    return (
                        pair.local,
                        pair.remote,
                        self._greeting() if due is self._greetings else self._goodbye,
                    )
        sender = self.sender
        if sender is None or self.state is NcpState.CLOSED:
            return None
        if self._probe_due and (found := self._any_pair(ready)) is not None:
            # Received before, so it is acknowledged again and otherwise ignored, by official clients as well.
            self._probe_due = False
            self._asked += 1
            probe = NcpPacket(to_wire(sender.base - 1), b"\0")
            return found.local, found.remote, probe.encode()
        if self._ack_at is not None and self._ack_at <= now and (found := self._live_pair(ready)) is not None:
            return found.local, found.remote, self._acknowledgement(now).encode()
        for index in self._tell_read:
            pair = self.pairs[index]
            if ready(pair.local):
                self._tell_read.discard(index)
                return pair.local, pair.remote, NcpPacket(bytes_read=self._note_read()).encode()
        sent = sender.next_packet(now, lambda index: ready(self.pairs[index].local))
        if sent is None:
            return None
        index, count, data = sent
        self._asked += 1
        pair = self.pairs[index]
        starts: tuple[int, ...] = ()
        lengths: tuple[int, ...] = ()
        bytes_read = 0
        if self._ack_at is not None:
            starts, lengths = self.receiver.acks()
            bytes_read = self._note_read()
            self._ack_at = now if self.receiver.owes_ack else None
        packet = NcpPacket(to_wire(count), data.data, starts, lengths, bytes_read, end=data.end)
        return pair.local, pair.remote, packet.encode()

    def _acknowledgement(self, now: float) -> NcpPacket:
        starts, lengths = self.receiver.acks()
        self._ack_at = now if self.receiver.owes_ack else None
        return NcpPacket(ack_starts=starts, ack_counts=lengths, bytes_read=self._note_read())

    def _note_read(self) -> int:
        self._told_read = self.receiver.bytes_read
        self._unacked_bytes = 0
        return self._told_read

    def _say_read(self, now: float) -> None:
        """Tell over every pair, and again later: a sender that waits for room hears of it only once."""
        self._tell_read = set(range(len(self.pairs)))
        self._retell = [now + after for after in _TOLD_AGAIN_S]

    def _any_pair(self, ready: Callable[[str], bool]) -> SubClientPair | None:
        """The next pair in turn whose link is ready."""
        for _ in self.pairs:
            self._ack_turn = (self._ack_turn + 1) % len(self.pairs)
            if ready(self.pairs[self._ack_turn].local):
                return self.pairs[self._ack_turn]
        return None

    def _live_pair(self, ready: Callable[[str], bool]) -> SubClientPair | None:
        """The next one over which something came lately: acknowledgements are not repeated."""
        since = max(self._heard_over.values(), default=0.0) - _LATELY_S
        return self._any_pair(lambda local: self._heard_over.get(local, 0.0) >= since and ready(local))

    def _greeting(self) -> bytes:
        return NcpPacket(
            client_ids=tuple(self.local_ids),
            window_size=self._settings.window,
            mtu=self._settings.mtu,
            handshake=True,
            features=FEATURE_END,
        ).encode()

    def _greet(self, now: float) -> None:
        self._greetings = set(range(len(self.pairs)))
        self._greet_at = now + self._greet_gap_s
        self._answered_at = now
        self._greet_gap_s = min(4.0, self._greet_gap_s * 2)

    # Time

    def poll_timeout(self) -> Deadline | None:
        """When `handle_timeout` must be called."""
        found: list[tuple[float, str]] = []
        if self._greet_at is not None:
            found.append((self._greet_at, "handshake"))
        if self._goodbyes:
            found.append((self._goodbye_until, "close"))
        sender = self.sender
        if sender is not None and self.state is not NcpState.CLOSED:
            if self._ack_at is not None:
                found.append((self._ack_at, "acknowledge"))
            if (at := sender.timeout_at()) is not None:
                found.append((at, "resend"))
            if self._retell:
                found.append((self._retell[0], "window"))
            if self._finish_at is not None:
                found.append((self._finish_at, "finish"))
            if self.state is NcpState.CLOSING:
                found.append((self._progress_at + self._settings.linger_s, "linger"))
            found.append((self._ask_at(sender), "silence"))
        return Deadline(*min(found)) if found else None

    def handle_timeout(self, now: float) -> None:
        """A deadline has passed."""
        if self._greet_at is not None and now >= self._greet_at:
            if self.state is NcpState.CLOSED or (not self.dials and self._greet_gap_s >= 4.0):
                self._greet_at = None
            else:
                self._greet(now)
        if self._goodbyes and now >= self._goodbye_until:
            self._goodbyes.clear()
        sender = self.sender
        if sender is None or self.state is NcpState.CLOSED:
            return
        if self._finish_at is not None and now >= self._finish_at:
            self._finish(now)
            return
        if self.state is NcpState.CLOSING and now >= self._progress_at + self._settings.linger_s:
            what = "received" if not sender.is_acked else "read"
            self.abort(f"the other side has not {what} everything within {self._settings.linger_s:g} s", now)
            return
        if now >= self._ask_at(sender):
            if self._asked >= settings.GONE_PROBES and now - self._heard_at >= settings.GONE_S:
                self.abort(f"the other side has been silent for {now - self._heard_at:.0f} s", now)
                return
            self._probe_due = True
            self._probe_at = now + settings.PROBE_S
        if self._retell and now >= self._retell[0]:
            self._retell.pop(0)
            self._tell_read = set(range(len(self.pairs)))
        sender.look_for_losses(now)

    def _ask_at(self, sender: NcpSender) -> float:
        """When to ask whether the other side lives, or has room again."""
        if self._probe_at is not None:
            return self._probe_at
        return self._heard_at + (settings.HANDSHAKE_S if sender.waits_for_room else settings.IDLE_S)

    # The end

    def _close_if_delivered(self, now: float) -> None:
        if self.is_delivered:
            self._say_goodbye(now)

    def _say_goodbye(self, now: float) -> None:
        # Official clients look only at `close`; ours learn first what arrived here.
        starts, lengths = self.receiver.acks()
        said = NcpPacket(
            ack_starts=starts, ack_counts=lengths, bytes_read=self.receiver.bytes_read, close=True
        )
        self._goodbye = said.encode()
        self._over()
        self._goodbyes = set(range(len(self.pairs)))
        self._goodbye_until = now + 2 * settings.GRACE_S

    def _peer_closed(self, local: str, remote: str, now: float) -> None:
        if self.sender is None:
            self.why = self.why or "the other side refuses"
            self._over()
            return
        if (index := self._index.get((local, remote))) is not None:
            self._closed_over.add(index)
        if self._finish_at is None:
            self._finish_at = now + settings.GRACE_S
        self._finish_if_whole(now)

    def _finish_if_whole(self, now: float) -> None:
        """After their close packet: is there nothing that may still come?"""
        everywhere = len(self._closed_over) == len(self.pairs) and not self.receiver.has_gap
        if self.receiver.at_end or (everywhere and not self.knows_end) or self.state is NcpState.CLOSING:
            self._finish(now)

    def _finish(self, now: float) -> None:
        """The other side has closed, and no more will come."""
        sender, receiver = self.sender, self.receiver
        assert sender is not None
        if self.state is NcpState.CLOSING:
            if sender.has_unacked_data():
                self.undelivered = True
        elif receiver.has_gap or (self.knows_end and not receiver.at_end):
            self.why = "the stream was cut: the other side ended before all of it had arrived"
        elif sender.has_unacked_data():
            self.undelivered = True
        self._over()

    def _over(self) -> None:
        self.state = NcpState.CLOSED
        if self.sender is not None:
            self.sender.drop()
        self.receiver.close(discard=False)
        self._greet_at = self._ack_at = self._finish_at = None
        self._greetings.clear()
        self._tell_read.clear()
        self._retell.clear()
        self._early.clear()
        self._probe_due = False
