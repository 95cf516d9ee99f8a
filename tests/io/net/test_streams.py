"""Direct TCP streams on loopback: opened by peers alone, and silent, bounded and unharmed by all others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest

from nconnect.errors import DropReason, HostError, NetworkError
from nconnect.io.clock import boottime
from nconnect.io.net import streams
from nconnect.io.net.stream_dial import dial_first
from nconnect.io.net.stream_link import StreamLink
from nconnect.model import Endpoint
from nconnect.tunnel.paths.stream import door
from nconnect.tunnel.paths.stream.opening import Dialling
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.stream import ANSWER_BYTES, OPEN_BYTES
from tests.loops import run, run_on_both, until
from tests.tunnel.paths.stream.pairs import PEER, Pair

HERE = "127.0.0.1"


class Listening:
    """B's port, and the streams that opened there, with what came on them."""

    def __init__(self, pair: Pair) -> None:
        self.socket = streams.bind(4, 0)
        self.port: int = self.socket.getsockname()[1]
        self.links: list[StreamLink] = []
        self.came: list[bytes] = []
        self.lost: list[str] = []
        self.now: float | None = None  # a clock that stands still
        self.listener = streams.StreamListener([self.socket], pair.known.get, self._on_stream, self._clock)

    def _clock(self) -> float:
        return boottime() if self.now is None else self.now

    def _on_stream(self, link: StreamLink) -> None:
        link.on_message = lambda message: self.came.append(bytes(message.payload))
        link.on_lost = self.lost.append
        self.links.append(link)
        link.start()

    def endpoint(self, host: str = HERE) -> Endpoint:
        return Endpoint(ip_address(host), self.port)

    @property
    def refused(self) -> dict[DropReason, int]:
        return dict(self.listener.refused)


@asynccontextmanager
async def listening(pair: Pair) -> AsyncIterator[Listening]:
    made = Listening(pair)
    try:
        yield made
    finally:
        made.listener.close()
        for link in made.links:
            link.close()


async def connect(at: Listening, source: str = HERE) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.bind((source, 0))
    try:
        await asyncio.get_running_loop().sock_connect(made, (HERE, at.port))
    except OSError:
        made.close()
        raise
    return made


