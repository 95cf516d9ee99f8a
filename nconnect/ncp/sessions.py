"""All sessions of a client: who may open one, whose a packet is, and what is remembered of old ones.

A session is known by the other side's bare address and the 8 bytes that the dialler drew. The protocol has no
freshness of its own: so ids that were used are remembered, and a recorded session cannot be played again
while this object lives and remembers them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer, Rng
from nconnect.ncp.memory import StreamMemory
from nconnect.ncp.session import NcpSession
from nconnect.ncp.settings import SessionSettings
from nconnect.wire.ncp import NcpPacket

ID_BYTES = 8
MAX_SESSIONS = 8192  # open at once, dialled ones included
MAX_SESSIONS_OF_A_KEY = 2048
MAX_SEEN_OF_A_KEY = 8192  # ids of ended sessions, about 150 bytes each
MAX_SEEN_KEYS = 256
_REFUSE_AGAIN_S = 1.0  # a packet of an ended session is answered at most so often


class StreamRefusal(Enum):
    """Why a packet of a session, or a new session, was not taken."""

    NOT_ACCEPTED = "not_accepted"  # its sender is not in the accept list, or nobody listens
    NO_SESSION = "no_session"  # of no session that is open, and no handshake
    SEEN_BEFORE = "seen_before"  # of a session that has ended
    TOO_MANY = "too_many"  # sessions are open already, of this key or in all
    MALFORMED = "malformed"


class NcpSessions:
    """The table of one client. Times are those of the caller's clock."""

    def __init__(self, *, rng: Rng, chosen: SessionSettings | None = None) -> None:
        self.settings = chosen or SessionSettings()
        self.memory = StreamMemory()
        self.refusals: Counter[StreamRefusal] = Counter()
        self.accepts: Callable[[str], bool] | None = None
        """Whether a bare address may open sessions; None: nobody may."""
        self.replies: list[tuple[bytes, str, str, str, bytes]] = []
        """(session id, bare address, our sub-client, theirs, packet) to be sent; the caller empties it."""
        self._rng = rng
        self._open: dict[tuple[str, bytes], NcpSession] = {}
        self._of_key: Counter[str] = Counter()
        self._seen: OrderedDict[str, OrderedDict[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> list[NcpSession]:
        return list(self._open.values())

    def dial(self, remote: str, local_ids: Sequence[str], now: float) -> NcpSession:
        """A new session to a bare address."""
        return self._make(remote, self._rng(ID_BYTES), local_ids, now, dials=True)

    def receive(
        self,
        remote: str,
        id: bytes,
        local: str,
        remote_id: str,
        packet: Buffer,
        now: float,
        *,
        local_ids: Sequence[str],
    ) -> tuple[NcpSession, bool] | None:
        """Give a packet to its session: (session, whether it is new). None: it was refused and counted.

        `local_ids`: our sub-clients that are up, for a new session.
        """
        session = self._open.get((remote, id))
        if session is not None:
            session.receive(local, remote_id, packet, now)
            return session, False
        refusal = self._refusal(remote, id, local, remote_id, packet, now)
        if refusal is not None:
            self.refusals[refusal] += 1
            return None
        session = self._make(remote, id, local_ids, now, dials=False)
        session.receive(local, remote_id, packet, now)
        if not session.is_established:
            self.forget(session, now)
            self.refusals[StreamRefusal.MALFORMED] += 1
            return None
        return session, True

    def forget(self, session: NcpSession, now: float) -> None:
        """It has ended, and its last packets are sent."""
        if self._open.pop((session.remote, session.id), None) is None:
            return
        key = session.remote[-64:]
        self._of_key[key] -= 1
        if not self._of_key[key]:
            del self._of_key[key]
        seen = self._seen.setdefault(key, OrderedDict())
        self._seen.move_to_end(key)
        seen[session.remote.encode() + session.id] = now - _REFUSE_AGAIN_S
        if len(seen) > MAX_SEEN_OF_A_KEY:
            seen.popitem(last=False)
        if len(self._seen) > MAX_SEEN_KEYS:
            self._seen.popitem(last=False)

    def _refusal(
        self, remote: str, id: bytes, local: str, remote_id: str, packet: Buffer, now: float
    ) -> StreamRefusal | None:
        key = remote[-64:]
        seen = self._seen.get(key)
        told_at = None if seen is None else seen.get(remote.encode() + id)
        accepted = self.accepts is not None and self.accepts(remote)
        if told_at is None and not accepted:
            return StreamRefusal.NOT_ACCEPTED
        try:
            read = NcpPacket.decode(packet)
        except RemoteProtocolError:
            return StreamRefusal.MALFORMED
        if seen is not None and told_at is not None:
            if not read.close and now - told_at >= _REFUSE_AGAIN_S:
                # Its end was lost on the way: say it again.
                seen[remote.encode() + id] = now
                self.replies.append((id, remote, local, remote_id, NcpPacket(close=True).encode()))
            return StreamRefusal.SEEN_BEFORE
        if not read.handshake or read.close:
            return StreamRefusal.NO_SESSION
        if len(self._open) >= MAX_SESSIONS or self._of_key[key] >= MAX_SESSIONS_OF_A_KEY:
            return StreamRefusal.TOO_MANY
        return None

    def _make(
        self, remote: str, id: bytes, local_ids: Sequence[str], now: float, *, dials: bool
    ) -> NcpSession:
        session = NcpSession(
            remote, id, local_ids, now, dials=dials, chosen=self.settings, memory=self.memory
        )
        self._open[remote, id] = session
        self._of_key[remote[-64:]] += 1
        return session
