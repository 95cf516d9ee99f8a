"""Websockets on loopback: our two ends with each other, with the `websockets` library, and with raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import ipaddress
import itertools
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection

from nconnect.errors import NetworkError
from nconnect.io.net import accepting, receive_buffers, websocket, websocket_receiver, websocket_server
from nconnect.io.net.listening import bind_tcp
from nconnect.io.net.websocket import WebSocket
from nconnect.io.net.websocket_client import connect
from nconnect.io.net.websocket_server import WebSocketServer
from nconnect.queueing.turns import Share, Turns
from nconnect.wire.nkn import MAX_FRAME_BYTES
from nconnect.wire.upgrade import ClientUpgrade
from nconnect.wire.websocket import NO_MASK, Opcode, frame_header
from tests.loops import BOTH, LoopFactory, until
from tests.loops import run as run_test

SIZES = (0, 1, 125, 126, 65535, 65536, 1 << 20, MAX_FRAME_BYTES)
UPGRADE = ClientUpgrade("node:30002", "/", bytes(16)).request


def run(test: Callable[[], Awaitable[None]], *, loops: Iterable[LoopFactory] = BOTH) -> None:
    lent = receive_buffers.POOL.lent
    run_test(test, loops=loops)
    assert receive_buffers.POOL.lent == lent, "a receive buffer was not given back"


class Owner:
    """A handler that keeps what it is told."""

    def __init__(self, *, echo: bool = False) -> None:
        self.got: asyncio.Queue[bytes | str] = asyncio.Queue()
        self.pongs = 0
        self.ponged = asyncio.Event()
        self.writable = asyncio.Event()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.echo = echo
        self.socket: WebSocket

    def on_text(self, data: memoryview) -> None:
        assert not self.closed.done()
        self.got.put_nowait(str(data, "utf-8"))
        if self.echo:
            self.socket.send_text(str(data, "utf-8"))

    def on_binary(self, data: memoryview) -> None:
        assert not self.closed.done()
        self.got.put_nowait(bytes(data))
        if self.echo:
            self.socket.send_binary((data[: len(data) // 2], b"", data[len(data) // 2 :]))

    def on_pong(self) -> None:
        self.pongs += 1
        self.ponged.set()

    def on_writable(self) -> None:
        assert self.socket.writable
        self.writable.set()

    def on_closed(self, why: str) -> None:
        assert "\n" not in why
        self.closed.set_result(why)


class Server:
    """A listening server; what connected, in order."""

    def __init__(self, *, echo: bool, turn_away: bool = False) -> None:
        self.owners: asyncio.Queue[Owner] = asyncio.Queue()
        self.server: WebSocketServer
        self.echo = echo
        self.turn_away = turn_away

    def accept(self, socket: WebSocket) -> Owner | None:
        if self.turn_away:
            return None
        owner = Owner(echo=self.echo)
        owner.socket = socket
        self.owners.put_nowait(owner)
        return owner

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"


@contextlib.asynccontextmanager
async def serving(
    *,
    echo: bool = False,
    tls: ssl.SSLContext | None = None,
    admit: Callable[[str], bool] | None = None,
    turn_away: bool = False,
) -> AsyncIterator[Server]:
    made = Server(echo=echo, turn_away=turn_away)
    made.server = WebSocketServer(bind_tcp("127.0.0.1", 0), made.accept, tls, admit)
    try:
        yield made
    finally:
        await made.server.close()
        await asyncio.sleep(0)


async def client(url: str, *, tls: ssl.SSLContext | None = None) -> Owner:
    owner = Owner()
    owner.socket = await connect(url, timeout_s=5.0, tls=tls)
    owner.socket.handler = owner
    owner.socket.start()
    return owner


@contextlib.asynccontextmanager
async def raw(
    server: Server, *, upgraded: bool = True
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain TCP connection, the websocket handshake done."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    try:
        if upgraded:
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def pair(server: Server) -> tuple[Owner, Owner]:
    """A client's owner and the server's."""
    ours = await client(server.url)
    return ours, await server.owners.get()


def masked(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    key = b"\x11\x22\x33\x44"
    body = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload)) if len(payload) < 5000 else payload
    return frame_header(opcode, len(payload), key if len(payload) < 5000 else NO_MASK, fin=fin) + body


# With each other, and with the library


@pytest.mark.parametrize("mask", [True, False])
def test_every_size_there_and_back(mask: bool) -> None:
    async def test() -> None:
        async with serving(echo=True) as server:
            ours, theirs = await pair(server)
            ours.socket.mask = mask
            for size in SIZES:
                sent = random.Random(size).randbytes(size)
                ours.socket.send_binary((sent[: size // 3], memoryview(sent)[size // 3 :]))
                assert await theirs.got.get() == sent
                assert await ours.got.get() == sent
            ours.socket.send_text("größe")
            assert await ours.got.get() == "größe"
            ours.socket.close(1000, "done")
            assert await ours.closed == "done"
            assert "1000 done" in await theirs.closed
            assert ours.socket.tx_bytes > sum(SIZES)
            assert theirs.socket.rx_bytes == ours.socket.tx_bytes

    run(test)


@pytest.mark.parametrize("mask", [True, False])
def test_our_client_and_the_library_s_server(mask: bool) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def test() -> None:
        async with websockets.serve(echo, "127.0.0.1", 0, max_size=None, compression=None) as server:
            port = server.sockets[0].getsockname()[1]
            ours = await client(f"ws://127.0.0.1:{port}")
            ours.socket.mask = mask
            for size in SIZES:
                sent = random.Random(size).randbytes(size)
                ours.socket.send_binary((sent,))
                assert await ours.got.get() == sent
            ours.socket.ping()
            await ours.ponged.wait()
            ours.socket.close(1000, "done")

    run(test, loops=BOTH[:1])


def test_the_library_s_client_and_our_server() -> None:
    async def test() -> None:
        async with serving(echo=True) as server:
            async with websockets.connect(server.url, max_size=None) as theirs:
                assert theirs.protocol.extensions == []  # it offered compression, we do not take it
                for size in SIZES:
                    sent = random.Random(size).randbytes(size)
                    await theirs.send(sent)
                    assert await theirs.recv() == sent
                await theirs.send([b"one ", b"", b"message ", b"in parts"])  # fragmented
                assert await theirs.recv() == b"one message in parts"
                pong = await theirs.ping(b"payload")
                await pong
            owner = await server.owners.get()
            assert "1000" in await owner.closed

    run(test, loops=BOTH[:1])


def test_the_newest_of_many_pings_is_answered_once_and_before_what_follows() -> None:
    async def test() -> None:
        async with serving(echo=True) as server, raw(server) as (reader, writer):
            pings = b"".join(masked(Opcode.PING, b"%03d" % number) for number in range(100))
            writer.write(pings)
            pongs = b""
            while not pongs.endswith(b"099"):
                pongs += await reader.readexactly(5)
            assert len(pongs) <= 5 * 10, "about one for each read"
            writer.write(masked(Opcode.PING, b""))
            assert await reader.readexactly(2) == b"\x8a\x00"

    run(test)


def test_who_reads_no_pongs_is_sent_no_more_of_them() -> None:
    async def test() -> None:
        async with serving() as server, raw(server) as (_, writer):
            owner = await server.owners.get()
            owner.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(200):  # an answer that is never read, until the kernel takes no more
                owner.socket.send_binary((bytes(100_000),))
                if owner.socket.unsent_bytes:
                    break
            unsent = owner.socket.unsent_bytes
            assert unsent
            for _ in range(50):
                writer.write(masked(Opcode.PING, b"x" * 100) * 100)
                await writer.drain()
            writer.write(masked(Opcode.TEXT, b"after"))
            assert await owner.got.get() == "after"
            assert owner.socket.unsent_bytes <= unsent

    run(test)


class _Full(socket.socket):
    """A listener of a process that has no descriptor left, for as long as `full`."""

    full = True
    asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.full:
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


def test_a_process_without_descriptors_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "ACCEPT_PAUSE_S", 0.05)

    async def test() -> None:
        listener = _Full()
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        made = Server(echo=False, turn_away=False)
        made.server = WebSocketServer(listener, made.accept)
        began = asyncio.get_running_loop().time()
        connecting = asyncio.create_task(client(made.url))
        while listener.asked < 5:
            await asyncio.wait([connecting], timeout=0.01)
        assert asyncio.get_running_loop().time() - began >= 0.15, "four pauses, a little less for the clock"
        listener.full = False
        ours = await connecting
        await made.owners.get()
        ours.socket.close()
        listener.full = True
        await made.server.close()
        await asyncio.sleep(0)

    run(test)


def test_ping_and_pong() -> None:
    async def test() -> None:
        async with serving() as server:
            ours, theirs = await pair(server)
            ours.socket.ping()
            await ours.ponged.wait()
            theirs.socket.ping()
            await theirs.ponged.wait()
            assert (ours.pongs, theirs.pongs) == (1, 1)
            ours.socket.close()

    run(test)


def test_the_server_knows_the_host_that_was_asked_for() -> None:
    async def test() -> None:
        async with serving() as server:
            ours = await client(f"ws://localhost:{server.server.port}/path")
            theirs = await server.owners.get()
            assert theirs.socket.host_header == f"localhost:{server.server.port}"
            assert theirs.socket.peer_host == "127.0.0.1"
            ours.socket.close()

    run(test)


def test_closing_the_server_closes_every_websocket() -> None:
    async def test() -> None:
        async with serving() as server:
            ours, theirs = await pair(server)
            await server.server.close()
            assert await theirs.closed == "the node is going away"
            assert "1001" in await ours.closed
            with pytest.raises(NetworkError):
                await connect(server.url, timeout_s=2)

    run(test)


# How the bytes arrive


def script(seed: int) -> tuple[bytes, list[bytes | str]]:
    """A random run of frames as a client sends them, and the messages that it holds."""
    rng = random.Random(seed)
    stream, expected = bytearray(), list[bytes | str]()
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        size = rng.choice((0, 1, 3, 125, 126, 127, 600, 4096, 4097, 5000, 65535, 65536, 70_000, 300_000))
        body = rng.randbytes(size)
        if kind < 0.6:
            stream += masked(Opcode.BINARY, body)
            expected.append(body)
        elif kind < 0.7:
            text = "ä" * (size // 50)
            stream += masked(Opcode.TEXT, text.encode())
            expected.append(text)
        else:
            cuts = sorted(rng.randint(0, size) for _ in range(rng.randint(1, 4)))
            pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
            for number, piece in enumerate(pieces):
                opcode = Opcode.CONTINUATION if number else Opcode.BINARY
                stream += masked(opcode, piece, fin=number == len(pieces) - 1)
                if rng.random() < 0.3:
                    stream += masked(Opcode.PONG, b"between")
            expected.append(body)
    return bytes(stream), expected


class Fed:
    """A socket that gives out bytes in the pieces it is told to."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.fd = os.open("/dev/null", os.O_RDONLY)

    def fileno(self) -> int:
        return self.fd

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def recv_into(self, buffer: memoryview) -> int:
        assert len(buffer), "no room to read into: would look like the end of the stream"
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces[0]
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if size < len(piece):
            self.pieces[0] = piece[size:]
        else:
            del self.pieces[0]
        return size

    def sendmsg(self, parts: list[bytes]) -> int:
        return sum(map(len, parts))

    def close(self) -> None:
        os.close(self.fd)


