"""A link on the event loop, against a small fake node on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nconnect.crypto.keys import Identity, verify
from nconnect.io.clock import boottime
from nconnect.io.http.http import Request, Response
from nconnect.io.net.listening import bind_tcp, is_orphan
from nconnect.io.net.websocket import WebSocket
from nconnect.io.net.websocket_server import WebSocketServer
from nconnect.io.nkn import link as link_module
from nconnect.io.nkn.link import MAX_WAITING_RECEIPTS, LinkRunner
from nconnect.model import NknAddress
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.wire import actions, sigchain
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage, OutboundMessage, Receipt, decode_client_message
from tests.io.nkn.handler import Handler
from tests.io.serving import url_of
from tests.loops import run_on_both

IDENTITY = Identity(bytes(range(32)))
ADDRESS = NknAddress("gpu", IDENTITY.public_key)
DEST = "laptop." + Identity(bytes(32)).public_key.hex()
CHALLENGE = bytes(range(32))
HASH = bytes(range(64, 96))


class Session:
    """One client at the fake node."""

    def __init__(self, node: FakeNode, socket: WebSocket) -> None:
        self.node = node
        self.socket = socket
        self.messages: asyncio.Queue[OutboundMessage | Receipt] = asyncio.Queue()
        self.closed = asyncio.Event()
        asyncio.get_running_loop().call_soon(self.challenge)

    def challenge(self) -> None:
        if self.node.challenges and not self.closed.is_set():
            self.say(actions.AuthChallenge(CHALLENGE))

    def say(self, action: actions.NodeAction) -> None:
        self.socket.send_text(action.encode())  # type: ignore[union-attr]

    def on_text(self, data: memoryview) -> None:
        login = actions.parse_client_action(data)
        assert isinstance(login, actions.SetClient)
        digest = sigchain.login_digest(CHALLENGE, login.salt)
        assert verify(IDENTITY.public_key, digest, login.signature)
        assert login.address == str(ADDRESS)
        if self.node.redirect_to is not None:
            self.say(actions.WrongNode(self.node.redirect_to))
        else:
            self.say(actions.ClientSet(self.node.info, HASH, self.node.waives))
            self.node.sessions.put_nowait(self)

    def on_binary(self, data: memoryview) -> None:
        message = decode_client_message(bytes(data))
        assert not isinstance(message, InboundMessage)
        self.messages.put_nowait(message)

    def on_pong(self) -> None: ...
    def on_writable(self) -> None: ...

    def on_closed(self, why: str) -> None:
        self.closed.set()


class FakeNode:
    def __init__(self) -> None:
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.challenges = True
        self.waives: frozenset[actions.Waiver] = frozenset()
        self.redirect_to: NodeInfo | None = None
        self.connects = 0
        self.info: NodeInfo
        self.websockets: WebSocketServer

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(cls) -> AsyncIterator[FakeNode]:
        self = cls()
        self.websockets = WebSocketServer(bind_tcp("127.0.0.1", 0), self._accept)
        key = os.urandom(32).hex()
        self.info = NodeInfo(f"127.0.0.1:{self.websockets.port}", "", key, "")
        try:
            yield self
        finally:
            await self.websockets.close()

    def _accept(self, socket: WebSocket) -> Session:
        self.connects += 1
        return Session(self, socket)


class Owner(Handler):
    """Keeps what it was told, answers messages, and may fail at them."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_on_message = False
        self.answer: Callable[[InboundMessage], object] | None = None

    def on_message(self, message: InboundMessage) -> None:
        if self.answer is not None:
            self.answer(message)
        if self.fail_on_message:
            raise ZeroDivisionError("a bug")
        super().on_message(message)


@contextlib.asynccontextmanager
async def seed_of(node: FakeNode) -> AsyncIterator[str]:
    async def handler(ask: Request) -> Response:
        asked = json.loads(ask.body)
        assert asked["params"] == {"address": str(ADDRESS)}
        return Response.json({"id": asked["id"], "jsonrpc": "2.0", "result": node.info.to_json()})

    async with url_of(handler) as url:
        yield url


@contextlib.asynccontextmanager
async def linked(*seeds: str) -> AsyncIterator[tuple[LinkRunner, Owner, asyncio.Task[None]]]:
    owner = Owner()
    link = Link(IDENTITY, ADDRESS, seeds, now=boottime(), rng=os.urandom)
    runner = LinkRunner(link, owner)
    task = asyncio.create_task(runner.run(), name="link under test")
    try:
        yield runner, owner, task
    finally:
        runner.close()
        await asyncio.wait([task])


