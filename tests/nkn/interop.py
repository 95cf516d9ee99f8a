"""What clients of NKN's SDKs and ours must be able to do with each other, over any node.

Each case is given a node and an SDK. None relies on the order of messages that are under way together, which
official nodes do not keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

import pytest

from nconnect.errors import NoReply
from nconnect.nkn import Client, MultiClient
from tests.loops import until
from tests.nkn.net import answering
from tests.nkn.sdk import Sdk, SdkError, pattern, seen

# Not 0: to the SDK for JavaScript that is the empty text, also where it was sent as binary.
SIZES = (1, 2, 1399, 65_536, 1 << 20)
SEED = "11" * 32  # of a client that comes back


class Relay(Protocol):
    """A node that runs."""

    @property
    def seed(self) -> str: ...

    async def restart(self) -> None:
        """It goes away, and another with another key comes to its place."""

    async def has_clients(self, number: int) -> None:
        """Wait until so many are connected."""

    def drops(self) -> dict[str, int]:
        """What it did not deliver, by reason, where it says so."""


async def our_client_to_theirs(relay: Relay, kind: str) -> None:
    async with (
        Sdk.running(relay.seed, kind) as sdk,
        Client(identifier="python", seed_rpc=relay.seed) as client,
    ):
        bob, carol = await sdk.open("bob"), await sdk.open("carol")
        reply = await client.send(bob, "grüße, мир")
        assert reply is not None
        assert (reply.src, reply.data, reply.encrypted) == (bob, "bob got grüße, мир", True)
        for size in SIZES:
            reply = await client.send(bob, pattern(size), reply_timeout_s=20.0)
            assert reply is not None
            assert reply.data == pattern(size)
        reply = await client.send(bob, "only acknowledge")
        assert reply is not None
        assert reply.is_ack
        with pytest.raises(NoReply) as missed:
            await client.send([bob, carol], "say nothing", reply_timeout_s=0.3)
        assert missed.value.missing == (bob, carol)
        await sdk.got("bob")
        await sdk.got("carol")

        replies = await client.send([bob, carol], "to both")
        assert {dest: reply.data for dest, reply in replies.items()} == {
            bob: "bob got to both",
            carol: "carol got to both",
        }
        for name in ("bob", "carol"):
            (message,) = await sdk.got(name)
            assert (message["src"], message["text"]) == (client.address, "to both")
            assert message["encrypted"]
        replies = await client.send([bob, carol], pattern(1 << 20), reply_timeout_s=20.0)
        assert [reply.data for reply in replies.values()] == [pattern(1 << 20)] * 2
        await sdk.got("bob")

        open_reply = await client.send(bob, "in the clear", encrypt=False)
        assert open_reply is not None
        assert (open_reply.data, open_reply.encrypted) == ("bob got in the clear", False)
        (message,) = await sdk.got("bob")
        assert message["encrypted"] is False
        for size in SIZES:
            reply = await client.send(bob, pattern(size), encrypt=False, reply_timeout_s=20.0)
            assert reply is not None
            assert (reply.data, reply.encrypted) == (pattern(size), False)
        await sdk.got("bob")
        for data in ("clear to both", pattern(2), pattern(1 << 20)):
            replies = await client.send([bob, carol], data, encrypt=False, reply_timeout_s=20.0)
            assert len(replies) == 2
            (message,) = await sdk.got("bob")
            assert message["encrypted"] is False
            assert message.get("text", message.get("digest")) in (data, seen(len(data))["digest"])
        assert await client.send(bob, "no answer, please", no_reply=True) is None
        assert await client.send([bob], "only acknowledge") != {}
        got = await got_all(sdk, "bob", 2)
        assert {message["text"]: message["noReply"] for message in got} == {
            "no answer, please": True,
            "only acknowledge": False,
        }
        assert client.drops == {}
        assert relay.drops() == {}


async def their_client_to_ours(relay: Relay, kind: str) -> None:
    async with (
        Sdk.running(relay.seed, kind) as sdk,
        Client(identifier="a", seed_rpc=relay.seed) as a,
        Client(identifier="b", seed_rpc=relay.seed, accept_unencrypted=True) as b,
        answering(a) as got_a,
        answering(b) as got_b,
    ):
        bob = await sdk.open("bob")
        assert await sdk.send("bob", a.address, "grüße") == {"text": "python got grüße"}
        assert await sdk.send("bob", a.address, "only acknowledge") == "ack"
        for size in SIZES:
            assert await sdk.send("bob", a.address, size, responseTimeout=20_000) == seen(size)
        assert {message.src for message in got_a} == {bob}
        assert all(message.encrypted and len(message.id) == 8 for message in got_a)
        del got_a[:]
        # The SDKs take the first answer.
        assert (await sdk.send("bob", [a.address, b.address], "both"))["text"] == "python got both"
        await sdk.send("bob", [a.address, b.address], 100_000, noReply=True)
        for got in (got_a, got_b):
            await until(lambda got=got: len(got) == 2)
            assert {message.data for message in got} == {"both", pattern(100_000)}
            assert not any(message.wants_answer for message in got)  # answered, or not asked for
        assert await sdk.send("bob", b.address, "clear", encrypt=False) == {"text": "python got clear"}
        for size in SIZES:
            options = {"encrypt": False, "responseTimeout": 20_000}
            assert await sdk.send("bob", b.address, size, **options) == seen(size)
            assert (got_b[-1].data, got_b[-1].encrypted) == (pattern(size), False)
        with pytest.raises(SdkError, match="timeout"):
            await sdk.send("bob", a.address, "clear", encrypt=False, responseTimeout=300)
        assert a.drops == {"unencrypted": 1}
        assert b.drops == {}
        assert relay.drops() == {}


async def multi_clients_of_four(relay: Relay, kind: str, *, original: bool) -> None:
    async with (
        Sdk.running(relay.seed, kind) as sdk,
        MultiClient(identifier="python", original=original, seed_rpc=relay.seed) as client,
        answering(client) as got,
    ):
        bob = await sdk.open("bob", multi=True, numSubClients=4, originalClient=original)
        await client.wait_up(4 + original)
        for data in ("hello", pattern(1), pattern(1 << 20)):
            reply = await client.send(bob, data, reply_timeout_s=20.0)
            assert reply is not None
            assert reply.src == bob
            assert reply.data == (f"bob got {data}" if isinstance(data, str) else data)
        reply = await client.send(bob, "only acknowledge")
        assert reply is not None
        assert reply.is_ack
        assert [message["src"] for message in once_each(await sdk.got("bob"))] == [client.address] * 4
        assert await sdk.send("bob", client.address, "hi") == {"text": "python got hi"}
        assert await sdk.send("bob", client.address, "only acknowledge") == "ack"
        assert await sdk.send("bob", client.address, 1 << 20, responseTimeout=20_000) == seen(1 << 20)
        assert [(message.src, message.data) for message in got] == [
            (bob, "hi"),
            (bob, "only acknowledge"),
            (bob, pattern(1 << 20)),
        ]
        assert set(client.drops) <= {"duplicate"}
        if original:  # then plain clients reach it, and are reached
            carol = await sdk.open("carol")
            assert await sdk.send("carol", client.address, "hi") == {"text": "python got hi"}
            reply = await client.send(carol, "hi")
            assert reply is not None
            assert reply.data == "carol got hi"


async def messages_are_held_for_who_is_away(relay: Relay, kind: str) -> None:
    async with Sdk.running(relay.seed, kind) as sdk:
        bob = await sdk.open("bob", seed=SEED)
        client = Client(identifier="python", seed_rpc=relay.seed)
        await sdk.send("bob", client.address, "held by theirs", noReply=True, msgHoldingSeconds=60)
        await sdk.ask("close", name="bob")
        await relay.has_clients(0)
        async with client:
            assert (await client.receive()).data == "held by theirs"
            await client.send(bob, "held by ours", no_reply=True, max_holding_s=60)
            assert await sdk.open("bob", seed=SEED) == bob
            (message,) = await got_all(sdk, "bob", 1)
            assert message["text"] == "held by ours"


async def both_come_back_when_the_node_does(
    relay: Relay, kind: str, ours: type[Client | MultiClient]
) -> None:
    async with (
        Sdk.running(relay.seed, kind) as sdk,
        ours(identifier="python", seed_rpc=relay.seed) as client,
        answering(client),
    ):
        bob = await sdk.open("bob", multi=ours is MultiClient)
        assert await client.send(bob, "before")
        await relay.restart()
        while True:  # whichever side is back later loses what is sent to it until then
            try:
                assert await client.send(bob, "after", reply_timeout_s=0.5)
                break
            except NoReply:
                pass
        await client.wait_up(len(client.links), timeout_s=10.0)
        assert await sdk.send("bob", client.address, "after") == {"text": "python got after"}
        assert {link.reconnects for link in client.links} == {1}


async def a_multi_client_sends_before_its_logins(relay: Relay) -> None:
    """nkn-sdk-js#98: the SDK for Go sends through all of a MultiClient's clients when one is logged in."""
    async with (
        Sdk.running(relay.seed, "go") as sdk,
        MultiClient(identifier="python", seed_rpc=relay.seed) as client,
        answering(client),
    ):
        await client.wait_up(4)
        bob = await sdk.open("bob", multi=True, numSubClients=4, early=True, lateMs=300)
        assert await sdk.send("bob", client.address, "early") == {"text": "python got early"}
        # Those that it sent through too early log in all the same, on the connections that they have.
        assert await sdk.ask("wait", name="bob") == {"connections": 4}
        await relay.has_clients(8)
        assert await sdk.send("bob", client.address, "later") == {"text": "python got later"}
        reply = await client.send(bob, "hi")
        assert reply is not None
        assert reply.data == "bob got hi"


