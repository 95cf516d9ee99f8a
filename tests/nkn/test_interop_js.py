"""The official JavaScript SDK's clients with ours, both ways, over our node that checks every signature."""

from __future__ import annotations

import asyncio

import pytest

from nconnect.errors import NoReply
from nconnect.nkn import Client, MultiClient
from tests.nkn.net import Net, answering, run
from tests.nkn.sdk import Sdk, SdkError, needs_sdk, pattern, seen

pytestmark = needs_sdk

# Not 0: to the SDK that is the empty text, also where it was sent as binary.
SIZES = (1, 2, 1399, 65_536, 1 << 20)


def test_our_client_to_theirs() -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            Sdk.running(net.seed) as sdk,
            Client(identifier="python", seed_rpc=net.seed) as client,
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
            open_replies = await client.send([bob, carol], "clear to both", encrypt=False)
            assert len(open_replies) == 2
            assert await client.send(bob, "no answer, please", no_reply=True) is None
            assert await client.send([bob], "only acknowledge") != {}
            assert (await sdk.got("bob"))[1]["noReply"] is True
            assert client.drops == {}
            assert net.server.stats()["drops"] == {}

    run(test)


def test_their_client_to_ours() -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            Sdk.running(net.seed) as sdk,
            Client(identifier="a", seed_rpc=net.seed) as a,
            Client(identifier="b", seed_rpc=net.seed, accept_unencrypted=True) as b,
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
            # The SDK's promise takes the first answer.
            assert (await sdk.send("bob", [a.address, b.address], "both"))["text"] == "python got both"
            await sdk.send("bob", [a.address, b.address], 100_000, noReply=True)
            assert await sdk.send("bob", a.address, "only acknowledge") == "ack"
            assert await sdk.send("bob", b.address, "only acknowledge") == "ack"
            assert [message.data for message in got_a] == ["both", pattern(100_000), "only acknowledge"]
            assert got_a[1].wants_answer is False
            assert await sdk.send("bob", b.address, "clear", encrypt=False) == {"text": "python got clear"}
            assert got_b[-1].encrypted is False
            with pytest.raises(SdkError, match="timeout"):
                await sdk.send("bob", a.address, "clear", encrypt=False, responseTimeout=300)
            assert a.drops == {"unencrypted": 1}
            assert b.drops == {}
            assert net.server.stats()["drops"] == {}

    run(test)


@pytest.mark.parametrize("original", [False, True])
def test_multi_clients_of_four(original: bool) -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            Sdk.running(net.seed) as sdk,
            MultiClient(identifier="python", original=original, seed_rpc=net.seed) as client,
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
            assert [message["src"] for message in await sdk.got("bob")] == [client.address] * 4
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

    run(test)


def test_messages_are_held_for_who_is_away() -> None:
    async def test() -> None:
        async with Net.running() as net, Sdk.running(net.seed) as sdk:
            bob = await sdk.open("bob", seed="11" * 32)
            client = Client(identifier="python", seed_rpc=net.seed)
            await sdk.send("bob", client.address, "held by theirs", noReply=True, msgHoldingSeconds=60)
            await sdk.ask("close", name="bob")
            while net.server.node.stats().clients:  # noqa: ASYNC110 - the node sees it in its own time
                await asyncio.sleep(0.005)
            async with client:
                assert (await client.receive()).data == "held by theirs"
                await client.send(bob, "held by ours", no_reply=True, max_holding_s=60)
                assert await sdk.open("bob", seed="11" * 32) == bob
                while not (got := await sdk.got("bob")):
                    pass
                assert [message["text"] for message in got] == ["held by ours"]

    run(test)


def test_both_come_back_when_the_node_does() -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            Sdk.running(net.seed) as sdk,
            Client(identifier="python", seed_rpc=net.seed) as client,
            answering(client),
        ):
            bob = await sdk.open("bob")
            assert await client.send(bob, "before")
            await net.restart()
            while True:  # whichever side is back later loses what is sent to it until then
                try:
                    assert await client.send(bob, "after", reply_timeout_s=0.5)
                    break
                except NoReply:
                    pass
            assert await sdk.send("bob", client.address, "after") == {"text": "python got after"}
            assert client.links[0].reconnects == 1

    run(test)


@pytest.mark.slow
def test_their_session_carries_32_mib_both_ways_over_our_node() -> None:
    async def test() -> None:
        # Two processes: in one, the answer to dial() comes sooner than it can take it.
        async with Net.running() as net, Sdk.running(net.seed) as sdk, Sdk.running(net.seed) as other:
            # Its packets have 1 KiB unless told: signing 64 Ki of them takes JavaScript a minute.
            config = {"numSubClients": 4, "sessionConfig": {"mtu": 32 << 10}}
            await sdk.open("alice", multi=True, **config)
            bob = await other.open("bob", multi=True, **config)
            await other.ask("listen", name="bob")
            carried = await sdk.ask("session", name="alice", dest=bob, bytes=32 << 20)
            assert carried["bytes"] == 32 << 20
            assert carried["sent"] == carried["back"]
            # What stood too long before a reader this slow; a session sends it again.
            assert set(net.server.node.stats().drops) <= {"queue_delay"}

    run(test, within_s=100.0)
