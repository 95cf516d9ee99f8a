"""A statement: a document that each side tells its peer, whole each time it changes. Pure.

The tunnel does not read it. A `StatementSender` tells ours, a `StatementReceiver` takes the peer's; both are
parts of a `Peer`, and `announcements` sends what they say. One part is under way at a time: the next leaves
when the last was acknowledged, so a long statement never fills a slow path. docs/protocol.md ("Statements")
has the bytes.

Revisions count up within an epoch, which a sender draws once: a restarted one has another, and the
receiver then takes its revisions from any number on. What belongs to an earlier epoch or revision is late,
and ignored.
"""

from __future__ import annotations

from collections import deque

from nconnect.tunnel.timers import NEVER
from nconnect.wire.tunnel import STATEMENT_ACK_BODY, STATEMENT_HEAD

MAX_STATEMENT_BYTES = 64 << 10
PART_BYTES = 8 << 10  # a path of 1 Mbit/s carries it in 66 ms

FIRST_RETRY_S = 0.5  # or two round trips; doubled with each repetition
MAX_RETRY_S = 60.0  # guessed: a peer of an earlier version never acknowledges

CHANGES_PER_S = 1.0
SENDER_BURST = 3.0  # a new server, then its models, are told at once
RECEIVER_BURST = 8.0  # more than a sender's: what it sent apart may arrive together
MAX_REFUSED = 8  # source addresses; a peer that is set up wrongly has one or two
MAX_RETIRED = 8  # epochs that are over; as many restarts in a row are told apart from late messages


class Allowance:
    """Tokens: one for each change, `CHANGES_PER_S` come in, at most `burst` are kept."""

    __slots__ = ("_at", "_burst", "_tokens")

    def __init__(self, burst: float) -> None:
        self._burst = self._tokens = burst
        self._at = -NEVER

    def take(self, now: float) -> bool:
        """Take one; False if there is none."""
        if self.free_at(now) > now:
            return False
        self._tokens -= 1.0
        return True

    def free_at(self, now: float) -> float:
        """When there will be one."""
        if self._at > -NEVER:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * CHANGES_PER_S)
        self._at = now
        # A little less than one is one: floating point must not ask for a second look at the same moment.
        return now if self._tokens > 0.999 else now + (1.0 - self._tokens) / CHANGES_PER_S


class StatementSender:
    """Tells one peer our statement. The caller sends `due`, and calls again at `next_at`."""

    __slots__ = ("_acked", "_allowance", "_document", "_epoch", "_retry_s", "_revision", "_told", "next_at")

    def __init__(self) -> None:
        self.next_at = NEVER  # when `due` may have something
        self._epoch: int | None = None
        self._revision = 0  # of `_told`; 0: nothing was told so far
        self._document = b""  # what is to be told
        self._told = b""  # what is being told, or was
        self._acked: int | None = None  # bytes of it that have arrived; None: all of it, or nothing was told
        self._retry_s = FIRST_RETRY_S
        self._allowance = Allowance(SENDER_BURST)

    @property
    def has_epoch(self) -> bool:
        """Whether anything was ever to be told."""
        return self._epoch is not None

    def say(self, document: bytes, epoch: int, now: float) -> bool:
        """Tell this from now on; False if it is what was to be told already.

        `epoch` counts the first time alone. Nothing is sent for b"" where nothing was told before.
        Raises ValueError for more than `MAX_STATEMENT_BYTES`.
        """
        if len(document) > MAX_STATEMENT_BYTES:
            raise ValueError(f"a statement of {len(document)} bytes")
        if document == self._document:
            return False
        if self._epoch is None:
            self._epoch = epoch
        self._document = document
        # What is on its way is finished first, unless it seems to be lost.
        if self._acked is None or (not self._acked and self._retry_s > 2 * FIRST_RETRY_S):
            self.next_at = self._allowance.free_at(now)
        return True

    def repeat(self, now: float) -> None:
        """There is a new session, or a path again: the peer may have forgotten, or not got, what was told."""
        if self._epoch is None:
            return
        if self._revision:
            self._acked = 0
        self._retry_s = FIRST_RETRY_S
        self.next_at = now

    def hurry(self, now: float) -> None:
        """A path is there again: what is not acknowledged need not wait for its time."""
        self._retry_s = FIRST_RETRY_S
        if self.next_at != NEVER:
            self.next_at = now

    def due(self, now: float, rtt_s: float, part_bytes: int = PART_BYTES) -> bytes | None:
        """The body of the part to send now, or None. It comes again until it is acknowledged.

        `part_bytes`: how much of the document fits into one part.
        """
        if now < self.next_at:
            return None
        self.next_at = NEVER
        # A transfer that has begun is finished first: changes in quick succession must not prevent all.
        if self._told != self._document and not self._acked:
            if self._allowance.take(now):
                self._begin()
            elif self._acked is None:
                self.next_at = self._allowance.free_at(now)
        if self._acked is None or self._epoch is None:
            return None
        self.next_at = now + max(self._retry_s, 2 * rtt_s)
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
        head = STATEMENT_HEAD.pack(self._epoch, self._revision, len(self._told), self._acked)
        return head + self._told[self._acked : self._acked + part_bytes]

    def on_ack(self, body: bytes | memoryview, now: float) -> None:
        """The peer has got this much. What is late, or of no statement of ours, is ignored."""
        epoch, revision, size = STATEMENT_ACK_BODY.unpack(body)
        if (epoch, revision) != (self._epoch, self._revision) or self._acked is None:
            return
        if size == len(self._told):
            self._acked = None
            changed = self._document != self._told
            self.next_at = self._allowance.free_at(now) if changed else NEVER
        elif self._acked < size < len(self._told):
            self._acked = size
            self.next_at = now
        else:
            return
        self._retry_s = FIRST_RETRY_S

    def _begin(self) -> None:
        self._revision += 1
        self._told = self._document
        self._acked = 0
        self._retry_s = FIRST_RETRY_S


