"""The official JavaScript SDK's clients with ours, both ways, over our node that checks every signature."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

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
            assert (await sdk.got("bob"))[0]["noReply"] is True
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
            for size in SIZES:
                options = {"encrypt": False, "responseTimeout": 20_000}
                assert await sdk.send("bob", b.address, size, **options) == seen(size)
                assert (got_b[-1].data, got_b[-1].encrypted) == (pattern(size), False)
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


@pytest.mark.parametrize("kind", [Client, MultiClient])
def test_both_come_back_when_the_node_does(kind: type[Client | MultiClient]) -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            Sdk.running(net.seed) as sdk,
            kind(identifier="python", seed_rpc=net.seed) as client,
            answering(client),
        ):
            bob = await sdk.open("bob", multi=kind is MultiClient)
            assert await client.send(bob, "before")
            await net.restart()
            while True:  # whichever side is back later loses what is sent to it until then
                try:
                    assert await client.send(bob, "after", reply_timeout_s=0.5)
                    break
                except NoReply:
                    pass
            await client.wait_up(len(client.links), timeout_s=10.0)
            assert await sdk.send("bob", client.address, "after") == {"text": "python got after"}
            assert {link.reconnects for link in client.links} == {1}

    run(test)


# Their clients with each other: what our node does to them, without our library


@pytest.mark.parametrize("encrypt", [True, False], ids=["sealed", "in the clear"])
def test_their_clients_with_each_other(encrypt: bool) -> None:
    async def test() -> None:
        async with Net.running() as net, Sdk.running(net.seed) as sdk, Sdk.running(net.seed) as other:
            alice, bob, carol = await sdk.open("alice"), await other.open("bob"), await other.open("carol")
            options = {"encrypt": encrypt, "responseTimeout": 20_000}
            assert await sdk.send("alice", bob, "grüße", **options) == {"text": "bob got grüße"}
            assert await other.send("bob", alice, "мир", **options) == {"text": "alice got мир"}
            assert await sdk.send("alice", bob, "only acknowledge", **options) == "ack"
            for size in SIZES:
                assert await sdk.send("alice", bob, size, **options) == seen(size)
                assert await other.send("carol", alice, size, **options) == seen(size)
            assert {(message["src"], message["encrypted"]) for message in await other.got("bob")} == {
                (alice, encrypt)
            }
            for data in ("to both", 2, 1 << 20):
                await sdk.send("alice", [bob, carol], data, noReply=True, **options)
            for name in ("bob", "carol"):
                got = []
                while len(got) < 3:
                    got += await other.got(name)
                assert [message.get("text", message.get("bytes")) for message in got] == [
                    "to both",
                    2,
                    1 << 20,
                ]
                assert got[2]["digest"] == seen(1 << 20)["digest"]
                assert all(message["encrypted"] is encrypt for message in got)
            with pytest.raises(SdkError, match="timeout"):
                await sdk.send("alice", bob, "say nothing", encrypt=encrypt, responseTimeout=300)
            stats = net.server.node.stats()
            assert stats.drops == {}
            assert stats.receipts > 20

    run(test)


def test_their_multi_clients_with_each_other_and_after_a_restart() -> None:
    async def test() -> None:
        async with Net.running() as net, Sdk.running(net.seed) as sdk, Sdk.running(net.seed) as other:
            alice = await sdk.open("alice", multi=True, numSubClients=4)
            bob = await other.open("bob", multi=True, numSubClients=4)
            assert net.server.node.stats().clients == 8

            async def exchange() -> None:
                assert await sdk.send("alice", bob, "hi", responseTimeout=500) == {"text": "bob got hi"}
                assert await other.send("bob", alice, "hi", responseTimeout=500) == {"text": "alice got hi"}

            await exchange()
            assert await sdk.send("alice", bob, 1 << 20, responseTimeout=20_000) == seen(1 << 20)
            assert [message["src"] for message in await other.got("bob")] == [alice] * 2, "once each"
            await net.restart()
            while True:  # what is sent before both are back is lost
                try:
                    await exchange()
                    break
                except SdkError:
                    pass
            assert net.server.node.stats().clients <= 8

    run(test)


def test_their_messages_are_held_for_each_other() -> None:
    async def test() -> None:
        async with Net.running() as net, Sdk.running(net.seed) as sdk, Sdk.running(net.seed) as other:
            bob = await other.open("bob", seed="11" * 32)
            await sdk.open("alice")
            await other.ask("close", name="bob")
            while net.server.node.stats().clients > 1:  # noqa: ASYNC110 - the node sees it in its own time
                await asyncio.sleep(0.005)
            for number in range(5):
                await sdk.send("alice", bob, f"held {number}", noReply=True, msgHoldingSeconds=60)
            await sdk.send("alice", bob, "not held", noReply=True, msgHoldingSeconds=0)
            await sdk.send("alice", bob, 1 << 20, noReply=True, msgHoldingSeconds=60)
            while net.server.node.stats().held_messages < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert await other.open("bob", seed="11" * 32) == bob
            got = []
            while len(got) < 6:
                got += await other.got("bob")
            assert [message.get("text") for message in got] == [f"held {n}" for n in range(5)] + [None]
            assert got[-1]["digest"] == seen(1 << 20)["digest"]
            assert net.server.node.stats().drops == {"unknown_dest": 1}

    run(test)


def test_their_clients_over_tls(tmp_path: Path) -> None:
    certificate = tmp_path / "node.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(certificate), "-out", str(tmp_path / "node.crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate.write_text(certificate.read_text() + (tmp_path / "node.crt").read_text())

    async def test() -> None:
        async with Net.running(tls_cert=certificate) as net:
            seed = f"https://127.0.0.1:{net.server.https_port}"
            trust = {"NODE_EXTRA_CA_CERTS": str(tmp_path / "node.crt")}
            async with (
                Sdk.running(seed, env=trust) as sdk,
                Client(identifier="python", seed_rpc=net.seed) as client,
                answering(client),
            ):
                bob = await sdk.open("bob", tls=True)
                assert await sdk.send("bob", client.address, 1 << 20, responseTimeout=20_000) == seen(1 << 20)
                reply = await client.send(bob, "hi", reply_timeout_s=20.0)
                assert reply is not None
                assert reply.data == "bob got hi"
                connections = net.server.node.stats()
                assert connections.clients == 2
            # Who does not trust the certificate is not let through by the SDK, nor by us.
            async with Sdk.running(seed) as sdk:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.5):
                        await sdk.open("eve", tls=True)
            assert net.server.node.stats().logins == 2

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
            assert net.server.node.stats().drops == {}

    run(test, within_s=100.0)