class Unwatched:
    """The loop of a fed socket: the test itself says when it is readable."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None: ...
    def remove_reader(self, fd: int) -> None: ...


class Kept:
    def __init__(self) -> None:
        self.got: list[bytes | str] = []
        self.closed: list[str] = []

    def on_text(self, data: memoryview) -> None:
        self.got.append(str(data, "utf-8"))

    def on_binary(self, data: memoryview) -> None:
        self.got.append(bytes(data))

    def on_pong(self) -> None: ...
    def on_writable(self) -> None: ...

    def on_closed(self, why: str) -> None:
        self.closed.append(why)


def fed(
    pieces: list[bytes], early: bytes = b"", *, keeps: int | None = None, skipped: list[int] | None = None
) -> tuple[WebSocket, Kept]:
    """A server's websocket that has read all the pieces; `keeps`, `skipped`: with a limit."""
    source = Fed([piece for piece in pieces if piece])
    made = WebSocket(source, client=False, loop=Unwatched(), early=early)  # type: ignore[arg-type]
    kept = Kept()
    made.handler = kept
    if keeps is not None and skipped is not None:
        made.limit(keeps, skipped.append)
    made.start()
    while source.pieces and not made.closed:
        made.receiver.on_readable()
        if keeps is not None:
            assert made.receiver.received.own_bytes <= 2 * keeps + 1024
    return made, kept


