"""All streams of a client: the shell of `nconnect.ncp`, on the client's links."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Literal, Self

from nconnect.errors import ClientClosed, ConfigError, StreamError
from nconnect.io.clock import boottime
from nconnect.model import NknAddress
from nconnect.ncp.session import NcpSession
from nconnect.ncp.sessions import NcpSessions
from nconnect.ncp.settings import SessionSettings
from nconnect.nkn.exchange import Exchange, IncomingPacket
from nconnect.sdk.stream import Stream
from nconnect.sdk.sub_link import SubLink

DIAL_TIMEOUT_S = 10.0
BACKLOG = 128  # streams that wait to be accepted, as in the official SDKs
_QUANTUM_BYTES = 64 << 10  # of one stream before the next one has its turn
_TURN_BYTES = 512 << 10  # in one turn of the loop
_LATE_S = 0.1  # until a deadline is looked at again that has passed while no link was ready


class StreamServer:
    """Accepts streams that other clients open: made by `MultiClient.listen`.

    async for stream in client.listen([their_key]):
        ...
    """

    def __init__(
        self,
        accept: Callable[[str], bool],
        on_refused: Callable[[str], None] | None,
        on_close: Callable[[], None],
    ) -> None:
        """Clients make them."""
        self._accept = accept
        self._on_refused = on_refused
        self._on_close = on_close
        self._waiting: deque[Stream] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    async def accept(self, *, timeout_s: float | None = None) -> Stream:
        """Wait for the next stream. Raises `ClientClosed` when the client or this was closed."""
        async with asyncio.timeout(timeout_s):
            while not self._waiting:
                if self._closed:
                    raise ClientClosed("nothing listens any more")
                self._changed.clear()
                await self._changed.wait()
        return self._waiting.popleft()

    def __aiter__(self) -> AsyncIterator[Stream]:
        """Yield streams as they are opened, until the client is closed."""
        return self

    async def __anext__(self) -> Stream:
        try:
            return await self.accept()
        except ClientClosed:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Accept nothing more; streams that were accepted stay, those that wait are aborted."""
        if not self._closed:
            self._closed = True
            self._on_close()
            while self._waiting:
                self._waiting.popleft().abort()
            self._changed.set()

    async def __aenter__(self) -> Self:
        """Leaving closes it."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What `Streaming` asks and tells

    def _accepts(self, remote: str) -> bool:
        if not self._accept(remote):
            if self._on_refused is not None:
                self._on_refused(remote)
            return False
        return len(self._waiting) < BACKLOG

    def _put(self, stream: Stream) -> None:
        self._waiting.append(stream)
        self._changed.set()


class Streaming:
    """Gives packets to their sessions, sends what these have due, and keeps their timers."""

    def __init__(self, exchange: Exchange, settings: SessionSettings) -> None:
        self.sessions = NcpSessions(rng=os.urandom, chosen=settings)
        self._exchange = exchange
        self._links: dict[str, SubLink] = {}
        self._streams: dict[NcpSession, _Shell] = {}
        self._active: deque[_Shell] = deque()  # those that may have something to send
        self._blocked: set[_Shell] = set()  # those that had, when a link took nothing
        self._pumping = False
        self._server: StreamServer | None = None
        self._closed = False

    def use(self, links: Sequence[SubLink]) -> None:
        """The links, by the sub-clients' ids; the original client's only if there is no other."""
        links = [link for link in links if link.id] or links
        self._links = {link.id: link for link in links}

    # What the client does

    async def dial(self, dest: NknAddress, timeout_s: float) -> Stream:
        # An official listener answers once: if that was lost, only a new session helps.
        for last in (False, True):
            stream = self._open(self.sessions.dial(str(dest), self._up(), boottime()))
            try:
                async with asyncio.timeout(timeout_s / 2):
                    while not stream._session.is_established:
                        if stream._session.is_closed:
                            raise StreamError(f"{dest}: {stream._session.why or 'the client was closed'}")
                        await stream._changed.wait()
                return stream
            except TimeoutError:
                if last:
                    raise StreamError(
                        f"no answer from {dest} within {timeout_s:g} s: it is not running, does not listen,"
                        " or does not accept this client's key"
                    ) from None
            finally:
                if not stream._session.is_established:
                    stream.abort()
        raise AssertionError

    def listen(
        self, accept: Literal["all"] | Iterable[str | bytes], on_refused: Callable[[str], None] | None
    ) -> StreamServer:
        if self._server is not None:
            self._server.close()
        server = self._server = StreamServer(accepting(accept), on_refused, self._on_server_closed)
        self.sessions.accepts = server._accepts
        return server

    def close(self) -> None:
        """End every stream at once, as far as links take the packets."""
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        now = boottime()
        for session, shell in list(self._streams.items()):
            session.abort("the client was closed", now)
            self._send(shell, now, _TURN_BYTES)
            shell.stop()
            shell.stream._notify()
        self._streams.clear()
        self._active.clear()
        self._blocked.clear()

    async def finish(self) -> None:
        """Wait for streams whose close has begun."""
        for session, shell in list(self._streams.items()):
            if session.closed_here:
                while session in self._streams and not self._closed:
                    await shell.stream._changed.wait()

    # What links tell

    def on_packet(self, link: SubLink, packet: IncomingPacket) -> None:
        if self._closed or link.id not in self._links:
            return
        remote, remote_id = _split(packet.src)
        now = boottime()
        found = self.sessions.receive(
            remote, packet.session_id, link.id, remote_id, packet.data, now, local_ids=self._up()
        )
        for id, dest, local, theirs, reply in self.sessions.replies:
            self._transmit(id, dest, local, theirs, reply)
        self.sessions.replies.clear()
        if found is None:
            return
        session, new = found
        if new:
            stream = self._open(session)
            if self._server is not None:
                self._server._put(stream)
        elif (shell := self._streams.get(session)) is not None:
            shell.stream._notify()
            self._activate(shell)

    def on_change(self, link: SubLink) -> None:
        """A link came up, went down, or takes data again."""
        if link.id not in self._links:
            return
        if not link.runner.is_up:
            for session, shell in self._streams.items():
                session.pair_is_down(link.id)
                self._activate(shell)
        blocked, self._blocked = self._blocked, set()
        for shell in blocked:
            self._activate(shell)

    # What streams tell

    def touched(self, stream: Stream) -> None:
        """The program did something with it."""
        shell = self._streams.get(stream._session)
        if shell is not None:
            self._activate(shell)
        if stream._session.is_closed:
            stream._notify()

    # Below: details

    def _up(self) -> list[str]:
        return [id for id, link in self._links.items() if link.runner.is_up] or list(self._links)

    def _open(self, session: NcpSession) -> Stream:
        stream = Stream(session, self)
        shell = self._streams[session] = _Shell(stream, self._on_timer)
        self._activate(shell)
        return stream

    def _on_server_closed(self) -> None:
        self._server = None
        self.sessions.accepts = None

    def _on_timer(self, shell: _Shell) -> None:
        session = shell.stream._session
        if self._closed:
            return
        now = boottime()
        deadline = session.poll_timeout()
        if deadline is not None and deadline.at <= now:
            session.handle_timeout(now)
            if session.is_closed:
                shell.stream._notify()
        self._activate(shell)

    def _activate(self, shell: _Shell) -> None:
        if not shell.active:
            shell.active = True
            self._active.append(shell)
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send for each active stream in its turn, as much as links take."""
        left = _TURN_BYTES
        active = self._active
        now = boottime()
        while active and left > 0:
            shell = active.popleft()
            sent, more = self._send(shell, now, _QUANTUM_BYTES)
            left -= sent
            session = shell.stream._session
            if more:
                active.append(shell)
                continue
            shell.active = False
            if session.is_over:
                self.sessions.forget(session, now)
                self._streams.pop(session, None)
                shell.stop()
                shell.stream._notify()
                continue
            if sent:
                shell.stream._notify()
            self._arm(shell, now)
        self._pumping = bool(active)
        if active:
            asyncio.get_running_loop().call_soon(self._pump)

    def _send(self, shell: _Shell, now: float, most: int) -> tuple[int, bool]:
        """(bytes sent, whether there may be more) of one stream."""
        session, sent, full = shell.stream._session, 0, False

        def ready(local: str) -> bool:
            nonlocal full
            link = self._links.get(local)
            if link is not None and link.runner.writable:
                return True
            full = True
            return False

        while sent < most:
            due = session.next_packet(now, ready)
            if due is None:
                if full:
                    self._blocked.add(shell)
                return sent, False
            local, remote_id, packet = due
            self._transmit(session.id, session.remote, local, remote_id, packet)
            sent += len(packet)
        return sent, True

    def _transmit(self, id: bytes, remote: str, local: str, remote_id: str, packet: bytes) -> None:
        dest = f"{remote_id}.{remote}" if remote_id else remote
        self._links[local].runner.send(dest, self._exchange.packet(_parsed(remote), id, packet))

    def _arm(self, shell: _Shell, now: float) -> None:
        deadline = shell.stream._session.poll_timeout()
        if deadline is not None:
            wait_s = deadline.at - now
            shell.arm(wait_s if wait_s > 0 else _LATE_S)


