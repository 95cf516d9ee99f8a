"""The clients of NKN's SDKs with ours, both ways, over our node that checks every signature."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nconnect.nkn import Client, MultiClient
from tests.loops import run
from tests.nkn import interop
from tests.nkn.interop import SEED, SIZES, got_all, once_each
from tests.nkn.net import Net, answering
from tests.nkn.sdk import PAIRS, SDKS, Sdk, SdkError, needs_go, needs_sdk, seen

both_sdks = pytest.mark.parametrize("kind", SDKS)
pairs = pytest.mark.parametrize("kinds", PAIRS)


def over_our_node(case: Callable[[Net], Awaitable[None]]) -> None:
    async def test() -> None:
        async with Net.running() as net:
            await case(net)

    run(test)


@both_sdks
def test_our_client_to_theirs(kind: str) -> None:
    over_our_node(lambda net: interop.our_client_to_theirs(net, kind))


@both_sdks
def test_their_client_to_ours(kind: str) -> None:
    over_our_node(lambda net: interop.their_client_to_ours(net, kind))


@both_sdks
@pytest.mark.parametrize("original", [False, True])
def test_multi_clients_of_four(kind: str, original: bool) -> None:
    over_our_node(lambda net: interop.multi_clients_of_four(net, kind, original=original))


@both_sdks
def test_messages_are_held_for_who_is_away(kind: str) -> None:
    over_our_node(lambda net: interop.messages_are_held_for_who_is_away(net, kind))


@both_sdks
@pytest.mark.parametrize("ours", [Client, MultiClient])
def test_both_come_back_when_the_node_does(kind: str, ours: type[Client | MultiClient]) -> None:
    over_our_node(lambda net: interop.both_come_back_when_the_node_does(net, kind, ours))


# Their clients with each other: what our node does to them, without our library


@pairs
@pytest.mark.parametrize("encrypt", [True, False], ids=["sealed", "in the clear"])
def test_their_clients_with_each_other(kinds: tuple[str, str], encrypt: bool) -> None:
    async def case(net: Net) -> None:
        async with Sdk.running(net.seed, kinds[0]) as sdk, Sdk.running(net.seed, kinds[1]) as other:
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
                got = await got_all(other, name, 3)
                assert [message.get("text", message.get("digest")) for message in got] == [
                    "to both",
                    seen(2)["digest"],
                    seen(1 << 20)["digest"],
                ]
                assert all(message["encrypted"] is encrypt for message in got)
            with pytest.raises(SdkError, match="timeout"):
                await sdk.send("alice", bob, "say nothing", encrypt=encrypt, responseTimeout=300)
            assert net.drops() == {}
            assert net.server.node.stats().receipts > 20

    over_our_node(case)


@pairs
def test_their_multi_clients_with_each_other_and_after_a_restart(kinds: tuple[str, str]) -> None:
    async def case(net: Net) -> None:
        async with Sdk.running(net.seed, kinds[0]) as sdk, Sdk.running(net.seed, kinds[1]) as other:
            alice = await sdk.open("alice", multi=True, numSubClients=4)
            bob = await other.open("bob", multi=True, numSubClients=4)
            await net.has_clients(8)

            async def exchange() -> None:
                assert await sdk.send("alice", bob, "hi", responseTimeout=500) == {"text": "bob got hi"}
                assert await other.send("bob", alice, "hi", responseTimeout=500) == {"text": "alice got hi"}

            await exchange()
            assert await sdk.send("alice", bob, 1 << 20, responseTimeout=20_000) == seen(1 << 20)
            assert [message["src"] for message in once_each(await other.got("bob"))] == [alice] * 2
            await net.restart()
            while True:  # what is sent before both are back is lost
                try:
                    await exchange()
                    break
                except SdkError:
                    pass
            await net.has_clients(8)

    over_our_node(case)


@pairs
def test_their_messages_are_held_for_each_other(kinds: tuple[str, str]) -> None:
    async def case(net: Net) -> None:
        async with Sdk.running(net.seed, kinds[0]) as sdk, Sdk.running(net.seed, kinds[1]) as other:
            bob = await other.open("bob", seed=SEED)
            await sdk.open("alice")
            await other.ask("close", name="bob")
            await net.has_clients(1)
            for number in range(5):
                await sdk.send("alice", bob, f"held {number}", noReply=True, msgHoldingSeconds=60)
            await sdk.send("alice", bob, "not held", noReply=True, msgHoldingSeconds=0)
            await sdk.send("alice", bob, 1 << 20, noReply=True, msgHoldingSeconds=60)
            while net.server.node.stats().held_messages < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert await other.open("bob", seed=SEED) == bob
            got = await got_all(other, "bob", 6)
            assert [message.get("text", message.get("digest")) for message in got] == [
                *(f"held {number}" for number in range(5)),
                seen(1 << 20)["digest"],
            ]
            assert net.drops() == {"unknown_dest": 1}

    over_our_node(case)


@needs_go
def test_a_multi_client_sends_before_its_logins() -> None:
    async def case(net: Net) -> None:
        await interop.a_multi_client_sends_before_its_logins(net)
        # What came too early, and the answers that had nobody to go to yet.
        assert net.drops() == {"not_logged_in": 3, "unknown_dest": 3}
        assert net.server.node.stats().logins == 8

    over_our_node(case)


@needs_sdk
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
@pairs
def test_their_session_carries_32_mib_both_ways_over_our_node(kinds: tuple[str, str]) -> None:
    async def test() -> None:
        # Two processes: in one, the answer to dial() comes sooner than it can take it.
        async with (
            Net.running() as net,
            Sdk.running(net.seed, kinds[0]) as sdk,
            Sdk.running(net.seed, kinds[1]) as other,
        ):
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