def chunks(data: bytes, rng: random.Random) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = rng.choice((1, 2, 13, 14, 15, 100, 1000, 4096, 20_000, 200_000, 2_000_000))
        pieces.append(data[at : at + rng.randint(1, size)])
        at += len(pieces[-1])
    return pieces


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Buffers so small that frames wrap, and do not fit, all the time."""
    monkeypatch.setattr(receive_buffers, "RECEIVE_BUFFER_BYTES", 66_000)
    monkeypatch.setattr(receive_buffers.POOL, "spare", [])
    yield
    receive_buffers.POOL.spare.clear()


@pytest.mark.parametrize("seed", range(40))
def test_any_chunks_give_the_same_messages(seed: int, small_buffers: None) -> None:
    rng = random.Random(seed)
    stream, expected = script(seed)
    for early in (0, 1, rng.randint(0, min(9000, len(stream)))):
        lent = receive_buffers.POOL.lent
        made, kept = fed(chunks(stream[early:], rng), early=stream[:early])
        assert kept.got == expected
        assert made.receiver.received.buffer is None
        assert not kept.closed
        made.close()
        assert kept.closed == ["closed"]
        assert receive_buffers.POOL.lent == lent


def test_any_chunks_give_the_same_messages_when_no_large_buffer_is_left(
    small_buffers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive_buffers, "MAX_LARGE_BUFFERS", 0)
    for seed in range(10):
        stream, expected = script(seed)
        made, kept = fed(chunks(stream, random.Random(seed)))
        assert kept.got == expected
        made.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_frame_over_the_limit_is_skipped_and_never_kept(seed: int, small_buffers: None) -> None:
    rng = random.Random(seed)
    messages = [
        rng.randbytes(rng.choice((0, 100, 300, 4999, 5000, 5001, 70_000, 300_000))) for _ in range(30)
    ]
    stream = b"".join(masked(Opcode.BINARY, message) for message in messages)
    skipped: list[int] = []
    made, kept = fed(chunks(stream, rng), keeps=5000, skipped=skipped)
    assert kept.got == [message for message in messages if len(message) <= 5000]
    assert skipped == [len(message) for message in messages if len(message) > 5000]
    assert made.receiver.received.buffer is None
    made.lift_limit()
    made.close()


def test_after_the_limit_is_lifted_all_is_taken() -> None:
    skipped: list[int] = []
    large = bytes(200_000)

    class Lifting(Kept):
        def on_text(self, data: memoryview) -> None:
            made.lift_limit()

    source = Fed(
        [masked(Opcode.BINARY, large) + masked(Opcode.TEXT, b"login") + masked(Opcode.BINARY, large)]
    )
    made = WebSocket(source, client=False, loop=Unwatched())  # type: ignore[arg-type]
    made.handler = kept = Lifting()
    made.limit(16_384, skipped.append)
    made.start()
    made.receiver.on_readable()
    assert (skipped, kept.got) == ([200_000], [large])
    made.close()


def test_fragments_over_the_limit_end_the_connection() -> None:
    part = masked(Opcode.BINARY, bytes(3000), fin=False)
    _made, kept = fed([part, masked(Opcode.CONTINUATION, bytes(3000))], keeps=5000, skipped=[])
    assert kept.got == []
    assert "over 5000 bytes" in kept.closed[0]


def test_a_frame_split_at_every_byte() -> None:
    whole = masked(Opcode.BINARY, b"a" * 130) + masked(Opcode.TEXT, b"b")
    for at in range(len(whole)):
        made, kept = fed([whole[:at], whole[at:]])
        assert kept.got == [b"a" * 130, "b"]
        made.close()
    made, kept = fed([whole[i : i + 1] for i in range(len(whole))])
    assert kept.got == [b"a" * 130, "b"]
    made.close()


def test_many_frames_in_one_segment_and_behind_the_handshake() -> None:
    async def test() -> None:
        async with serving() as server, raw(server, upgraded=False) as (_, writer):
            writer.write(UPGRADE + b"".join(masked(Opcode.BINARY, bytes([n])) for n in range(256)))
            owner = await server.owners.get()
            assert [await owner.got.get() for _ in range(256)] == [bytes([n]) for n in range(256)]

    run(test)


# What is refused


REFUSED = {
    "a frame that is not masked": frame_header(Opcode.BINARY, 1) + b"x",
    "an announced frame over the limit": frame_header(Opcode.BINARY, MAX_FRAME_BYTES + 1, NO_MASK),
    "an announced frame of 2^63": b"\x82\xff" + (1 << 63).to_bytes(8) + NO_MASK,
    "reserved bits": b"\xc2\x80" + NO_MASK,
    "an unknown opcode": b"\x83\x80" + NO_MASK,
    "a fragmented ping": b"\x09\x80" + NO_MASK,
    "a long ping": b"\x89\xfe\x00\x80" + NO_MASK,
    "a length not in its shortest form": b"\x82\xfe\x00\x05" + NO_MASK,
    "a continuation of nothing": masked(Opcode.CONTINUATION, b"x"),
    "a message inside another": masked(Opcode.BINARY, b"x", fin=False) + masked(Opcode.BINARY, b"y"),
    "a close code that never travels": masked(Opcode.CLOSE, (1005).to_bytes(2)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_client_that_breaks_the_protocol_is_cut_off(what: str) -> None:
    made, kept = fed([REFUSED[what], masked(Opcode.BINARY, b"never handed on")])
    assert kept.got == []
    assert len(kept.closed) == 1
    assert "closed the" not in kept.closed[0]
    assert made.closed
    assert made.receiver.received.buffer is None


def test_fragments_add_up_to_the_limit_and_no_further() -> None:
    half = bytes(MAX_FRAME_BYTES // 2)
    first = frame_header(Opcode.BINARY, len(half), NO_MASK, fin=False) + half
    made, kept = fed([first, frame_header(Opcode.CONTINUATION, len(half), NO_MASK) + half])
    assert [len(message) for message in kept.got] == [MAX_FRAME_BYTES]
    made.close()
    _, kept = fed([first, frame_header(Opcode.CONTINUATION, len(half) + 1, NO_MASK) + half + b"x"])
    assert kept.got == []
    assert "over" in kept.closed[0]


def test_a_client_refuses_a_masked_frame() -> None:
    async def test() -> None:
        async with serving() as server:
            ours, theirs = await pair(server)
            theirs.socket._sock.sendmsg([masked(Opcode.BINARY, b"x")])
            assert "mask" in await ours.closed
            assert "1002" in await theirs.closed
            assert ours.got.empty()

    run(test)


def test_after_close_nothing_is_sent_or_said() -> None:
    made, kept = fed([])
    made.close()
    made.close()
    made.send_binary((b"x",))
    made.send_text("x")
    made.ping()
    made.receiver.on_readable()
    assert kept.closed == ["closed"]
    assert not made.writable


def test_a_handler_that_closes_in_the_middle_of_a_read_hears_no_more() -> None:
    frames = [masked(Opcode.BINARY, bytes([n])) for n in range(3)]
    source = Fed([b"".join(frames)])
    made = WebSocket(source, client=False, loop=Unwatched())  # type: ignore[arg-type]
    kept = Kept()

    class Closing(Kept):
        def on_binary(self, data: memoryview) -> None:
            kept.on_binary(data)
            made.close(1000, "enough")

    closing = made.handler = Closing()
    made.start()
    made.receiver.on_readable()
    assert kept.got == [b"\0"]
    assert closing.closed == ["enough"]


# The handshake


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01 garbage\r\n\r\n", b"A" * 9000]
)
def test_what_is_no_handshake_gets_400(said: bytes) -> None:
    async def test() -> None:
        async with serving() as server:
            async with raw(server, upgraded=False) as (reader, writer):
                writer.write(said)
                answer = b""
                with contextlib.suppress(ConnectionResetError):  # we close with bytes unread
                    answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 400 ") or len(said) > 4096
            assert server.owners.empty()

    run(test)


def test_a_handshake_that_trickles_in_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_server, "UPGRADE_TIMEOUT_S", 0.1)

    async def test() -> None:
        async with serving() as server, raw(server, upgraded=False) as (reader, writer):
            writer.write(UPGRADE[:-1])
            assert await reader.read() == b""
            assert server.owners.empty()

    run(test)


def test_a_handshake_byte_by_byte_is_taken() -> None:
    async def test() -> None:
        async with serving() as server, raw(server, upgraded=False) as (reader, writer):
            for byte in UPGRADE:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
            await server.owners.get()

    run(test)


def test_admit_and_accept_may_turn_away() -> None:
    async def test() -> None:
        asked = []

        def admit(host: str) -> bool:
            asked.append(host)
            return False

        async with serving(admit=admit) as server:
            with pytest.raises(NetworkError):
                await connect(server.url, timeout_s=2)
            assert asked == ["127.0.0.1"]
            assert server.owners.empty()
        async with serving(turn_away=True) as server:
            ours = await client(server.url)
            assert await ours.closed

    run(test)


def test_who_hung_up_while_he_waited_costs_no_websocket() -> None:
    async def test() -> None:
        async with serving() as server:
            with socket.create_connection(("127.0.0.1", server.server.port)) as gone:
                gone.sendall(UPGRADE)
                gone.shutdown(socket.SHUT_WR)
                # The loop has had no turn yet: that one stands in the kernel's queue, in front of this one.
                _, theirs = await pair(server)
                assert server.owners.empty()
                assert gone.recv(1) == b"", "no answer either"
            assert not theirs.closed.done()

    run(test)


def answering(answer: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return serve


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"A" * 20_000,
    ],
)
def test_a_server_that_is_no_websocket_is_refused_in_one_line(answer: bytes) -> None:
    async def test() -> None:
        server = await asyncio.start_server(answering(answer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(NetworkError) as error:
                await connect(f"ws://127.0.0.1:{port}", timeout_s=5)
            assert "\n" not in str(error.value)
        await asyncio.sleep(0)

    run(test, loops=BOTH[:1])


def test_a_server_that_says_nothing_times_out() -> None:
    async def test() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with pytest.raises(NetworkError, match=r"did not answer within 0\.05 s"):
                await connect(f"ws://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.05)

    run(test)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "ws://", "ws://127.0.0.1:99999", "127.0.0.1:30002", ""]
)
def test_what_is_no_websocket_address(url: str) -> None:
    async def test() -> None:
        with pytest.raises(NetworkError):
            await connect(url, timeout_s=1)

    run(test, loops=BOTH[:1])


# Flow and memory


def test_a_slow_reader_holds_the_sender_back_and_gets_everything_in_order() -> None:
    async def test() -> None:
        async with serving() as server, raw(server) as (reader, _):
            owner = await server.owners.get()
            sent = 0
            while owner.socket.writable:
                owner.socket.send_binary((sent.to_bytes(4), bytes(60_000)))
                sent += 1
            for _ in range(20):  # kept behind what waits
                owner.socket.send_binary((sent.to_bytes(4), bytes(60_000)))
                sent += 1
            held = owner.socket.unsent_bytes
            assert 20 * 60_000 < held < websocket.MAX_UNSENT_BYTES
            assert not owner.writable.is_set()
            for number in range(sent):
                frame = await reader.readexactly(10 + 60_004 - 6)
                assert frame[:4] == b"\x82\x7e" + (60_004).to_bytes(2)
                assert frame[4:8] == number.to_bytes(4)
            await owner.writable.wait()
            assert owner.socket.unsent_bytes == 0
            assert owner.socket.writable

    run(test)


def test_whoever_used_the_budget_up_is_told_when_there_is_one_again() -> None:
    """Also while the timer for the next look at the connection runs: he sends nothing more until told."""

    async def test() -> None:
        async with serving() as server:
            mine, _ = await pair(server)
            socket = mine.socket
            socket.pace()
            assert socket._pacing is not None
            socket._pacing.pacer.rate = socket.rate = 100_000.0
            await until(lambda: socket.room > 3000)
            socket.send_binary((bytes(500),))
            assert socket.writable, "more may leave at once"
            assert socket._pacing.timer is not None
            while socket.room:
                socket.send_binary((bytes(500),))
            assert not socket.writable
            assert not mine.writable.is_set()
            await mine.writable.wait()
            assert socket.room

    run(test)


def test_who_does_not_read_at_all_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_UNSENT_BYTES", 1 << 20)

    async def test() -> None:
        async with serving() as server, raw(server):
            owner = await server.owners.get()
            for _ in range(1000):
                owner.socket.send_binary((bytes(100_000),))
                assert owner.socket.unsent_bytes <= 1 << 20
            assert await owner.closed == "the other side does not read"
            assert owner.socket.unsent_bytes == 0

    run(test)


def test_buffers_may_be_reused_as_soon_as_they_are_sent() -> None:
    async def test() -> None:
        async with serving() as server:
            ours, theirs = await pair(server)
            buffer = bytearray(100_000)
            for number in range(200):
                buffer[:] = bytes([number]) * 100_000
                ours.socket.send_binary((buffer,))
            buffer[:] = bytes(100_000)
            for number in range(200):
                assert await theirs.got.get() == bytes([number]) * 100_000
            ours.socket.close()

    run(test)


def held_by(made: WebSocket) -> int:
    return len(made.receiver.received.buffer) if made.receiver.received.buffer is not None else 0


@pytest.mark.parametrize("cut", [1, 2, 9, 14])
def test_an_announced_frame_alone_costs_next_to_nothing(cut: int) -> None:
    """What waits for the rest of a frame holds about what arrived, but for a bounded few."""
    head = frame_header(Opcode.BINARY, MAX_FRAME_BYTES, b"\1\2\3\4")
    sockets = [fed([head[:cut], head[cut:] + bytes(3000)])[0] for _ in range(200)]
    assert (
        sum(map(held_by, sockets))
        < 200 * 8192 + receive_buffers.MAX_LARGE_BUFFERS * receive_buffers.RECEIVE_BUFFER_BYTES
    )
    assert max(map(held_by, sockets)) <= receive_buffers.RECEIVE_BUFFER_BYTES
    for made in sockets:
        made.close()
    assert receive_buffers.POOL.lent == 0


def test_half_frames_of_many_connections_hold_few_large_buffers() -> None:
    head = frame_header(Opcode.BINARY, 256 << 10, b"\1\2\3\4")
    sockets = [fed([head + bytes(10)])[0] for _ in range(300)]
    large = [made for made in sockets if held_by(made) > 4096]
    assert len(large) <= receive_buffers.MAX_LARGE_BUFFERS
    for made in sockets:
        made.close()
    assert receive_buffers.POOL.lent == 0
    assert len(receive_buffers.POOL.spare) <= receive_buffers.SPARE_BUFFERS


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_source_that_keeps_too_much_of_half_messages_loses_a_connection(fragmented: bool) -> None:
    turns = Turns(kept_limit=400_000)
    share, other = turns.share(), turns.share()
    piece = bytes(90_000)
    half = masked(Opcode.BINARY, piece, fin=False)
    if not fragmented:
        half = frame_header(Opcode.BINARY, 180_000, b"\1\2\3\4") + piece

    def another(of: Share) -> WebSocket:
        made = WebSocket(Fed([half]), client=False, loop=Unwatched())  # type: ignore[arg-type]
        made.receiver.share = of
        made.limit(MAX_FRAME_BYTES, lambda size: None)  # so that it is lent no buffer
        made.handler = Kept()
        made.start()
        made.receiver.on_readable()
        return made

    sockets = [another(share) for _ in range(10)]
    open_ones = [made for made in sockets if not made.closed]
    assert 1 <= len(open_ones) < 10
    assert share.kept_bytes <= 200_000
    assert not another(other).closed, "another source has its own"
    for made in open_ones:
        made.close()
    assert share.kept_bytes == 0


def test_an_idle_connection_holds_no_buffer() -> None:
    made, kept = fed([masked(Opcode.BINARY, b"whole")])
    assert kept.got == [b"whole"]
    assert held_by(made) == 0
    made.receiver.on_readable()  # woken for nothing
    assert held_by(made) == 0
    made.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "node.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    return server, ssl.create_default_context(cafile=str(certificate))


def test_wss_every_size_there_and_back(certificate: Path) -> None:
    async def test() -> None:
        for_server, for_client = contexts(certificate)
        async with serving(echo=True, tls=for_server) as server:
            url = server.url.replace("ws:", "wss:")
            ours = await client(url, tls=for_client)
            theirs = await server.owners.get()
            assert isinstance(ours.socket.socket, socket.socket)
            for size in SIZES:
                sent = random.Random(size).randbytes(size)
                ours.socket.send_binary((sent,))
                assert await ours.got.get() == sent
            ours.socket.close(1000, "done")
            assert await theirs.closed

    run(test)


def test_wss_a_slow_reader_gets_everything(certificate: Path) -> None:
    """TLS wants a write that blocked to be repeated with the same bytes first."""

    async def test() -> None:
        for_server, for_client = contexts(certificate)
        async with serving(tls=for_server) as server:
            url = server.url.replace("ws:", "wss:")
            late = await connect(url, timeout_s=5, tls=for_client)
            theirs = await server.owners.get()
            sent = 0
            while theirs.socket.writable or sent < 100:
                theirs.socket.send_binary((sent.to_bytes(4), bytes(50_000)))
                sent += 1
            ours = Owner()
            ours.socket = late
            late.handler = ours
            late.start()
            for number in range(sent):
                message = await ours.got.get()
                assert isinstance(message, bytes)
                assert (message[:4], len(message)) == (number.to_bytes(4), 50_004)
            late.close()
            await theirs.closed

    run(test)


def test_wss_frames_that_come_with_the_handshake(certificate: Path) -> None:
    async def test() -> None:
        for_server, for_client = contexts(certificate)
        async with serving(tls=for_server) as server:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", server.server.port, ssl=for_client, server_hostname="127.0.0.1"
            )
            frames = b"".join(masked(Opcode.BINARY, bytes([n]) * 3000) for n in range(20))
            writer.write(UPGRADE + frames)
            owner = await server.owners.get()
            assert [await owner.got.get() for _ in range(20)] == [bytes([n]) * 3000 for n in range(20)]
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    run(test, loops=BOTH[:1])


def test_wss_refuses_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    async def test() -> None:
        for_server, _ = contexts(certificate)
        async with serving(tls=for_server) as server:
            with pytest.raises(NetworkError, match="its certificate is self-signed") as error:
                await connect(server.url.replace("ws:", "wss:"), timeout_s=5)
            assert "\n" not in str(error.value)
            assert server.owners.empty()

    run(test)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_wss_who_speaks_no_tls_is_let_go(
    certificate: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_server, "UPGRADE_TIMEOUT_S", 0.2)

    async def test() -> None:
        for_server, _ = contexts(certificate)
        async with serving(tls=for_server) as server, raw(server, upgraded=False) as (reader, writer):
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                assert not (await reader.read()).startswith(b"HTTP")
            assert server.owners.empty()

    run(test)


def test_many_small_frames_leave_others_their_turn() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with serving() as server:
            ours, theirs = await pair(server)
            turns: list[int] = []
            all_there = asyncio.Event()

            def count() -> None:
                turns.append(theirs.got.qsize())
                if turns[-1] < 5000:
                    loop.call_soon(count)
                else:
                    all_there.set()

            count()
            frame = frame_header(Opcode.BINARY, 4, NO_MASK) + b"tiny"
            ours.socket.socket.sendall(frame * 2500 + frame[:5])
            ours.socket.socket.sendall(frame[5:] + frame * 2499)
            async with asyncio.timeout(10):
                await all_there.wait()
            steps = [after - before for before, after in itertools.pairwise(turns)]
            assert max(steps) <= websocket_receiver.MAX_FRAMES_A_TURN
            ours.socket.close()
            await theirs.closed

    run(scenario)
