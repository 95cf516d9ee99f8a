"""The protocol between who wants a stream (a listener) and who can open one (a daemon)."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from nconnect.errors import NetworkError
from nconnect.model import Buffer

OPEN_TIMEOUT_S = 10.0  # after which `Dialler.open` raises `TimeoutError`
MOST_READ = 1 << 18


class RefusalCode(IntEnum):
    """Why no stream was opened. The values are stable: they may be sent to the other side."""

    FAILED = 1  # none of the others
    NOT_ALLOWED = 2  # the provider does not let this peer reach the target, or the peer is paused or expired
    NO_ROUTE = 3  # the target is in no peer's prefixes, or the name is not below .internal
    UNKNOWN_NAME = 4  # a name below .internal that nobody has
    NET_UNREACHABLE = 5  # the provider has no way to the target's network (ENETUNREACH)
    HOST_UNREACHABLE = 6  # the provider's network has no such host (EHOSTUNREACH)
    CONNECTION_REFUSED = 7  # the target answered with a reset (ECONNREFUSED)
    TIMED_OUT = 8  # the target did not answer the provider
    TOO_MANY = 9  # the provider or this device has as many streams as it lets this peer have
    NO_PEER = 10  # there is no session with the peer, and none came up in time


class StreamRefused(NetworkError):
    """No stream was opened. The text is one clause: the provider's reason, or this device's."""

    def __init__(self, reason: str, code: RefusalCode = RefusalCode.FAILED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Stream(Protocol):
    """A reliable stream of bytes in both directions; `nconnect.sdk.stream.Stream` has the same shape.

    Every call but `abort` raises `StreamError` (an error of `nconnect.errors`, or an `OSError`) where the
    stream broke. A waiting call can be cancelled. One task may read while another one writes.
    """

    async def read(self, most: int = MOST_READ) -> bytes:
        """Wait for data, and return up to `most` bytes; b"" when the other side ended its direction."""
        ...

    def write(self, data: Buffer) -> None:
        """Send as soon as there is room; does not wait: call `drain` before you write more."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more."""
        ...

    def write_eof(self) -> None:
        """End this direction, after what was written; the other one goes on."""
        ...

    async def close(self) -> None:
        """End both directions, once everything that was written has been sent."""
        ...

    async def wait_closed(self) -> None:
        """Wait until the other side has closed both directions, or the stream broke or was closed here."""
        ...

    def abort(self) -> None:
        """End both directions at once; the other side sees a reset. May be called at any time, and again."""
        ...


class DatagramChannel(Protocol):
    """UDP from one program to any targets. Datagrams may be lost, doubled or reordered.

    What the provider does not allow is dropped; there is no answer to that.
    """

    def send(self, host: str, port: int, data: Buffer) -> None:
        """Send one datagram; does not wait. `host` is as in `Dialler.open`. Too much in a short time, and
        what leads to no peer, is dropped."""
        ...

    async def recv(self) -> tuple[str, int, bytes]:
        """Wait for a datagram: the address (text) and port that it comes from, and its content.

        Raises `StreamRefused` or `StreamError` when the channel ended.
        """
        ...

    def close(self) -> None:
        """End it; may be called again."""
        ...


class Dialler(Protocol):
    """Opens streams to targets behind peers."""

    async def open(self, host: str, port: int) -> Stream:
        """A stream to a TCP server.

        `host` is an IP address in text, or a name below .internal. Raises `StreamRefused` with the reason,
        or `TimeoutError` when the peer has not answered after `OPEN_TIMEOUT_S`.
        """
        ...

    async def datagrams(self) -> DatagramChannel:
        """A new channel for UDP. Raises `StreamRefused` where this way has none."""
        ...
