"""Nodes and seeds that lie: each lie is a typed error or a counted drop, and the next seed is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nconnect.crypto.keys import Identity
from nconnect.errors import NotConnected
from nconnect.io.http.http import Response
from nconnect.nkn import Client, link, liveness
from nconnect.wire import actions
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.protobuf import bytes_field, uint_field
from tests.loops import run, until
from tests.nkn.liar import Guest, Liar
from tests.nkn.net import Net, answering

SENDER = "sender." + Identity(bytes(32)).public_key.hex()
HONEST_S = 8.0  # within which a client is with the honest node, however the liar lied


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed sooner than in life."""
    for name in ("RESOLVE_S", "CONNECT_S", "CHALLENGE_S", "LOGIN_S"):
        monkeypatch.setattr(link, name, 0.4)


@asynccontextmanager
async def guest_of(liar: Liar) -> AsyncIterator[tuple[Client, Guest]]:
    """A client that is logged in at the liar."""
    inside: asyncio.Queue[Guest] = asyncio.Queue()

    def let_in(guest: Guest) -> None:
        guest.let_in()
        inside.put_nowait(guest)

    liar.on_login = let_in
    async with Client(identifier="guest", seed_rpc=liar.seed) as client:
        yield client, await inside.get()


# At the login: the other seed's node is honest


def wrong_key(liar: Liar) -> None:
    liar.on_login = lambda guest: guest.say(
        actions.ClientSet(replace(liar.info, public_key="ab" * 32), bytes(32))
    )


def redirects_to_itself(liar: Liar) -> None:
    liar.on_login = lambda guest: guest.say(actions.WrongNode(liar.info))


def redirects_before_the_login(liar: Liar) -> None:
    liar.on_open = lambda guest: guest.say(actions.WrongNode(liar.info))


def redirects_to_nowhere(liar: Liar) -> None:
    nowhere = NodeInfo("127.0.0.1:1", "", "ab" * 32, "")
    liar.on_login = lambda guest: guest.say(actions.WrongNode(nowhere))


def redirects_to_what_is_no_node(liar: Liar) -> None:
    liar.on_login = lambda guest: guest.socket.send_text('{"Action":"","Error":48001,"Result":{"addr":7}}')


def never_challenges(liar: Liar) -> None:
    liar.on_open = liar.on_login = lambda guest: None


def never_answers_the_login(liar: Liar) -> None:
    liar.on_login = lambda guest: None


def refuses(liar: Liar) -> None:
    liar.on_login = lambda guest: guest.say(actions.ErrorReply("setClient", actions.INTERNAL_ERROR, "NO"))


def refuses_the_signature(liar: Liar) -> None:
    liar.on_login = lambda guest: guest.say(actions.ErrorReply("setClient", actions.INVALID_SIGNATURE, "NO"))


def hangs_up(liar: Liar) -> None:
    liar.on_open = lambda guest: guest.socket.close()


def speaks_binary_first(liar: Liar) -> None:
    liar.on_open = lambda guest: guest.socket.send_binary((b"\x08\x01",))


def speaks_no_json(liar: Liar) -> None:
    liar.on_open = lambda guest: guest.socket.send_text("<html>")


def challenges_without_end(liar: Liar) -> None:
    liar.on_login = Guest.challenge


def challenges_with_what_is_no_challenge(liar: Liar) -> None:
    liar.on_open = lambda guest: guest.socket.send_text('{"Action":"authChallenge","Challenge":"ab"}')


AT_LOGIN = [
    wrong_key,
    redirects_to_itself,
    redirects_before_the_login,
    redirects_to_nowhere,
    redirects_to_what_is_no_node,
    never_challenges,
    never_answers_the_login,
    refuses,
    refuses_the_signature,
    hangs_up,
    speaks_binary_first,
    speaks_no_json,
    challenges_without_end,
    challenges_with_what_is_no_challenge,
]


@pytest.mark.parametrize("lie", AT_LOGIN)
def test_after_a_lie_at_the_login_the_next_seed_is_asked(lie: Callable[[Liar], None]) -> None:
    async def test() -> None:
        async with Liar.running() as liar, Net.running() as honest:
            lie(liar)
            seeds = [liar.seed, honest.seed]
            async with Client(seed_rpc=seeds, connect_timeout_s=HONEST_S) as client:
                (status,) = client.links
                assert status.node is not None
                assert status.node.addr == f"127.0.0.1:{honest.server.ws_port}"
                assert 0 < liar.connects <= 6
                async with answering(client):
                    assert await client.send(client.address, "hello")

    run(test)


