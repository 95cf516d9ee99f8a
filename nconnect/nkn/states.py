"""The states of a link, and the events that change them."""

from __future__ import annotations

from enum import Enum, auto


class LinkState(Enum):
    """The state of a link."""

    NEW = auto()
    RESOLVING = auto()
    CONNECTING = auto()
    AWAITING_CHALLENGE = auto()
    LOGGING_IN = auto()
    UP = auto()
    WAITING = auto()
    CLOSED = auto()

    @property
    def word(self) -> str:
        """The word in `status`."""
        if self is LinkState.UP:
            return "up"
        return "down" if self in (LinkState.WAITING, LinkState.CLOSED) else "connecting"


class LinkTrigger(Enum):
    """What changes a link's state."""

    START = auto()
    RESOLVED = auto()
    FELL_BACK = auto()  # to the node that served us last
    RETURNED = auto()  # directly to the node that closed our connection: it may be back
    ASKED_AFTER_ALL = auto()  # it is not back, or it is another node
    CONNECTED = auto()
    LOGIN_SENT = auto()
    ACCEPTED = auto()
    REDIRECTED = auto()
    FAILED = auto()
    RETRY = auto()
    STOP = auto()


_S, _E = LinkState, LinkTrigger
# State, event -> state. A missing entry is a bug of the caller.
LINK_TRANSITIONS: dict[LinkState, dict[LinkTrigger, LinkState]] = {
    _S.NEW: {_E.START: _S.RESOLVING, _E.STOP: _S.CLOSED},
    _S.RESOLVING: {
        _E.RESOLVED: _S.CONNECTING,
        _E.FELL_BACK: _S.CONNECTING,
        _E.FAILED: _S.WAITING,
        _E.STOP: _S.CLOSED,
    },
    _S.CONNECTING: {
        _E.CONNECTED: _S.AWAITING_CHALLENGE,
        _E.ASKED_AFTER_ALL: _S.RESOLVING,
        _E.FAILED: _S.WAITING,
        _E.STOP: _S.CLOSED,
    },
    _S.AWAITING_CHALLENGE: {
        _E.LOGIN_SENT: _S.LOGGING_IN,
        _E.REDIRECTED: _S.CONNECTING,
        _E.FAILED: _S.WAITING,
        _E.STOP: _S.CLOSED,
    },
    _S.LOGGING_IN: {
        _E.LOGIN_SENT: _S.LOGGING_IN,  # the challenge came after all
        _E.ACCEPTED: _S.UP,
        _E.ASKED_AFTER_ALL: _S.RESOLVING,
        _E.REDIRECTED: _S.CONNECTING,
        _E.FAILED: _S.WAITING,
        _E.STOP: _S.CLOSED,
    },
    _S.UP: {_E.REDIRECTED: _S.CONNECTING, _E.FAILED: _S.WAITING, _E.STOP: _S.CLOSED},
    _S.WAITING: {_E.RETRY: _S.RESOLVING, _E.RETURNED: _S.CONNECTING, _E.STOP: _S.CLOSED},
    _S.CLOSED: {_E.START: _S.RESOLVING, _E.STOP: _S.CLOSED},
}