async def all_that_comes(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    loop, came = asyncio.get_running_loop(), b""
    with suppress(ConnectionResetError):
        while data := await loop.sock_recv(sock, 4096):
            came += data
    sock.close()
    return came


async def say(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


# --- Peers ---


def test_messages_go_both_ways_as_they_are() -> None:
    async def test() -> None:
        pair, came = Pair(), []
        async with listening(pair) as at:
            link = await dial_first("b", [at.endpoint()], pair.a)
            link.on_message = lambda message: came.append(InboundMessage(message.src, bytes(message.payload)))
            link.start()
            large = bytes(range(256)) * 1200
            assert link.send("", (b"head", memoryview(large)))
            assert link.send("", (b"",))
            await until(lambda: len(at.came) == 2)
            assert at.came == [b"head" + large, b""]
            (theirs,) = at.links
            assert (theirs.peer, theirs.is_ours, link.is_ours) == (PEER, False, True)
            assert link.remote == at.endpoint()
            assert theirs.send("", (b"back", b"again"))
            await until(lambda: came)
            assert came == [InboundMessage("b", b"backagain")]
            assert link.writable
            assert link.is_clear()
            assert at.listener.arriving == 0
            assert at.refused == {}
            link.close()
            link.close()
            await until(lambda: at.lost)
            assert not link.send("", (b"x",))

    run_on_both(test)


def test_the_port_is_for_ipv6_too() -> None:
    async def test() -> None:
        pair = Pair()
        bound = streams.bind(6, 0)
        links: list[StreamLink] = []
        listener = streams.StreamListener([bound], pair.known.get, links.append)
        try:
            link = await dial_first("b", [Endpoint(ip_address("::1"), bound.getsockname()[1])], pair.a)
            await until(lambda: links)
            for each in (link, *links):
                each.start()
                each.close()
            with pytest.raises(OSError, match="refused"):  # IPv4 has a socket of its own
                socket.create_connection((HERE, bound.getsockname()[1]), timeout=5)
        finally:
            listener.close()

    run(test)


def test_of_several_addresses_one_becomes_the_stream() -> None:
    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            with socket.create_server((HERE, 0)) as silent:
                others = [Endpoint(ip_address(HERE), silent.getsockname()[1]), at.endpoint("127.0.0.2")]
                link = await dial_first("b", [*others, at.endpoint()], pair.a)
            await until(lambda: at.links and not at.listener.arriving)
            assert len(at.links) == 1
            link.start()
            at.links[0].send("", (b"x",))
            await until(lambda: link.send("", (b"y",)) and at.came)
            link.close()

    run(test)


def test_why_no_stream_opened_is_said_in_one_line() -> None:
    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            pair.known.clear()
            with socket.create_server((HERE, 0)) as one:
                free = one.getsockname()[1]
            with pytest.raises(NetworkError) as raised:
                await dial_first("b", [at.endpoint(), Endpoint(ip_address(HERE), free)], pair.a)
        assert f"{at.endpoint()}: it closed the connection" in str(raised.value)
        assert f"{HERE}:{free}: connection refused" in str(raised.value)
        assert "\n" not in str(raised.value)

    run(test)


def test_who_answers_without_the_key_gets_no_stream() -> None:
    async def test() -> None:
        loop, pair = asyncio.get_running_loop(), Pair()
        with socket.create_server((HERE, 0)) as impostor:
            impostor.setblocking(False)
            to = Endpoint(ip_address(HERE), impostor.getsockname()[1])
            call = asyncio.create_task(dial_first("b", [to], pair.a))
            accepted, _ = await loop.sock_accept(impostor)
            with accepted:
                accepted.setblocking(False)
                assert len(await loop.sock_recv(accepted, 4096)) == OPEN_BYTES
                await say(accepted, bytes(ANSWER_BYTES))
                with pytest.raises(NetworkError, match="not the peer"):
                    await call
                assert await all_that_comes(accepted) == b"", "it was confirmed"

    run(test)


def test_a_dial_that_is_cancelled_leaves_nothing_open() -> None:
    async def test() -> None:
        loop, pair = asyncio.get_running_loop(), Pair()
        with socket.create_server((HERE, 0)) as silent:
            silent.setblocking(False)
            to = Endpoint(ip_address(HERE), silent.getsockname()[1])
            call = asyncio.create_task(dial_first("b", [to, to], pair.a))
            accepted = [(await loop.sock_accept(silent))[0] for _ in range(2)]
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            for each in accepted:
                each.setblocking(False)
                assert len(await all_that_comes(each)) in (0, OPEN_BYTES)

    run(test)


# --- Strangers ---


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (bytes(OPEN_BYTES), DropReason.NO_SESSION),
        (b"GET / HTTP/1.1\r\nHost: example\r\nUser-Agent: a-scanner-of-ports\r\n\r\n", DropReason.NO_SESSION),
        (b"\x0b\x0b\x0b\x0b" + b"\x01" * (OPEN_BYTES - 4), DropReason.NOT_AUTHENTIC),
    ],
    ids=["zeros", "HTTP", "index"],
)
def test_a_stranger_gets_no_byte(what: bytes, why: DropReason) -> None:
    async def test() -> None:
        async with listening(Pair()) as at:
            stranger = await connect(at)
            await say(stranger, what)
            assert await all_that_comes(stranger) == b""
            assert at.refused == {why: 1}
            assert at.listener.arriving == 0
            assert at.links == []

    run(test)


def test_a_recorded_opening_gets_no_byte() -> None:
    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            first = pair.dial().first
            genuine, replay = await connect(at), await connect(at)
            await say(genuine, first)
            assert len(await asyncio.get_running_loop().sock_recv(genuine, 4096)) == ANSWER_BYTES
            await say(replay, first)
            assert await all_that_comes(replay) == b""
            assert at.refused == {DropReason.REPLAYED: 1}
            genuine.close()

    run(test)