@pytest.mark.parametrize("lie", AT_LOGIN)
def test_where_nobody_is_honest_it_says_why_and_does_not_hammer(lie: Callable[[Liar], None]) -> None:
    async def test() -> None:
        async with Liar.running() as liar:
            lie(liar)
            with pytest.raises(NotConnected) as told:
                async with Client(seed_rpc=liar.seed, connect_timeout_s=0.6):
                    pass
            assert "not connected within 0.6 s" in str(told.value)
            assert "\n" not in str(told.value)
            assert 0 < liar.connects <= 8

    run(test)


@pytest.mark.parametrize("stage", ["before the login", "at the login", "later"])
def test_a_redirect_to_an_honest_node_is_followed(stage: str) -> None:
    async def test() -> None:
        async with Liar.running() as liar, Liar.running() as right:

            def send_away(guest: Guest) -> None:
                if stage == "later":
                    guest.let_in()
                guest.say(actions.WrongNode(right.info))

            if stage == "before the login":
                liar.on_open = send_away
            else:
                liar.on_login = send_away
            async with Client(seed_rpc=liar.seed, connect_timeout_s=HONEST_S) as client:
                await until(lambda: client.is_up and client.links[0].node == right.info)
                assert client.last_nodes == (right.info,)
                await client.send(SENDER, "hello", no_reply=True)
                await until(lambda: right.frames == 1)
            assert (liar.connects, right.connects) == (1, 1)

    run(test)


# By RPC


def html(_: str) -> object:
    return Response(200, b"<html><body>502 Bad Gateway</body></html>")


def server_error(_: str) -> object:
    return Response(502, b"<html>")


def endless(_: str) -> object:
    return Response(200, b'{"result": "' + b"x" * (1 << 20) + b'"}')


def nonsense(_: str) -> object:
    return ["addr"]


def nowhere(_: str) -> object:
    return NodeInfo("0.0.0.0:30002", "", "ab" * 32, "").to_json()


def closed_port(_: str) -> object:
    return NodeInfo("127.0.0.1:1", "", "ab" * 32, "").to_json()


async def silence() -> object:
    await asyncio.sleep(30.0)
    return {}


def silent(_: str) -> object:
    return silence()


@pytest.mark.parametrize("answer", [html, server_error, endless, nonsense, nowhere, closed_port, silent])
def test_after_a_lie_by_rpc_the_next_seed_is_asked(answer: Callable[[str], object]) -> None:
    async def test() -> None:
        async with Liar.running() as liar, Net.running() as honest:
            liar.answer = answer
            with pytest.raises(NotConnected) as told:
                async with Client(seed_rpc=liar.seed, connect_timeout_s=0.7):
                    pass
            assert "\n" not in str(told.value)
            asked = len(liar.asked)
            assert asked <= 8  # a port that is closed is a reason to ask for the TLS one too
            async with Client(seed_rpc=[liar.seed, honest.seed], connect_timeout_s=HONEST_S) as client:
                assert client.is_up
            assert len(liar.asked) > asked

    run(test)


def test_a_node_is_taken_whatever_it_says_of_its_chain() -> None:
    async def test() -> None:
        async with Liar.running() as liar:
            liar.state = "WAIT_FOR_SYNCING"  # an official node's, for minutes, while it serves clients
            async with Client(seed_rpc=liar.seed, connect_timeout_s=HONEST_S) as client:
                assert client.is_up

    run(test)


# Once the client is in


def test_messages_of_others_and_for_others_are_counted() -> None:
    async def test() -> None:
        async with Liar.running() as liar, guest_of(liar) as (client, guest):
            forged = Payload(PayloadType.TEXT, bytes(8), b"\x0a\x02hi").encode()
            for payload in (
                Message(forged + bytes(16), True, bytes(24)).encode(),
                Message(forged + bytes(16), True, bytes(48), bytes(48)).encode(),
            ):
                guest.socket.send_binary((InboundMessage(SENDER, payload).encode(),))
            guest.socket.send_binary((InboundMessage(SENDER, Message(forged).encode()).encode(),))
            guest.socket.send_binary((InboundMessage("nobody", b"").encode(),))
            await until(lambda: sum(client.drops.values()) == 4)
            assert client.drops == {"not_authentic": 2, "unencrypted": 1, "malformed": 1}
            assert client.is_up
            assert not client._inbox

    run(test)


def bomb() -> bytes:
    """A frame of 100 KB that would become 100 MB."""
    body = zlib.compress(bytes_field(1, SENDER.encode()) + bytes_field(2, bytes(100 << 20)), 9)
    return uint_field(1, 1) + bytes_field(2, body) + uint_field(3, 1)


