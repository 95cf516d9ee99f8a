"""The keys shared with one peer: a key pair for each epoch, and how epochs follow one another.

Up to three pairs exist at once (the WireGuard paper, section 6.3): the responder's `next`, which is not used
for sending until the initiator has proved that it has it too; `current`; and `previous`, for what is still on
its way. So a rekey at full speed loses nothing. After crossed handshakes there is a fourth, for receiving:
see `Session.initiated`.
"""

from __future__ import annotations

from nconnect.crypto.aead import CipherSuite, ReplayWindow
from nconnect.errors import DropReason
from nconnect.model import Buffer
from nconnect.tunnel.constants import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_S,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_RECEIVE_S,
    REKEY_AFTER_S,
    REPLAY_WINDOW,
)
from nconnect.tunnel.paths.direct.keys import DirectKeys
from nconnect.tunnel.paths.stream.keys import StreamKeys
from nconnect.tunnel.timers import NEVER
from nconnect.wire.tunnel import DATA_HEADER, VERSION, FrameKind

_DATA = int(FrameKind.DATA)


class KeyPair:
    """One epoch's keys: one to send under, with its counter, one to receive under, with its replay window."""

    __slots__ = (
        "_receive", "_send", "cipher", "counter", "created_at", "direct", "local_index", "reject_at",
        "rekey_at", "rekey_on_receive_at", "remote_index", "stream", "window",
    )  # fmt: skip

    def __init__(
        self,
        suite: CipherSuite,
        keys: tuple[bytes, bytes],
        local_index: int,
        remote_index: int,
        *,
        initiator: bool,
        now: float,
    ) -> None:
        """`keys`: to send with and to receive with, 32 bytes each."""
        self.cipher = suite.value  # its name
        self.local_index = local_index
        self.remote_index = remote_index
        self.created_at = now
        self.reject_at = now + REJECT_AFTER_S
        # When a batch that is sent, or received, makes us renew the keys: by age only the initiator, so that
        # both do not do it at once; by the counter at once.
        self.rekey_at = now + REKEY_AFTER_S if initiator else NEVER
        self.rekey_on_receive_at = now + REKEY_AFTER_RECEIVE_S if initiator else NEVER
        self.counter = 0  # of the next batch
        self._send, self._receive = map(suite.aead, keys)
        self.window = ReplayWindow(REPLAY_WINDOW)
        self.direct = DirectKeys.of_session(
            suite, local_index=local_index, remote_index=remote_index, send=keys[0], receive=keys[1]
        )
        self.stream = StreamKeys(keys, local_index, remote_index)

    def can_send(self, now: float) -> bool:
        return now < self.reject_at and self.counter < REJECT_AFTER_MESSAGES

    def seal_into(self, batch: Buffer, out: memoryview, lane: int = 0) -> tuple[bytes, int]:
        """Seal a batch into `out`: (the frame's 16-byte header, bytes in `out`)."""
        counter = self.counter
        self.counter = counter + 1
        if counter == REKEY_AFTER_MESSAGES:
            self.rekey_at = self.created_at
        header = DATA_HEADER.pack(VERSION, _DATA, lane, self.remote_index, counter)
        return header, self._send.seal_into(counter, header, batch, out)

    def open_into(
        self, header: bytes, counter: int, sealed: Buffer, out: memoryview, now: float
    ) -> int | DropReason:
        """Open a batch into `out`: its size, or why not. A counter is used up by a genuine batch only."""
        window = self.window
        if now >= self.reject_at:
            return DropReason.KEY_EXPIRED
        if counter >= REJECT_AFTER_MESSAGES or (counter <= window.newest and not window.is_fresh(counter)):
            return DropReason.REPLAYED
        size = self._receive.open_into(counter, header, sealed, out)
        if size is None:
            return DropReason.NOT_AUTHENTIC
        window.mark(counter)
        return size


class Session:
    """A peer's key pairs. Methods give back those that ended, so that their indices can be given up."""

    __slots__ = ("crossed", "current", "next", "previous")

    def __init__(self) -> None:
        self.crossed: KeyPair | None = None
        self.previous: KeyPair | None = None
        self.current: KeyPair | None = None
        self.next: KeyPair | None = None

    def initiated(self, pair: KeyPair) -> list[KeyPair]:
        """A response has arrived: both sides hold `pair`, so it is for sending at once.

        A `next` that waits now is of a handshake that crossed ours. The other side may be sending under it
        already, or may have given it up and still send under `current`: both are kept for receiving.
        """
        ended = [self.crossed, self.previous]
        self.crossed, self.previous, self.current, self.next = self.next, self.current, pair, None
        return [p for p in ended if p is not None]

    def responded(self, pair: KeyPair) -> list[KeyPair]:
        """We answered an initiation: `pair` waits for the initiator's first batch."""
        ended = [self.next]
        self.next = pair
        return [p for p in ended if p is not None]

    def received_on(self, pair: KeyPair) -> list[KeyPair]:
        """An authentic batch came under `pair`; if it was the waiting one, it is confirmed."""
        if pair is not self.next:
            return []
        ended = [self.crossed, self.previous]
        self.crossed, self.previous, self.current, self.next = None, self.current, pair, None
        return [p for p in ended if p is not None]

    @property
    def ends_at(self) -> float:
        """When the oldest pair's life is over; `NEVER` without pairs."""
        return min((pair.reject_at for pair in self._pairs()), default=NEVER)

    def expire(self, now: float) -> list[KeyPair]:
        """Forget the pairs whose life is over, those that were kept for receiving too."""
        ended = [pair for pair in self._pairs() if now >= pair.reject_at]
        for name in self.__slots__:
            if getattr(self, name) in ended:
                setattr(self, name, None)
        return ended

    def _pairs(self) -> list[KeyPair]:
        pairs = (self.crossed, self.previous, self.current, self.next)
        return [pair for pair in pairs if pair is not None]

    def erase(self) -> list[KeyPair]:
        """Forget all keys."""
        ended = self._pairs()
        self.crossed = self.previous = self.current = self.next = None
        return ended
