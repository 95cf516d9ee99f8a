"""Streams by the control socket of a daemon: a real unix socket, and a backend whose stream echoes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nconnect.control.server import ControlServer
from nconnect.errors import StreamError
from nconnect.io.net.listening import bind_unix
from nconnect.streams.dialler import RefusalCode, StreamRefused
from nconnect.streams.framed import FramedStream
from nconnect.streams.socket_dialler import SocketDialler
from tests.control.fake import FakeBackend


class Echo:
    """A stream whose other end echoes what is written, and says "end" behind it."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self.aborted = asyncio.Event()
        self.closed = asyncio.Event()

    async def read(self, most: int = 1 << 18) -> bytes:
        if self.aborted.is_set():
            raise StreamError("cut")
        return await self.came.get()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.came.put_nowait(bytes(data))

    async def drain(self) -> None: ...

    def write_eof(self) -> None:
        self.came.put_nowait(b"end")
        self.came.put_nowait(b"")

    async def close(self) -> None:
        self.closed.set()

    async def wait_closed(self) -> None:
        await self.closed.wait()

    def abort(self) -> None:
        self.aborted.set()


def run(folder: Path, test: Callable[[SocketDialler, Echo, FakeBackend], Awaitable[None]]) -> None:
    async def main() -> None:
        path = folder / "nc0.sock"
        backend, echo = FakeBackend(path), Echo()
        backend.stream = echo
        server = await ControlServer.on(bind_unix(path), path, backend)
        try:
            await asyncio.wait_for(test(SocketDialler(path), echo, backend), 10)
        finally:
            await server.close()

    asyncio.run(main())


def test_a_stream_carries_bytes_both_ways_and_ends(tmp_path: Path) -> None:
    async def test(dialler: SocketDialler, echo: Echo, backend: FakeBackend) -> None:
        stream = await dialler.open("gpu.internal", 8000)
        assert backend.asked == [("stream", "gpu.internal", 8000)]
        sent = os.urandom(3_000_000)
        stream.write(sent)
        stream.write_eof()
        got = bytearray()
        while data := await stream.read(1000):
            assert len(data) <= 1000
            got += data
        assert bytes(got) == sent + b"end"
        await stream.close()
        await asyncio.wait_for(echo.closed.wait(), 1)
        assert not echo.aborted.is_set()

    run(tmp_path, test)


def test_a_refusal_has_its_reason_and_code(tmp_path: Path) -> None:
    async def test(dialler: SocketDialler, echo: Echo, backend: FakeBackend) -> None:
        with pytest.raises(StreamRefused) as caught:
            await dialler.open("192.168.50.10", 22)
        assert caught.value.code is RefusalCode.NOT_ALLOWED
        assert caught.value.reason == "gpu: not among what this peer may reach"
        with pytest.raises(TimeoutError, match="gpu does not answer"):
            await dialler.open("192.168.50.10", 23)

    run(tmp_path, test)


def test_a_stream_that_breaks_in_the_daemon_is_no_short_success(tmp_path: Path) -> None:
    async def test(dialler: SocketDialler, echo: Echo, backend: FakeBackend) -> None:
        stream = await dialler.open("192.168.50.10", 8000)
        echo.write(b"part")
        assert await stream.read() == b"part"
        echo.abort()
        echo.write(b"wake")  # then the reader sees the cut
        assert await stream.read() == b"wake"
        with pytest.raises(StreamError, match="cut"):
            await stream.read()
        await stream.wait_closed()

    run(tmp_path, test)


def test_a_program_that_goes_away_cuts_the_stream(tmp_path: Path) -> None:
    async def test(dialler: SocketDialler, echo: Echo, backend: FakeBackend) -> None:
        stream = await dialler.open("192.168.50.10", 8000)
        stream.abort()
        await asyncio.wait_for(echo.aborted.wait(), 1)

    run(tmp_path, test)


def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StreamRefused, match="the daemon is gone"):
        asyncio.run(SocketDialler(tmp_path / "none.sock").open("192.168.50.10", 8000))


def test_an_end_of_the_daemon_ends_its_streams(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "nc0.sock"
        backend, echo = FakeBackend(path), Echo()
        backend.stream = echo
        server = await ControlServer.on(bind_unix(path), path, backend)
        stream = await SocketDialler(path).open("192.168.50.10", 8000)
        await asyncio.wait_for(server.close(), 5)
        with pytest.raises(StreamError):
            await stream.read()
        assert echo.aborted.is_set()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("upgrade", "body"),
    [
        ("", '{"host": "a", "port": 1}'),
        ("websocket", '{"host": "a", "port": 1}'),
        ("nconnect-stream", '{"host": "a", "port": 0}'),
        ("nconnect-stream", '{"host": 5, "port": 80}'),
        ("nconnect-stream", "[]"),
    ],
)
def test_a_malformed_request_is_refused(tmp_path: Path, upgrade: str, body: str) -> None:
    async def test(dialler: SocketDialler, echo: Echo, backend: FakeBackend) -> None:
        reader, writer = await asyncio.open_unix_connection(str(backend.socket))
        headers = f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n" if upgrade else ""
        head = f"POST /v1/streams HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"
        writer.write(head.encode())
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
        assert not backend.asked

    run(tmp_path, test)


def test_a_frame_that_is_too_long_cuts_the_stream() -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"\xff\xff\xff\xff")

        class Writer:
            class transport:
                @staticmethod
                def abort() -> None: ...

        with pytest.raises(StreamError):
            await FramedStream(reader, Writer()).read()  # type: ignore[arg-type]

    asyncio.run(main())