@pytest.mark.parametrize(
    "frame",
    [bomb(), b'{"Action":"setClient"}', b"", b"\xff" * 100, bytes_field(2, b"x"), uint_field(1, 7)],
    ids=["zip bomb", "text", "nothing", "noise", "an outbound message", "an unknown type"],
)
def test_frames_that_are_none_are_counted_and_many_of_them_end_the_link(frame: bytes) -> None:
    async def test() -> None:
        async with Liar.running() as liar, guest_of(liar) as (client, guest):
            guest.socket.send_binary((frame,))
            await until(lambda: client.drops == {"bad_frame": 1})
            assert client.is_up
            for _ in range(link.MAX_BAD_FRAMES):
                guest.socket.send_binary((frame,))
            await until(lambda: guest.closed)
            assert client.drops == {"bad_frame": link.MAX_BAD_FRAMES + 1}
            await until(lambda: client.is_up)
            assert client.links[0].reconnects == 1

    run(test)


def test_binary_where_text_belongs() -> None:
    async def test() -> None:
        async with Liar.running() as liar, guest_of(liar) as (client, guest):
            guest.socket.send_text("\x00\x01 no JSON")
            guest.socket.send_text('{"Action":"updateSigChainBlockHash","Result":[1]}')
            await until(lambda: client.drops == {"bad_frame": 2})
            assert client.is_up

    run(test)


def test_a_frame_of_5_mib_ends_the_connection_and_it_comes_back() -> None:
    async def test() -> None:
        async with Liar.running() as liar, guest_of(liar) as (client, guest):
            guest.socket.send_binary((bytes(5 << 20),))
            await until(lambda: guest.closed)
            await until(lambda: client.is_up and client.links[0].reconnects == 1)
            assert not client._inbox

    run(test)


def test_redirects_in_circles_while_it_is_up_do_not_spin() -> None:
    async def test() -> None:
        async with Liar.running() as liar:

            def let_in_and_send_away(guest: Guest) -> None:
                guest.let_in()
                later = asyncio.get_running_loop().call_later
                later(0.01, lambda: guest.closed or guest.say(actions.WrongNode(liar.info)))

            liar.on_login = let_in_and_send_away
            async with Client(seed_rpc=liar.seed, connect_timeout_s=2.0):
                await asyncio.sleep(1.0)  # in which it would have connected a thousand times
            assert liar.connects <= 12

    run(test)


def test_replies_that_nobody_waits_for_and_a_flood_of_messages() -> None:
    async def test() -> None:
        async with Liar.running() as liar:
            inside: asyncio.Queue[Guest] = asyncio.Queue()
            liar.on_login = lambda guest: (guest.let_in(), inside.put_nowait(guest))
            async with Client(seed_rpc=liar.seed, accept_unencrypted=True, inbox_messages=50) as client:
                guest = await inside.get()
                for n in range(500):
                    payload = Payload(PayloadType.BINARY, n.to_bytes(8, "big"), bytes(100))
                    message = Message(payload.encode()).encode()
                    guest.socket.send_binary((InboundMessage(SENDER, message).encode(),))
                ack = Message(Payload(PayloadType.ACK, reply_to_id=bytes(8)).encode()).encode()
                guest.socket.send_binary((InboundMessage(SENDER, ack).encode(),))
                await until(lambda: client.drops == {"inbox_full": 450, "unexpected_answer": 1})
                assert len(client._inbox) == 50

    run(test)


# Slowness: each answer comes, a byte at a time, and never to its end