def test_up_messages_both_ways_and_a_receipt() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, task):
            assert not runner.send(DEST, (b"too early",))
            assert not runner.writable
            assert await owner.ups.get() == node.info
            session = await node.sessions.get()
            assert runner.writable
            assert runner.send(DEST, (b"hello ", bytearray(b"wor"), memoryview(b"ld")))
            got = await session.messages.get()
            assert isinstance(got, OutboundMessage)
            assert (got.dests, bytes(got.payloads[0]), got.block_hash) == ((DEST,), b"hello world", HASH)
            assert len(got.signatures) == 1
            session.socket.send_binary((InboundMessage(DEST, b"reply", HASH).encode(),))
            assert await owner.messages.get() == (DEST, b"reply")
            receipt = await session.messages.get()
            assert isinstance(receipt, Receipt)
            assert receipt.prev_hash == HASH
            while runner.link.rtt_s is None:  # noqa: ASYNC110 - a pong tells nobody
                await asyncio.sleep(0.005)
            assert 0.0 < runner.link.rtt_s < 5.0
            runner.close()
            await task
            assert await owner.downs.get() is DownReason.STOPPED
            await session.closed.wait()
            assert not runner.send(DEST, (b"too late",))

    run_on_both(test)


def test_the_answer_goes_out_before_the_receipt() -> None:
    """And when many receipts wait, they go at once."""

    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, _):
            await owner.ups.get()
            session = await node.sessions.get()
            owner.answer = lambda message: runner.send(message.src, (message.payload,))
            session.socket.send_binary((InboundMessage(DEST, b"ping", HASH).encode(),))
            assert isinstance(await session.messages.get(), OutboundMessage)
            assert isinstance(await session.messages.get(), Receipt)

            waited = []
            owner.answer = lambda message: waited.append(len(runner.link.receipts))
            flood = MAX_WAITING_RECEIPTS + 10
            for n in range(flood):
                session.socket.send_binary((InboundMessage(DEST, b"x", bytes([n]) * 32).encode(),))
            receipts = [await session.messages.get() for _ in range(flood)]
            assert [r.prev_hash[0] for r in receipts if isinstance(r, Receipt)] == list(range(flood))
            assert max(waited) <= MAX_WAITING_RECEIPTS

    run_on_both(test)


def test_receipts_that_wait_are_sent_before_the_link_ends() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, task):
            await owner.ups.get()
            session = await node.sessions.get()
            owner.answer = lambda message: runner.close()
            session.socket.send_binary((InboundMessage(DEST, b"x", HASH).encode(),))
            await task
            assert isinstance(await session.messages.get(), Receipt)

    run_on_both(test)


def test_a_large_message_waits_in_the_kernel_and_says_when_it_is_gone() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, _):
            await owner.ups.get()
            session = await node.sessions.get()
            count = 0
            while runner.writable:
                assert runner.send(DEST, (bytes(3_900_000),))
                count += 1
                assert count < 20
            await owner.writable.wait()
            assert runner.writable
            for _ in range(count):
                message = await session.messages.get()
                assert isinstance(message, OutboundMessage)
                assert len(message.payloads[0]) == 3_900_000

    run_on_both(test)


def test_waivers_are_honoured() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed:
            node.waives = frozenset(actions.Waiver)
            async with linked(seed) as (runner, owner, _):
                await owner.ups.get()
                session = await node.sessions.get()
                assert runner.websocket is not None
                assert runner.websocket.mask is False
                runner.send(DEST, (b"x" * 1000,))
                message = await session.messages.get()
                assert isinstance(message, OutboundMessage)
                assert message.signatures == ()

    run_on_both(test)


def test_a_redirect_at_login_and_later() -> None:
    async def test() -> None:
        async with FakeNode.serving() as a, FakeNode.serving() as b, seed_of(a) as seed:
            a.redirect_to = b.info
            async with linked(seed) as (_, owner, _):
                assert await owner.ups.get() == b.info
                session = await b.sessions.get()
                a.redirect_to = None
                session.say(actions.WrongNode(a.info))
                assert await owner.ups.get() == a.info
                assert await owner.downs.get() is DownReason.REDIRECTED
                await session.closed.wait()

    run_on_both(test)


def test_a_lost_connection_comes_back() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, _):
            for n in range(3):
                await owner.ups.get()
                session = await node.sessions.get()
                assert runner.link.reconnects == n
                session.socket.close()
                assert await owner.downs.get() is DownReason.LOST
            await owner.ups.get()

    run_on_both(test)


def test_a_node_at_an_address_that_may_not_be_used_any_more_is_left() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, _):
            await owner.ups.get()
            first = await node.sessions.get()
            runner.leave(lambda address: "" if address.is_loopback else "a peer's")
            await asyncio.sleep(0)
            assert runner.is_up
            runner.leave(lambda address: f"{address} is a peer's")
            assert await owner.downs.get() is DownReason.LOST
            assert "127.0.0.1 is a peer's" in runner.link.last_error
            await first.closed.wait()

    run_on_both(test)


