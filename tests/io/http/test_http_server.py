"""The HTTP server, against its client and against raw sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import HostError, NetworkError, RemoteProtocolError
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_client import request
from nconnect.io.http.http_connection import Clients, HttpConnection, Limits
from nconnect.io.http.http_server import HttpServer
from nconnect.io.net.listening import bind_unix
from tests.io.serving import QUICK, echo, serving
from tests.loops import run_on_both, until


@contextlib.asynccontextmanager
async def raw(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_a_request_and_its_answer() -> None:
    async def test() -> None:
        async with serving() as server:
            url = f"http://127.0.0.1:{server.port}/a/b?x=1&y="
            answer = await request("POST", url, body=b"hello", timeout_s=5.0)
            assert answer.status == 200
            assert answer.header("content-type") == "application/json"
            assert answer.body == (
                b'{"method":"POST","path":"/a/b","query":{"x":"1","y":""},"body":"hello",'
                b'"peer":"127.0.0.1","host":"127.0.0.1:%d"}' % server.port
            )

    run_on_both(test)


def test_head_has_no_body() -> None:
    async def test() -> None:
        async with serving() as server, raw(server.port) as (reader, writer):
            writer.write(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"\r\n\r\n")

    run_on_both(test)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def test() -> None:
        async with serving() as server, raw(server.port) as (reader, writer):
            for n in range(50):
                writer.write(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
            writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answers = await reader.read()
            places = [answers.index(b'"path":"/%d"' % n) for n in range(50)]
            assert places == sorted(places)
            assert answers.count(b"HTTP/1.1 200") == 51

    run_on_both(test)


def test_pipelining_without_end_is_held_back() -> None:
    async def test() -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def slow(ask: Request) -> Response:
            started.set()
            await release.wait()
            return Response(204)

        async with serving(slow, QUICK) as server, raw(server.port) as (reader, writer):
            ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            writer.write(ask)
            await started.wait()
            writer.write(ask * 1_000_000)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await writer.drain()  # the kernel's buffers are full: nobody reads
            release.set()
            assert (await reader.readline()) == b"HTTP/1.1 204 \r\n"
            writer.transport.abort()

    run_on_both(test)


def test_a_body_in_very_many_chunks_is_refused() -> None:
    """A chunk of one byte costs a hundred times its share of the body."""

    async def test() -> None:
        async with serving(limits=Limits(body_chunks=20)) as server:
            head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            for chunks, status in ((20, b"HTTP/1.1 200"), (21, b"HTTP/1.1 413")):
                async with raw(server.port) as (reader, writer):
                    writer.write(head + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
                    assert (await reader.read()).startswith(status)

    run_on_both(test)


def test_a_chunked_body_and_expect_continue() -> None:
    async def test() -> None:
        async with serving() as server, raw(server.port) as (reader, writer):
            writer.write(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")
            await reader.readline()
            writer.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert b'"body":"abcde"' in await reader.readuntil(b'"host":"a"}')

    run_on_both(test)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(100) + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"y" * 5000), 431),
        (b"G" * 5000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"z" * 5000, 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_garbage_and_too_much_are_refused(sent: bytes, status: int) -> None:
    async def test() -> None:
        async with serving(limits=QUICK) as server, raw(server.port) as (reader, writer):
            writer.write(sent)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 %d" % status), answer
            assert b"connection: close" in answer.lower()

    run_on_both(test)


def test_a_slow_request_is_cut_off_however_it_trickles() -> None:
    async def test() -> None:
        async with serving(limits=QUICK) as server, raw(server.port) as (reader, writer):
            answer = asyncio.create_task(reader.read())
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"y" * 400:
                    if answer.done():
                        break
                    writer.write(bytes([byte]))
                    await asyncio.wait({answer}, timeout=0.01)
            assert (await answer).startswith(b"HTTP/1.1 408")

    run_on_both(test)


def test_a_silent_and_an_idle_connection_are_closed() -> None:
    async def test() -> None:
        async with serving(limits=QUICK) as server:
            async with raw(server.port) as (reader, _):
                assert await reader.read() == b""
            async with raw(server.port) as (reader, writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = await reader.read()
                assert answer.count(b"HTTP/1.1") == 1

    run_on_both(test)


def test_a_client_that_does_not_read_is_dropped() -> None:
    async def test() -> None:
        async def large(ask: Request) -> Response:
            asked.set()
            return Response(200, bytes(32 << 20))

        asked = asyncio.Event()

        async with serving(large, QUICK) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.setblocking(False)
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
                await asked.wait()
                await until(lambda: not server._all.connections)

    run_on_both(test)


def test_one_host_cannot_take_every_connection() -> None:
    async def test() -> None:
        async with serving(limits=Limits(connections_per_host=2)) as server, contextlib.AsyncExitStack() as s:
            for _ in range(2):
                await s.enter_async_context(raw(server.port))
            async with raw(server.port) as (reader, _):
                assert (await reader.read()).startswith(b"HTTP/1.1 503")

    run_on_both(test)


def test_the_handler_is_cancelled_when_its_caller_goes_away() -> None:
    async def test() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def forever(ask: Request) -> Response:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Response(200)

        async with serving(forever) as server:
            async with raw(server.port) as (_, writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await started.wait()
            await cancelled.wait()

            started.clear()
            cancelled.clear()
            async with raw(server.port) as (_, writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await started.wait()
                await server.close()
                assert cancelled.is_set()

    run_on_both(test)


def test_a_handler_that_fails_says_nothing_of_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async def broken(ask: Request) -> Response:
            raise ValueError("secret")

        async def wrong(ask: Request) -> Response:
            return Response(200, headers=(("bad header", "x"),))

        async with serving(broken) as server:
            answer = await request("GET", f"http://127.0.0.1:{server.port}/", timeout_s=5.0)
            assert answer.status == 500
            assert b"secret" not in answer.body
        async with serving(wrong) as server:
            with pytest.raises((NetworkError, RemoteProtocolError)):
                await request("GET", f"http://127.0.0.1:{server.port}/", timeout_s=5.0)

    run_on_both(test)
    assert "secret" in caplog.text


def test_a_unix_socket_says_who_calls(tmp_path: Path) -> None:
    async def test() -> None:
        seen = []

        async def who(ask: Request) -> Response:
            seen.append(ask.credentials)
            return Response.json({"peer": ask.peer_host})

        path = tmp_path / "control.sock"
        server = await HttpServer.listen_on(bind_unix(path), who)
        try:
            answer = await request("GET", "http://local/v1/status", timeout_s=5.0, unix_socket=path)
            assert answer.body == b'{"peer":""}'
            (credentials,) = seen
            assert credentials is not None
            assert (credentials.pid, credentials.uid) == (os.getpid(), os.getuid())
        finally:
            await server.close()
            path.unlink(missing_ok=True)

    run_on_both(test)


def test_an_address_in_use_is_one_line() -> None:
    async def test() -> None:
        async with serving() as server:
            with pytest.raises(HostError, match=rf"cannot listen on 127\.0\.0\.1 port {server.port}: "):
                await HttpServer.listen_tcp("127.0.0.1", server.port, echo)

    run_on_both(test)


class MemoryTransport(asyncio.Transport):
    """Takes what is written; tells whether the connection was closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 5)})
        self.written = bytearray()
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n",
            b"POST /x HTTP/1.0\r\n",
            b"Host: a\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"Connection: close\r\n",
            b"Upgrade: websocket\r\nConnection: upgrade\r\n",
            b"\r\n",
            b"abc",
            b"3\r\nabc\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ]
    ),
)


