"""What nkn-tunnel does: TCP connections that go through streams to the other side's TCP server.

    program -> TCP listener -> MultiClient.dial ... NKN ... StreamServer -> TCP connection -> server

One connection is one stream, and the stream has nothing but the connection's bytes, as with nkn-tunnel.

Where a direction ends, the same direction ends at the other side, if that is one of ours. nkn-tunnel cannot
be told: so when a TCP client shuts down its sending half, the stream stays open for the answer, and is closed
once everything was read there and nothing has come back for `QUIET_END_S`. nkn-tunnel then closes all. A
server that ends its half has nearly always closed: there it is `SERVER_QUIET_END_S`, for its client waits.
A stream that was cut ends its TCP connection with a reset, so that no short transfer looks like a whole one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from nconnect.errors import ClientClosed, ConfigError, HostError, StreamClosed, StreamError
from nconnect.io.errors import plain_reason, reason
from nconnect.io.net.dial import dial
from nconnect.model import NknAddress, join_addr
from nconnect.sdk.multiclient import MultiClient
from nconnect.sdk.stream import Stream
from nconnect.streams.joining import reset

log = logging.getLogger(__name__)

MAX_JOINED = 1024  # connections at once
_CONNECT_S = 10.0
QUIET_END_S = 12.0  # an official sender repeats what was lost after at most 10 s
SERVER_QUIET_END_S = 0.5  # guessed
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class TcpPlace:
    """Where to listen, or what to connect to."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_addr(self.host, self.port)


TunnelEnd = TcpPlace | NknAddress | Literal["nkn"]


def parse_source(text: str) -> TunnelEnd:
    """`--from`: nkn, HOST:PORT or PORT (on loopback). Raises `ConfigError`."""
    if text == "nkn":
        return "nkn"
    return _tcp_place(text, "write nkn, or HOST:PORT such as 127.0.0.1:8080", alone="127.0.0.1")


def parse_target(text: str) -> TcpPlace | NknAddress:
    """`--to`: HOST:PORT, or an NKN address. Raises `ConfigError`."""
    if ":" in text:
        return _tcp_place(text, "write HOST:PORT such as 127.0.0.1:22")
    try:
        return NknAddress.parse(text)
    except ConfigError:
        raise ConfigError(
            f"{text!r} is neither HOST:PORT nor an NKN address (the other side prints it: Listening at …)"
        ) from None


def _tcp_place(text: str, hint: str, *, alone: str = "") -> TcpPlace:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    host = host or alone
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{text!r}: {hint}")
    return TcpPlace(host, int(port))


class StreamTunnel:
    """Joins what `source` accepts to `target`, one for one. At least one of them is on NKN."""

    def __init__(
        self,
        client: MultiClient,
        source: TunnelEnd,
        target: TcpPlace | NknAddress,
        accept: Literal["all"] | list[str],
    ) -> None:
        self._client = client
        self._source = source
        self._target = target
        self._accept = accept
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: set[str] = set()
        self._of_key: Counter[str] = Counter()  # streams that were accepted and are open

    async def run(self, on_listening: Callable[[str], None]) -> None:
        """Serve until cancelled; `on_listening` is told the address. Raises `HostError` for a port in use."""
        try:
            if isinstance(self._source, TcpPlace):
                await self._serve_tcp(self._source, on_listening)
            else:
                await self._serve_nkn(on_listening)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _serve_tcp(self, place: TcpPlace, on_listening: Callable[[str], None]) -> None:
        try:
            server = await asyncio.start_server(
                self._accepted_tcp, place.host, place.port, limit=_CHUNK_BYTES
            )
        except OSError as error:
            raise HostError(f"cannot listen at {place}: {reason(error)}") from None
        async with server:
            on_listening(str(place))
            await server.serve_forever()

    async def _serve_nkn(self, on_listening: Callable[[str], None]) -> None:
        async with self._client.listen(self._accept, on_refused=self._on_refused) as server:
            on_listening(self._client.address)
            async for stream in server:
                key = stream.remote[-64:]
                # A key has at most as many as are free, so that one alone never takes all.
                if self._of_key[key] >= MAX_JOINED - len(self._tasks):
                    stream.abort()
                else:
                    self._start(self._accepted_stream(stream), key)

    def _on_refused(self, remote: str) -> None:
        key = remote[-64:]
        if key not in self._refused and len(self._refused) < 256:
            self._refused.add(key)
            log.warning("refused %s: not in --accept", key)

    async def _accepted_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_JOINED:
            reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            stream = await self._dial()
            if stream is None:
                reset(writer)
            else:
                await _Joined(stream, reader, writer, QUIET_END_S).run()
        except asyncio.CancelledError:
            reset(writer)
        finally:
            self._tasks.discard(task)

    async def _accepted_stream(self, stream: Stream) -> None:
        if isinstance(self._target, TcpPlace):
            try:
                async with asyncio.timeout(_CONNECT_S):
                    sock = await dial(self._target.host, self._target.port)
                reader, writer = await asyncio.open_connection(sock=sock, limit=_CHUNK_BYTES)
            except (OSError, TimeoutError) as error:
                what = "no answer" if isinstance(error, TimeoutError) else plain_reason(error)
                log.warning("cannot connect to %s: %s", self._target, what)
                stream.abort()
                return
            await _Joined(stream, reader, writer, SERVER_QUIET_END_S).run()
        elif (onward := await self._dial()) is None:
            stream.abort()
        else:
            await _relay(stream, onward)

    async def _dial(self) -> Stream | None:
        try:
            return await self._client.dial(str(self._target))
        except (StreamError, ClientClosed) as error:
            log.warning("%s", error)
            return None

    def _start(self, work: Coroutine[Any, Any, None], key: str) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        self._of_key[key] += 1
        task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._of_key[key] -= 1
        if not self._of_key[key]:
            del self._of_key[key]