class StatementReceiver:
    """Takes one peer's statement: at most `MAX_STATEMENT_BYTES` are held, until it is whole."""

    __slots__ = ("_allowance", "_epoch", "_received", "_retired", "_revision", "_size")

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._revision = 0
        self._size = 0
        self._received: bytearray | None = None  # None: all of it has arrived
        self._retired: deque[int] = deque(maxlen=MAX_RETIRED)
        self._allowance = Allowance(RECEIVER_BURST)

    def on_part(self, body: memoryview, now: float) -> tuple[bytes | None, bytes | None]:
        """(the body of an ack, or None where none is due; the statement, if this completes it).

        Raises ValueError for a part that is refused: malformed, or of too many statements.
        """
        if len(body) < STATEMENT_HEAD.size:
            raise ValueError("a part of a statement that is too short")
        epoch, revision, size, offset = STATEMENT_HEAD.unpack_from(body)
        data = body[STATEMENT_HEAD.size :]
        if size > MAX_STATEMENT_BYTES or offset + len(data) > size or (size and not data):
            raise ValueError("a part of a statement that does not fit")
        if epoch in self._retired or (epoch == self._epoch and revision < self._revision):
            return None, None  # late
        if epoch != self._epoch or revision != self._revision:
            self._begin(epoch, revision, size, now)
        elif size != self._size:
            raise ValueError("a statement of two sizes")
        document = None
        if self._received is not None:
            if offset == len(self._received):
                self._received += data
            if len(self._received) == size:
                document, self._received = bytes(self._received), None
        arrived = size if self._received is None else len(self._received)
        return STATEMENT_ACK_BODY.pack(epoch, revision, arrived), document

    def _begin(self, epoch: int, revision: int, size: int, now: float) -> None:
        if not self._allowance.take(now):
            raise ValueError("statements follow one another too fast")
        if self._epoch is not None and epoch != self._epoch:
            self._retired.append(self._epoch)
        self._epoch, self._revision, self._size = epoch, revision, size
        self._received = bytearray()


class Statements:
    """Both ways, of one peer; and which source addresses of its packets were refused, to tell it."""

    __slots__ = ("_refused", "into", "out")

    def __init__(self) -> None:
        self.out, self.into = StatementSender(), StatementReceiver()
        self._refused: set[bytes] = set()

    def refused_source(self, address: bytes) -> None:
        """A packet with this source address (4 or 16 bytes) was refused. The first few are kept."""
        if len(self._refused) < MAX_REFUSED:
            self._refused.add(address)

    def take_refused(self) -> set[bytes]:
        """Those since the last call."""
        taken, self._refused = self._refused, set()
        return taken