@settings(max_examples=200)
@given(pieces=st.lists(PIECES, max_size=30), cuts=st.integers(1, 40))
def test_any_bytes_are_answered_or_refused(pieces: list[bytes], cuts: int) -> None:
    data = b"".join(pieces)

    async def test() -> None:
        broken: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        everybody = Clients()
        connection = HttpConnection(echo, QUICK, everybody)
        transport = MemoryTransport()
        connection.connection_made(transport)
        for at in range(0, len(data), cuts):
            connection.data_received(data[at : at + cuts])
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert not broken
        assert not everybody.connections
        assert everybody.pending_bytes == 0
        assert transport.written == b"" or transport.written.startswith(b"HTTP/1.1 ")

    asyncio.run(test())


def test_a_full_server_closes_the_oldest_idle_connection_of_who_has_most() -> None:
    async def test() -> None:
        async with serving(limits=Limits(connections=3)) as server, contextlib.AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(raw(server.port)) for _ in range(3)]
            reader, writer = await stack.enter_async_context(raw(server.port))
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            with contextlib.suppress(ConnectionResetError):
                assert await idle[0][0].read() == b"", "the oldest"
            assert not idle[1][0].at_eof()

    run_on_both(test)


def test_half_requests_do_not_keep_others_out_of_a_full_server() -> None:
    async def test() -> None:
        async with serving(limits=Limits(connections=3)) as server, contextlib.AsyncExitStack() as stack:
            halves = [await stack.enter_async_context(raw(server.port)) for _ in range(3)]
            for _, writer in halves:
                writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
            await until(lambda: server._all.pending_bytes > 150)
            reader, writer = await stack.enter_async_context(raw(server.port))
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")

    run_on_both(test)


def test_half_requests_together_are_bounded() -> None:
    async def test() -> None:
        limits = Limits(pending_bytes=100_000)
        async with serving(limits=limits) as server, contextlib.AsyncExitStack() as stack:
            small_reader, small = await stack.enter_async_context(raw(server.port))
            small.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab")
            await until(lambda: server._all.pending_bytes > 0)
            for _ in range(8):
                _, writer = await stack.enter_async_context(raw(server.port))
                writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n" + bytes(40_000))
                await asyncio.sleep(0)
            await until(lambda: len(server._all.connections) < 5)
            assert server._all.pending_bytes <= 100_000
            small.write(b"cd")
            assert (await small_reader.read()).startswith(b"HTTP/1.1 200"), "who keeps little stays"

    run_on_both(test)


def test_a_full_server_that_is_busy_refuses() -> None:
    async def test() -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def slow(ask: Request) -> Response:
            started.set()
            await release.wait()
            return Response(200)

        async with (
            serving(slow, limits=Limits(connections=1)) as server,
            raw(server.port) as (reader, writer),
        ):
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await started.wait()
            async with raw(server.port) as (refused, _):
                assert (await refused.read()).startswith(b"HTTP/1.1 503")
            release.set()
            assert (await reader.read()).startswith(b"HTTP/1.1 200")

    run_on_both(test)
