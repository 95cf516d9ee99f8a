"""Statements to and from all peers: sent, repeated until they are acknowledged, handed on. Pure.

A peer's `StatementSender` and `StatementReceiver` (`nconnect.tunnel.statements`) decide; this sends what they
say, and keeps their next deadline among the peer's timers. Nothing is sent while there are no keys, or the
peer does not answer.

While packets may go by UDP datagrams each part goes by them too, besides the relay: either may be dead, which
only the peer knows, and versions that do not take statements from datagrams read the relay's. Parts then fit
into one datagram. An ack goes back the way that the part came.
"""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.model import Endpoint
from nconnect.tunnel.control_frames import ControlFrames
from nconnect.tunnel.outputs import Context, Stated
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.statements import PART_BYTES
from nconnect.tunnel.timers import Timer
from nconnect.wire.direct import OVERHEAD_BYTES
from nconnect.wire.tunnel import RECORD_HEADER_BYTES, STATEMENT_HEAD, RecordKind


class Announcements:
    """What we tell peers, and what they tell us."""

    def __init__(self, context: Context, control_frames: ControlFrames) -> None:
        self._context = context
        self._control_frames = control_frames

    def announce(self, peer: Peer, document: bytes, now: float) -> None:
        """Tell the peer this from now on. Raises ValueError for more than `MAX_STATEMENT_BYTES`."""
        if not document and not peer.statements.out.has_epoch:
            return  # nothing was said, and there is nothing to say
        epoch = 0 if peer.statements.out.has_epoch else int.from_bytes(self._context.rng(4))
        if peer.statements.out.say(document, epoch, now):
            self.advance(peer, now)

    def session_up(self, peer: Peer, now: float) -> None:
        """There is a new session, or the peer answers again: tell it once more."""
        peer.statements.out.repeat(now)
        self.advance(peer, now)

    def link_up(self, peer: Peer, now: float) -> None:
        """A link of ours is up again: what was sent meanwhile is lost."""
        peer.statements.out.hurry(now)
        self.advance(peer, now)

    def received(self, peer: Peer, kind: int, body: memoryview, now: float, back: Lane | Endpoint) -> None:
        """A STATEMENT or STATEMENT_ACK record from an authentic batch; `back`: where to answer.

        An `Endpoint` is the proven address that a datagram came from.
        """
        if kind == RecordKind.STATEMENT_ACK:
            peer.statements.out.on_ack(body, now)
            self.advance(peer, now)
            return
        try:
            ack, document = peer.statements.into.on_part(body, now)
        except ValueError:
            peer.drops[DropReason.BAD_STATEMENT] += 1
            return
        if ack is not None:
            record = RecordKind.STATEMENT_ACK, ack
            if isinstance(back, Endpoint):
                self._context.send_datagram(peer, back, (record,), now)
            else:
                self._control_frames.send(peer, now, record, lane=back)
        if document is not None:
            self._context.outputs.append(Stated(peer, document))

    def advance(self, peer: Peer, now: float) -> None:
        """Send what is due, and note when to look again."""
        sender = peer.statements.out
        if peer.doubtful or not peer.can_send(now):
            peer.timers.clear(Timer.STATEMENT)  # `session_up` goes on
            return
        remote = None if peer.direct is None else peer.direct.remote
        room = PART_BYTES
        if peer.direct is not None and remote is not None:
            room = peer.direct.datagram_bytes - OVERHEAD_BYTES - RECORD_HEADER_BYTES - STATEMENT_HEAD.size
        part = sender.due(now, peer.rtt_s or 0.0, min(room, PART_BYTES))
        if part is not None:
            self._control_frames.send(peer, now, (RecordKind.STATEMENT, part))
            if remote is not None:
                self._context.send_datagram(peer, remote, ((RecordKind.STATEMENT, part),), now)
        peer.timers.set(Timer.STATEMENT, sender.next_at)
        self._context.timer_heap.schedule(peer)