@asynccontextmanager
async def trickling(head: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that begins each answer with `head`, goes on for ever, and is slow; who came so far."""
    came: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(1)
        try:
            writer.write(head)
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.02)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", came
    finally:
        server.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # what it serves ends with its clients


SLOW_HEADS = [
    b"",
    b"HTTP/1.1 200 OK\r\nX: ",
    b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
]


@pytest.mark.parametrize("head", SLOW_HEADS, ids=["status", "header", "body", "chunk"])
def test_after_a_seed_that_never_comes_to_an_end_the_next_is_asked(head: bytes) -> None:
    async def test() -> None:
        async with trickling(head) as (slow, came), Net.running() as honest:
            with pytest.raises(NotConnected) as told:
                async with Client(seed_rpc=f"http://{slow}", connect_timeout_s=0.7):
                    pass
            assert "\n" not in str(told.value)
            assert 0 < len(came) <= 5
            seeds = [f"http://{slow}", honest.seed]
            async with Client(seed_rpc=seeds, connect_timeout_s=HONEST_S) as client:
                assert client.is_up

    run(test)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 101 Switching Protocols\r\nX: "], ids=["status", "header"])
def test_a_node_that_never_comes_to_an_end_of_its_greeting(head: bytes) -> None:
    async def test() -> None:
        async with trickling(head) as (slow, came), Liar.running() as seed, Net.running() as honest:
            seed.answer = lambda _: NodeInfo(slow, "", "ab" * 32, "").to_json()
            async with Client(seed_rpc=[seed.seed, honest.seed], connect_timeout_s=HONEST_S) as client:
                assert client.links[0].node is not None
                assert client.links[0].node.addr == f"127.0.0.1:{honest.server.ws_port}"
            assert 0 < len(came) <= 6

    run(test)


def test_a_frame_that_never_ends_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("PING_EVERY_S", 0.2), ("DEAD_AFTER_S", 0.5), ("FAIR_S", 0.1)):
        monkeypatch.setattr(liveness, name, seconds)

    async def test() -> None:
        async with Liar.running() as liar, guest_of(liar) as (client, guest):
            os.write(guest.socket._fd, b"\x82\x7f" + (1 << 20).to_bytes(8, "big"))  # a megabyte follows
            while not guest.closed:
                os.write(guest.socket._fd, b"x")
                await asyncio.sleep(0.02)
            await until(lambda: client.is_up)
            assert client.links[0].reconnects == 1
            assert client.drops == {}

    run(test)


def test_a_node_that_floods_at_each_login_is_not_come_back_to_at_once() -> None:
    async def test() -> None:
        async with Liar.running() as liar:

            def flood(guest: Guest) -> None:
                guest.let_in()
                guest.socket.send_binary((bytes(5 << 20),))

            liar.on_login = flood
            with contextlib.suppress(NotConnected):
                async with Client(seed_rpc=liar.seed, connect_timeout_s=1.0) as client:
                    await asyncio.sleep(1.0)
                    assert not client._inbox
            assert 0 < liar.connects <= 8

    run(test)


@pytest.mark.parametrize("kind", ["zip bomb", "5 MiB", "flood"])
def test_what_a_liar_sends_does_not_fill_the_memory(kind: str) -> None:
    """Beside the 4 MiB that one frame may have, and what may wait in the inbox."""

    async def test() -> None:
        async with Liar.running() as liar:
            inside: asyncio.Queue[Guest] = asyncio.Queue()
            liar.on_login = lambda guest: (guest.let_in(), inside.put_nowait(guest))
            async with Client(
                seed_rpc=liar.seed, accept_unencrypted=True, inbox_bytes=4 << 20, connect_timeout_s=HONEST_S
            ) as client:
                guest = await inside.get()
                frame = bomb() if kind == "zip bomb" else bytes(5 << 20)
                tracemalloc.start()
                try:
                    for n in range(4):
                        if kind == "flood":
                            payload = Payload(PayloadType.BINARY, n.to_bytes(8, "big"), bytes(3 << 20))
                            frame = InboundMessage(SENDER, Message(payload.encode()).encode()).encode()
                        seen = sum(client.drops.values()) + len(client._inbox)
                        if guest.closed:
                            guest = await inside.get()
                        tracemalloc.reset_peak()
                        before = tracemalloc.get_traced_memory()[0]
                        guest.socket.send_binary((frame,))
                        await until(
                            lambda seen=seen, guest=guest: (
                                guest.closed or sum(client.drops.values()) + len(client._inbox) > seen
                            )
                        )
                        assert tracemalloc.get_traced_memory()[1] - before < 24 << 20
                finally:
                    tracemalloc.stop()
                assert client._inbox.held_bytes <= 7 << 20

    run(test)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "node.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(path), "-out", str(path.with_suffix(".crt"))],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def test_wss_and_a_certificate_that_is_not_trusted(certificate: Path) -> None:
    async def test() -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate)
        async with Liar.running(server) as node:
            trusting = ssl.create_default_context(cafile=str(certificate))
            async with Client(seed_rpc=node.seed, tls=trusting, connect_timeout_s=HONEST_S) as client:
                assert client.is_up
                await client.send(SENDER, "hello", no_reply=True)
                await until(lambda: node.frames == 1)
            assert "getwssaddr" in node.asked
            with pytest.raises(NotConnected, match=r"(?i)certificate"):
                async with Client(seed_rpc=node.seed, tls=True, connect_timeout_s=0.5):
                    pass

    run(test)