class _Joined:
    """A TCP connection and its stream."""

    def __init__(
        self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, quiet_end_s: float
    ) -> None:
        """`quiet_end_s`: how long an answer is awaited to what TCP has ended, if nothing tells its end."""
        self._stream = stream
        self._quiet_end_s = quiet_end_s
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        whole = False
        up = asyncio.ensure_future(self._to_stream())
        down = asyncio.ensure_future(self._to_tcp())
        gone = asyncio.ensure_future(self._stream.wait_closed())
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if down.done() and not down.exception() and not up.done():
                # They ended their direction. Ours goes on until it ends, or they have closed everything.
                await asyncio.wait((up, gone), return_when=asyncio.FIRST_COMPLETED)
            elif up.done() and not up.exception() and not down.done():
                await self._wait_for_answer(down)
            for done in (up, down):
                if done.done():
                    done.result()
            await self._stream.close()
            self._writer.close()
            await self._writer.wait_closed()
            whole = True
        except (StreamError, StreamClosed, ClientClosed, OSError) as error:
            log.debug("%s", error)
        finally:
            for task in (up, down, gone):
                task.cancel()
            await asyncio.gather(up, down, gone, return_exceptions=True)
            self._stream.abort()
            if not whole:
                reset(self._writer)

    async def _wait_for_answer(self, down: asyncio.Future[None]) -> None:
        """Everything was sent: until the answer has come whole, as far as the other side can tell that."""
        if self._stream.can_end:
            await asyncio.wait((down,))
            return
        quiet = asyncio.ensure_future(self._stream.wait_quiet(self._quiet_end_s))
        try:
            await asyncio.wait((down, quiet), return_when=asyncio.FIRST_COMPLETED)
        finally:
            quiet.cancel()

    async def _to_stream(self) -> None:
        stream = self._stream
        while data := await self._reader.read(_CHUNK_BYTES):
            stream.write(data)
            await stream.drain()
        stream.write_eof()

    async def _to_tcp(self) -> None:
        writer = self._writer
        while data := await self._stream.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _relay(one: Stream, other: Stream) -> None:
    """Two streams, joined."""

    async def copy(source: Stream, target: Stream) -> None:
        while data := await source.read():
            target.write(data)
            await target.drain()
        target.write_eof()
        if not (source.can_end and target.can_end):
            await target.close()

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(copy(one, other))
            tasks.create_task(copy(other, one))
        await one.close()
        await other.close()
    except* (StreamError, StreamClosed, ClientClosed) as errors:
        log.debug("%s", errors.exceptions[0])
    finally:
        one.abort()
        other.abort()