# Help


def once_each(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without repetitions: the SDK for Go delivers some twice that come by two sub-clients at once."""
    return list({message["messageId"]: message for message in messages}.values())


async def got_all(sdk: Sdk, name: str, number: int) -> list[dict[str, Any]]:
    """Wait for so many messages, and take them."""
    got: list[dict[str, Any]] = []
    while len(got) < number:
        got += await sdk.got(name)
    return got


# Streams (NCP)


async def our_stream_to_theirs(relay: Relay, kind: str, mtu: int, size: int) -> None:
    async with (
        Sdk.running(relay.seed, kind) as sdk,
        MultiClient(identifier="python", seed_rpc=relay.seed, mtu=mtu) as client,
    ):
        bob = await sdk.open("bob", multi=True, sessionConfig={"mtu": mtu})
        await sdk.ask("listen", name="bob")
        stream = await client.dial(bob)
        assert not stream.can_end
        data = pattern(size)
        async with asyncio.TaskGroup() as tasks:
            back = tasks.create_task(stream.readexactly(size, timeout_s=60.0))
            stream.write(size.to_bytes(4, "little"))
            for at in range(0, size, 1 << 16):
                stream.write(data[at : at + (1 << 16)])
                await stream.drain()
        assert back.result() == data
        await stream.close()
        assert client.stream_refusals.keys() <= {"seen_before"}, "what came after the end"


async def their_session_to_ours(relay: Relay, kind: str, mtu: int, size: int) -> None:
    async with (
        Sdk.running(relay.seed, kind) as sdk,
        MultiClient(identifier="python", seed_rpc=relay.seed, mtu=mtu) as client,
    ):
        bob = await sdk.open("bob", multi=True, sessionConfig={"mtu": mtu})

        async def echo() -> None:
            async with client.listen([bob]) as server:
                async for stream in server:
                    whole = int.from_bytes(await stream.readexactly(4), "little")
                    stream.write(await stream.readexactly(whole))
                    await stream.close()

        echoing = asyncio.create_task(echo())
        told = await sdk.ask("session", name="bob", dest=client.address, bytes=size)
        assert told["sent"] == told["back"] == seen(size)["digest"]
        assert told["bytes"] == size
        echoing.cancel()
        await asyncio.wait([echoing])
