"""Topics and names, over a seed on loopback that answers as the official node does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from nconnect.crypto.keys import Identity
from nconnect.errors import ConfigError, NetworkError, RemoteProtocolError
from nconnect.model import NknAddress
from nconnect.nkn import Client, MultiClient, NknChain, Registrant, Subscription
from nconnect.wire import chain
from nconnect.wire.chain import ChainPayload
from tests.loops import run
from tests.nkn.chain_seed import ChainSeed
from tests.nkn.net import Net, answering

SEED = b"c" * 32
ME = Identity(SEED)
KEY = ME.public_key.hex()


def with_seed(test: Callable[[ChainSeed, str], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with ChainSeed.running() as seed:
            await test(seed, seed.url)

    run(inside)


def test_a_topic_is_read() -> None:
    async def test(seed: ChainSeed, url: str) -> None:
        seed.answers |= {
            "getsubscribers": {"subscribers": {f"gpu.{KEY}": "8 GB"}, "subscribersInTxPool": {KEY: ""}},
            "getsubscriberscount": 2,
            "getsubscription": {"meta": "8 GB", "expiresAt": 99},
        }
        asks = NknChain(url)
        found = await asks.subscribers("models", offset=2, limit=7, pending=True)
        assert found == {f"gpu.{KEY}": "8 GB", KEY: ""}
        assert await asks.subscriber_count("models") == 2
        assert await asks.subscription("models", f"gpu.{KEY}") == Subscription("8 GB", 99)
        assert seed.asked == [
            ("getsubscribers", {"topic": "models", "offset": 2, "limit": 7, "meta": True, "txPool": True}),
            ("getsubscriberscount", {"topic": "models"}),
            ("getsubscription", {"topic": "models", "subscriber": f"gpu.{KEY}"}),
        ]
        for wrong in (
            asks.subscribers("?"), asks.subscribers("models", limit=0), asks.subscribers("models", offset=-1),
            asks.subscribers("models", limit=1001), asks.subscriber_count("?"), asks.registrant("short"),
            asks.subscription("models", "gpu"),
        ):  # fmt: skip
            with pytest.raises(ConfigError):
                await wrong
        assert len(seed.asked) == 3

    with_seed(test)


def test_a_client_subscribes_and_unsubscribes_with_the_next_nonce() -> None:
    async def test(seed: ChainSeed, url: str) -> None:
        client = Client(SEED, identifier="gpu", seed_rpc="http://127.0.0.1:1", chain_rpc=url)
        hashes = [
            await client.subscribe("models", "8 GB", duration=100),
            await client.unsubscribe("models"),
        ]
        address = NknAddress("gpu", ME.public_key)
        sent: list[ChainPayload] = [
            chain.subscribe(address, "models", 100, "8 GB"), chain.unsubscribe(address, "models"),
        ]  # fmt: skip
        made = [chain.transaction(each, nonce=5, public_key=ME.public_key, sign=ME.sign) for each in sent]
        assert [each.hash for each in made] == hashes
        wallet = {"address": chain.wallet_address(ME.public_key)}
        assert seed.asked == [
            ("getnoncebyaddr", wallet), ("sendrawtransaction", {"tx": made[0].encoded.hex()}),
            ("getnoncebyaddr", wallet), ("sendrawtransaction", {"tx": made[1].encoded.hex()}),
        ]  # fmt: skip

    with_seed(test)


def test_a_transaction_that_a_seed_refuses_is_said_to_be() -> None:
    async def test(seed: ChainSeed, url: str) -> None:
        del seed.answers["sendrawtransaction"]
        client = Client(SEED, seed_rpc=url)
        with pytest.raises(RemoteProtocolError, match=r"refused.*-42001"):
            await client.subscribe("models")
        with pytest.raises(ConfigError, match="topic"):
            await client.unsubscribe("?")
        assert len(seed.asked) == 2

    with_seed(test)


def test_a_node_without_a_chain_is_one_line_that_says_so() -> None:
    async def test() -> None:
        async with Net.running() as net:
            with pytest.raises(NetworkError, match=r"no seed answered getregistrant: .*has no chain"):
                await NknChain(net.seed).registrant("my-name")

    run(test)


def test_a_name_keeps_the_key_that_was_answered_first() -> None:
    async def test(seed: ChainSeed, url: str) -> None:
        other = Identity(b"o" * 32).public_key
        asks = NknChain(url)
        assert await asks.registrant("my-name") is None
        with pytest.raises(ConfigError, match="nobody has registered the name 'my-name'"):
            await asks.resolve("gpu.my-name")
        seed.answers["getregistrant"] = {"registrant": "00" * 32, "expiresAt": 5}
        with pytest.raises(RemoteProtocolError, match="registrant of 'my-name'"):
            await asks.resolve("gpu.my-name")
        seed.answers["getregistrant"] = {"registrant": KEY, "expiresAt": 5}
        assert await asks.resolve("gpu.my-name") == f"gpu.{KEY}"
        seed.answers["getregistrant"] = {"registrant": other.hex(), "expiresAt": 6}
        assert await asks.registrant("my-name") == Registrant(other, 6)
        assert await asks.resolve("my-name") == KEY, "the first answer stays"
        before = len(seed.asked)
        assert await asks.resolve(f"gpu.{KEY}") == f"gpu.{KEY}"
        for wrong in ("gpu", "gpu.a_b", ""):
            with pytest.raises(ConfigError, match="not an NKN address"):
                await asks.resolve(wrong)
        assert len(seed.asked) == before, "an address with a key asks nobody"

    with_seed(test)


def test_a_name_is_a_destination_of_messages_and_streams() -> None:
    async def test(seed: ChainSeed, url: str) -> None:
        seed.answers["getregistrant"] = {"registrant": KEY, "expiresAt": 5}
        async with AsyncExitStack() as stack:
            net = await stack.enter_async_context(Net.running())
            bob = await stack.enter_async_context(MultiClient(SEED, identifier="gpu", seed_rpc=net.seed))
            alice = await stack.enter_async_context(MultiClient(seed_rpc=net.seed, chain_rpc=url))
            await stack.enter_async_context(answering(bob))
            replies = await alice.send(["gpu.my-name", bob.address], "hello")
            assert [reply.data for reply in replies.values()] == ["python got hello"]
            assert list(replies) == ["gpu.my-name"]
            server = bob.listen([alice.public_key])
            async with asyncio.timeout(10):
                dialled = asyncio.ensure_future(alice.dial("gpu.my-name"))
                there = await anext(aiter(server))
                here = await dialled
            here.write(b"x")
            assert await there.read(timeout_s=5.0) == b"x"
            await asyncio.gather(here.close(), there.close())
            assert [method for method, _ in seed.asked] == ["getregistrant"]

    with_seed(test)


def test_a_name_is_no_entry_of_an_accept_list() -> None:
    async def test() -> None:
        async with Net.running() as net, MultiClient(seed_rpc=net.seed) as bob:
            with pytest.raises(ConfigError):
                bob.listen(["gpu.my-name"])

    run(test)