def test_a_link_whose_address_is_gone_is_made_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for an answer to a ping that could not come."""
    orphaned = False
    monkeypatch.setattr(link_module, "is_orphan", lambda _: orphaned)

    async def test() -> None:
        nonlocal orphaned
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, _):
            await owner.ups.get()
            first = await node.sessions.get()
            runner.network_changed()
            await asyncio.sleep(0)
            assert runner.is_up, "only asked"
            orphaned = True
            runner.network_changed()
            orphaned = False
            assert await owner.downs.get() is DownReason.LOST
            assert "another address" in runner.link.last_error
            await owner.ups.get()
            assert runner.link.reconnects == 1
            await first.closed.wait()

    run_on_both(test)


def test_an_address_is_ours_or_not() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        assert not is_orphan(ours)
    for family, name in (
        (socket.AF_INET, ("198.51.100.254", 40_000)),
        (socket.AF_INET6, ("2001:db8::254", 40_000, 0, 0)),
    ):
        gone = SimpleNamespace(family=family, getsockname=lambda name=name: name)
        assert is_orphan(cast(socket.socket, gone))


def test_a_node_that_hangs_up_during_the_login_is_not_hammered() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (_, owner, _):
            node.challenges = False
            began = boottime()
            while boottime() - began < 1.2:
                session_count = node.connects
                for socket in list(node.websockets._open):
                    socket.close()
                await asyncio.sleep(0.02)
            assert 2 <= session_count <= 6
            assert await owner.downs.get() is DownReason.LOST

    run_on_both(test)


def test_no_seed_is_said_and_close_ends_the_attempt() -> None:
    async def test() -> None:
        async with linked("http://127.0.0.1:1") as (runner, owner, task):
            assert await owner.downs.get() is DownReason.NO_SEED
            assert "http://127.0.0.1:1" in runner.link.last_error
            runner.network_changed()
            runner.close()
            await task
        async with linked("http://127.0.0.1:1") as (_, _, task):
            await asyncio.sleep(0)
            task.cancel()  # in the middle of a resolve

    run_on_both(test)


def test_it_can_be_cancelled_while_a_node_keeps_it_waiting() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed:
            accepted = asyncio.Event()

            async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                accepted.set()
                await reader.read()
                await reader.read()
                writer.close()

            server = await asyncio.start_server(mute, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            node.info = NodeInfo(f"127.0.0.1:{port}", "", "00" * 32, "")
            async with linked(seed) as (runner, owner, task):
                await accepted.wait()
                task.cancel()
                await asyncio.wait([task])
                assert runner.websocket is None
                assert owner.downs.empty()
            server.close()
            await _other_tasks_end()

    run_on_both(test)


async def _other_tasks_end() -> None:
    while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - the server's own tasks
        await asyncio.sleep(0.01)


def test_garbage_from_the_node_is_counted_and_the_link_goes_on() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, _):
            await owner.ups.get()
            session = await node.sessions.get()
            session.socket.send_text("<html>")
            session.socket.send_binary((b"\xff\xff\xff",))
            session.socket.send_binary((InboundMessage(DEST, b"fine").encode(),))
            assert await owner.messages.get() == (DEST, b"fine")
            assert runner.link.counters.bad_frames == 2

    run_on_both(test)


def test_a_handler_that_fails_ends_the_task_which_can_be_run_again() -> None:
    async def test() -> None:
        async with FakeNode.serving() as node, seed_of(node) as seed, linked(seed) as (runner, owner, task):
            await owner.ups.get()
            session = await node.sessions.get()
            owner.fail_on_message = True
            session.socket.send_binary((InboundMessage(DEST, b"x").encode(),))
            with pytest.raises(ZeroDivisionError):
                await task
            assert runner.websocket is None
            again = asyncio.create_task(runner.run())
            await owner.ups.get()
            assert runner.writable
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again

    run_on_both(test)


def test_only_what_the_other_side_confirmed_is_a_sign_of_life() -> None:
    """The pacer lets us write again too, on a path that is dead: that once hid a cut for half a minute."""
    heard: list[float] = []
    turns: list[int] = []
    runner = SimpleNamespace(
        link=SimpleNamespace(heard=heard.append),
        _clock=lambda: 7.0,
        on_writable=lambda: turns.append(1),
    )
    socket = SimpleNamespace(acked_bytes=0, handler=None)
    connection = link_module._Connection(cast(Any, runner), cast(Any, socket))
    connection.on_writable()
    assert heard == []
    socket.acked_bytes = 100
    connection.on_writable()
    connection.on_writable()
    assert heard == [7.0]
    assert len(turns) == 3