def test_who_is_slow_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, also after a genuine first message."""
    monkeypatch.setattr(door, "PROVE_S", 0.3)

    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            mute, slow, half = [await connect(at) for _ in range(3)]
            await say(slow, pair.dial().first[:1])
            await say(half, pair.dial().first)
            came = await asyncio.gather(*map(all_that_comes, (mute, slow, half)))
            assert list(map(len, came)) == [0, 0, ANSWER_BYTES]
            assert at.listener.arriving == 0
            assert at.refused == {DropReason.MALFORMED: 3}

    run(test)


def test_strangers_on_all_places_keep_no_peer_out() -> None:
    """32 that say nothing, from many addresses, and then the peer; no more than 32 are ever held."""

    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            held = [await connect(at, f"127.0.1.{n}") for n in range(1, door.PLACES + 5)]
            await until(lambda: at.refused.get(DropReason.HANDSHAKE_FLOOD) == 4)
            assert at.listener.arriving == door.PLACES
            link = await dial_first("b", [at.endpoint()], pair.a)
            await until(lambda: at.links)
            assert at.listener.arriving == door.PLACES - 1, "the oldest made room"
            assert await all_that_comes(held.pop(0)) == b""
            for each in held:
                each.close()
            await until(lambda: not at.listener.arriving)
            link.start()
            link.close()

    run(test)


def test_one_address_that_knocks_without_end_costs_little() -> None:
    """Most of its connections are closed unread; another address is served meanwhile."""

    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            at.now = 1.0
            for _ in range(60):
                knocking = await connect(at, "127.0.0.9")
                with suppress(OSError):
                    await say(knocking, bytes(OPEN_BYTES))
                assert await all_that_comes(knocking) == b""
            assert at.refused == {
                DropReason.NO_SESSION: door.BURST,
                DropReason.HANDSHAKE_FLOOD: 60 - door.BURST,
            }
            link = await dial_first("b", [at.endpoint()], pair.a)
            link.start()
            link.close()

    run(test)


def test_a_session_that_ends_during_the_opening_gets_no_stream() -> None:
    async def test() -> None:
        loop, pair = asyncio.get_running_loop(), Pair()
        async with listening(pair) as at:
            dialling, sock = pair.dial(), await connect(at)
            await say(sock, dialling.first)
            confirm = dialling.receive(await loop.sock_recv(sock, ANSWER_BYTES))
            assert isinstance(confirm, bytes)
            pair.known.clear()
            await say(sock, confirm)
            assert await all_that_comes(sock) == b""
            assert at.links == []

    run(test)


def test_the_port_closes_with_all_that_is_no_stream_yet() -> None:
    async def test() -> None:
        pair = Pair()
        async with listening(pair) as at:
            waiting = await connect(at)
            await until(lambda: at.listener.arriving == 1)
            at.listener.close()
            at.listener.close()
            assert await all_that_comes(waiting) == b""
            with pytest.raises(ConnectionRefusedError):
                await connect(at)

    run(test)


def test_what_comes_together_with_the_confirmation_is_not_lost() -> None:
    async def test() -> None:
        loop, pair = asyncio.get_running_loop(), Pair()
        async with listening(pair) as at:
            dialling: Dialling = pair.dial()
            sock = await connect(at)
            await say(sock, dialling.first)
            confirm = dialling.receive(await loop.sock_recv(sock, ANSWER_BYTES))
            assert isinstance(confirm, bytes)
            await say(sock, confirm + b"\x82\x85\0\0\0\0first")  # a frame of RFC 6455 with a mask of zeros
            await until(lambda: at.came)
            assert at.came == [b"first"]
            sock.close()
            await until(lambda: at.lost)

    run(test)


def test_a_port_in_use_is_said_in_one_line() -> None:
    with streams.bind(4, 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(HostError, match=f"cannot use TCP port {port} for direct paths: .*direct_port"):
            streams.bind(4, port)