class _Shell:
    """A stream's timer, and whether it waits for its turn."""

    def __init__(self, stream: Stream, on_timer: Callable[[_Shell], None]) -> None:
        self.stream = stream
        self.active = False
        self._on_timer = on_timer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, wait_s: float) -> None:
        """Call the timer in so many seconds; a timer that comes earlier stays, and arms again."""
        at = self._loop.time() + wait_s
        if self._timer is not None:
            if self._timer.when() <= at + 0.001:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._fire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._on_timer(self)


def accepting(accept: Literal["all"] | Iterable[str | bytes]) -> Callable[[str], bool]:
    """Whether a bare address is in an accept list: keys (hex digits or 32 bytes), addresses, or "all".

    Raises `ConfigError`.
    """
    if accept == "all":
        return lambda remote: True
    if isinstance(accept, str | bytes):
        raise ConfigError('accept is a list of keys or addresses, or the word "all"')
    texts = [entry.hex() if isinstance(entry, bytes) else entry for entry in accept]
    addresses = {NknAddress.parse(text) for text in texts}
    keys = {address.public_key.hex() for address in addresses if not address.identifier}
    whole = {str(address) for address in addresses}
    return lambda remote: remote[-64:] in keys or remote in whole


@lru_cache(1024)
def _split(src: NknAddress) -> tuple[str, str]:
    """(bare address, sub-client's id) of a sender."""
    bare = src.bare
    return str(bare), "" if bare == src else src.identifier.partition(".")[0]


@lru_cache(1024)
def _parsed(remote: str) -> NknAddress:
    return NknAddress.parse(remote)
