"""One peer's timers: what has to happen for its session, and when, unless something else happens first.

Methods are named after events and are called once per batch. Deadlines are in seconds, as `now` is; calling
`due` too early or twice is harmless.
"""

from __future__ import annotations

from enum import IntEnum

from nconnect.model import Deadline
from nconnect.tunnel.constants import KEEPALIVE_S, QUESTION_S, UNANSWERED_S

NEVER = float("inf")


class Timer(IntEnum):
    """What a deadline stands for; a peer's deadlines are indexed by it."""

    RETRY_HANDSHAKE = 0  # no answer to our initiation so far
    GIVE_UP_HANDSHAKE = 1  # tried for as long as waiting packets are worth it
    UNANSWERED = 2  # data was sent and nothing was heard: renew the session
    KEEPALIVE = 3  # data was heard and nothing was sent: give a sign of life
    PERSISTENT_KEEPALIVE = 4  # keep the path, and our knowledge of the peer, fresh
    ERASE_KEYS = 5  # a key pair is past its life
    EXPIRE = 6  # the peer's permission ends
    LANES = 7  # several lanes: look whether each is alive, and whether one is enough
    REORDER = 8  # batches that overtook others have waited for them long enough
    QUESTION = 9  # data was sent and nothing was heard for a while: ask
    DIRECT = 10  # the direct path's machine has something to do
    STATEMENT = 11  # our statement is not acknowledged, or may be changed again
    STREAMS = 12  # a stream of this session has something to send, or is to be looked at


_OF_SESSION = (
    Timer.UNANSWERED,
    Timer.QUESTION,
    Timer.KEEPALIVE,
    Timer.ERASE_KEYS,
    Timer.LANES,
    Timer.STATEMENT,
)


# Plain indices: the notes are called for each batch.
_UNANSWERED, _QUESTION, _KEEPALIVE = int(Timer.UNANSWERED), int(Timer.QUESTION), int(Timer.KEEPALIVE)


class Timers:
    """The deadlines of one peer."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = [NEVER] * len(Timer)

    def set(self, timer: Timer, at: float) -> None:
        self._at[timer] = at

    def set_if_unset(self, timer: Timer, at: float) -> None:
        if self._at[timer] == NEVER:
            self._at[timer] = at

    def clear(self, timer: Timer) -> None:
        self._at[timer] = NEVER

    def is_set(self, timer: Timer) -> bool:
        return self._at[timer] != NEVER

    def data_sent(self, now: float) -> None:
        """A batch with something in it has left: it counts as a sign of life, and wants an answer."""
        at = self._at
        at[_KEEPALIVE] = NEVER
        if at[_UNANSWERED] == NEVER:
            at[_UNANSWERED] = now + UNANSWERED_S
            at[_QUESTION] = now + QUESTION_S

    def keepalive_sent(self) -> None:
        """An empty batch has left: it wants no answer."""
        self._at[Timer.KEEPALIVE] = NEVER

    def data_received(self, now: float) -> None:
        """An authentic batch with something in it has arrived."""
        at = self._at
        at[_UNANSWERED] = at[_QUESTION] = NEVER
        if at[_KEEPALIVE] == NEVER:
            at[_KEEPALIVE] = now + KEEPALIVE_S

    def keepalive_received(self) -> None:
        """Something authentic has arrived that wants no answer."""
        self._at[Timer.UNANSWERED] = self._at[Timer.QUESTION] = NEVER

    def session_ended(self) -> None:
        """Everything that belongs to a session stops; the peer's own timers go on."""
        for timer in _OF_SESSION:
            self._at[timer] = NEVER

    def due(self, now: float) -> list[Timer]:
        """The timers whose time has come, in the enum's order; they are cleared."""
        fired = [timer for timer in Timer if self._at[timer] <= now]
        for timer in fired:
            self._at[timer] = NEVER
        return fired

    def next_at(self) -> float:
        """The earliest deadline, or `NEVER`."""
        return min(self._at)

    def next(self) -> Deadline | None:
        """The earliest deadline and its reason."""
        at = min(self._at)
        return None if at == NEVER else Deadline(at, Timer(self._at.index(at)).name.lower())
