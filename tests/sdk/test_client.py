"""Our clients with each other, over our node that checks every signature and receipt."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import nconnect.nkn
from nconnect.crypto.keys import Identity
from nconnect.errors import (
    ClientClosed,
    ConfigError,
    LocalProtocolError,
    NoReply,
    NotConnected,
    TooBig,
)
from nconnect.nkn import Client, MultiClient
from nconnect.node.settings import NodeSettings
from tests.loops import run
from tests.nkn.net import Net, answering

NOBODY = "nobody." + Identity(b"nobody" + bytes(26)).public_key.hex()


@asynccontextmanager
async def two(**options: bool) -> AsyncIterator[tuple[Net, Client, Client]]:
    """A node, Alice, and Bob, who has these options."""
    async with (
        Net.running() as net,
        Client(identifier="alice", seed_rpc=net.seed) as alice,
        Client(identifier="bob", seed_rpc=net.seed, **options) as bob,  # type: ignore[arg-type]
    ):
        yield net, alice, bob


# Messages and answers


def test_replies_and_acks() -> None:
    async def test() -> None:
        async with two() as (net, alice, bob), answering(bob) as got:
            for data in ("", "grüße", b"", b"\x00\xff", os.urandom(1 << 20)):
                reply = await alice.send(bob.address, data)
                assert reply is not None
                assert reply.src == bob.address
                assert reply.encrypted
                assert not reply.is_ack
                assert reply.data == (f"python got {data}" if isinstance(data, str) else data)
            reply = await alice.send(bob.address, "only acknowledge")
            assert reply is not None
            assert (reply.is_ack, reply.data) == (True, None)
            assert {message.src for message in got} == {alice.address}
            assert alice.drops == bob.drops == net.server.stats()["drops"] == {}
            assert net.server.node.stats().receipts > 0

    run(test)


def test_several_destinations() -> None:
    async def test() -> None:
        async with two() as (net, alice, bob), Client(seed_rpc=net.seed) as carol:
            async with answering(bob), answering(carol):
                dests = [bob.address, carol.address]
                replies = await alice.send(dests, "hello")
                assert {dest: reply.data for dest, reply in replies.items()} == dict.fromkeys(
                    dests, "python got hello"
                )
                assert len(await alice.send((bob.address, bob.address), b"twice is once")) == 1
                data = os.urandom(2_500_000)  # two of these do not fit into one message
                replies = await alice.send(dests, data, reply_timeout_s=10.0)
                assert [reply.data for reply in replies.values()] == [data, data]
            with pytest.raises(NoReply) as missed:
                async with answering(carol):
                    await alice.send([*dests, NOBODY], "hello", reply_timeout_s=0.3)
            assert missed.value.missing == (bob.address, NOBODY)
            assert list(missed.value.replies) == [carol.address]
            assert "and 1 more" in str(missed.value)

    run(test)


def test_no_reply_returns_at_once_and_asks_for_none() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob):
            assert await alice.send(bob.address, "hello", no_reply=True) is None
            assert await alice.send([bob.address, NOBODY], "again", no_reply=True) == {}
            message = await bob.receive()
            assert (message.data, message.wants_answer) == ("hello", False)
            assert await message.reply("you did not ask") is False
            message = await bob.receive()
            assert await message.ack() is False
            assert alice.drops == {}

    run(test)


def test_a_message_is_answered_once() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob), asyncio.TaskGroup() as tasks:
            sent = tasks.create_task(alice.send(bob.address, "hello"))
            message = await bob.receive()
            assert message.wants_answer
            assert await message.reply("one") is True
            assert not message.wants_answer
            with pytest.raises(LocalProtocolError, match="already"):
                await message.reply("two")
            with pytest.raises(LocalProtocolError, match="already"):
                await message.ack()
            reply = await sent
            assert reply is not None
            assert reply.data == "one"

    run(test)


def test_a_loop_acknowledges_what_it_did_not_answer_also_when_it_is_left() -> None:
    async def test() -> None:
        async with Net.running() as net, Client(seed_rpc=net.seed) as alice, asyncio.TaskGroup() as tasks:
            async with Client(seed_rpc=net.seed) as bob:
                first = tasks.create_task(alice.send(bob.address, "first"))
                second = tasks.create_task(alice.send(bob.address, "second"))
                async for message in bob:
                    if message.data == "second":
                        break
                    await asyncio.sleep(0)
                assert (await first or message).is_ack  # type: ignore[union-attr]
                assert not second.done()
            reply = await second
            assert reply is not None
            assert reply.is_ack

    run(test)


def test_a_loop_that_failed_acknowledges_nothing() -> None:
    async def test() -> None:
        async with Net.running() as net, Client(seed_rpc=net.seed) as alice:
            bob = Client(seed_rpc=net.seed)
            sent = []

            async def fail() -> None:
                async with bob:
                    sent.append(asyncio.create_task(alice.send(bob.address, "hello", reply_timeout_s=0.4)))
                    async for _ in bob:
                        raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await fail()
            with pytest.raises(NoReply):
                await sent[0]

    run(test)


def test_receivers_may_answer_in_any_order() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob), asyncio.TaskGroup() as tasks:
            sent = [tasks.create_task(alice.send(bob.address, f"{n}")) for n in range(20)]
            messages = [await bob.receive() for _ in range(20)]
            for message in reversed(messages):
                await message.reply(message.data)
            assert [(await each).data for each in sent] == [f"{n}" for n in range(20)]  # type: ignore[union-attr]

    run(test)


def test_in_the_clear_only_when_both_asked_for_it() -> None:
    async def test() -> None:
        async with two(accept_unencrypted=True) as (_, alice, bob), answering(bob), answering(alice):
            reply = await alice.send(bob.address, "open", encrypt=False)
            assert reply is not None
            assert not reply.encrypted
            with pytest.raises(NoReply):
                await bob.send(alice.address, "open", encrypt=False, reply_timeout_s=0.2)
            assert alice.drops == {"unencrypted": 1}

    run(test)


def test_a_client_may_write_to_itself() -> None:
    async def test() -> None:
        async with two() as (_, alice, _), answering(alice):
            reply = await alice.send(alice.address, "me")
            assert reply is not None
            assert reply.data == "python got me"

    run(test)


# What is refused


def test_an_answer_that_never_comes() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob):
            with pytest.raises(NoReply, match=r"no answer from bob\.\w+ within 0.1 s"):
                await alice.send(bob.address, "hello", reply_timeout_s=0.1)
            late = await bob.receive()
            await late.reply("too late")
            while not alice.drops:  # noqa: ASYNC110 - a drop tells nobody
                await asyncio.sleep(0.005)
            assert alice.drops == {"unexpected_answer": 1}
            assert not alice._waiting

    run(test)


def test_what_cannot_be_sent() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob):
            for dest in ("", "bob", "bob." + "x" * 64):
                with pytest.raises(ConfigError, match="not an NKN address"):
                    await alice.send(dest, "hello")
            with pytest.raises(ConfigError, match="key"):
                await alice.send("x." + "00" * 32, "hello")
            with pytest.raises(ConfigError, match="1 to 4096 destinations"):
                await alice.send([], "hello")
            with pytest.raises(TooBig, match="in pieces"):
                await alice.send(bob.address, bytes(4_000_000))
            assert not alice._waiting

    run(test)


def test_settings_that_make_no_sense() -> None:
    for wrong in (b"short", "xyz", "ab" * 31, b""):
        with pytest.raises(ConfigError, match="64 hex digits"):
            Client(wrong)
    with pytest.raises(ConfigError, match="identifier"):
        Client(identifier=" space")
    with pytest.raises(ConfigError, match="seed_rpc"):
        Client(seed_rpc=[])
    for count in (-1, 0, 65):
        with pytest.raises(ConfigError, match="1 to 64 sub-clients"):
            MultiClient(sub_clients=count)
    seed = os.urandom(32)
    assert Client(seed, identifier="a").address == Client(seed.hex(), identifier="a").address
    assert Client(seed).seed == seed
    assert Client().seed != Client().seed


def test_a_full_inbox_drops_the_newest_and_does_not_acknowledge_it() -> None:
    async def test() -> None:
        async with Net.running() as net, Client(seed_rpc=net.seed) as alice:
            for limits in ({"inbox_messages": 3}, {"inbox_bytes": 2_500}):
                async with Client(seed_rpc=net.seed, **limits) as bob:  # type: ignore[arg-type]
                    for n in range(6):
                        await alice.send(bob.address, bytes([n]) * 1000, no_reply=True)
                    with pytest.raises(NoReply):
                        await alice.send(bob.address, b"one too many", reply_timeout_s=0.2)
                    assert bob.drops == {"inbox_full": 4}
                    assert [(await bob.receive()).data[0] for _ in range(3)] == [0, 1, 2]
                    await alice.send(bob.address, b"room again", no_reply=True)
                    assert (await bob.receive()).data == b"room again"

    run(test)


# Life


def test_without_a_node_it_says_why() -> None:
    async def test() -> None:
        client = Client(seed_rpc="http://127.0.0.1:1", connect_timeout_s=0.3)
        with pytest.raises(
            NotConnected, match=r"not connected within 0.3 s: no seed named a node.*127\.0\.0\.1:1"
        ):
            async with client:
                raise AssertionError("it is not connected")
        with pytest.raises(LocalProtocolError, match="entered only once"):
            await client.__aenter__()

    run(test)


def test_no_time_to_connect() -> None:
    async def test() -> None:
        async with Net.running() as net:
            for timeout_s in (0.0, -1.0):
                with pytest.raises(NotConnected):
                    await Client(seed_rpc=net.seed, connect_timeout_s=timeout_s).__aenter__()

    run(test)


def test_entering_can_be_cancelled() -> None:
    async def test() -> None:
        async def enter() -> None:
            async with Client(seed_rpc="http://127.0.0.1:1", connect_timeout_s=None):
                raise AssertionError("it is not connected")

        task = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)


def test_what_waits_can_be_cancelled() -> None:
    async def test() -> None:
        async with two() as (_, alice, bob):
            for waiting in (alice.send(bob.address, "hello"), alice.receive()):
                task = asyncio.ensure_future(waiting)
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert not alice._waiting
            async with answering(bob):
                assert await alice.send(bob.address, "still there")

    run(test)


def test_before_and_after_it_is_used() -> None:
    async def test() -> None:
        async with Net.running() as net:
            client = Client(seed_rpc=net.seed)
            for early in (client.send(NOBODY, "x"), client.receive(), client.wait_up()):
                with pytest.raises(ClientClosed, match="async with"):
                    await early
            async with client:
                waiting = [
                    asyncio.ensure_future(each) for each in (client.send(NOBODY, "x"), client.receive())
                ]
                await asyncio.sleep(0.02)
                client.close()
                for each in waiting:
                    with pytest.raises(ClientClosed, match="was closed"):
                        await each
                assert [message async for message in client] == []
            for late in (client.send(NOBODY, "x"), client.receive()):
                with pytest.raises(ClientClosed, match="was closed"):
                    await late
            assert client.links[0].state == "down"

    run(test)


def test_an_exception_inside_comes_out_as_it_is() -> None:
    async def test() -> None:
        async with Net.running() as net:

            async def fail() -> None:
                async with Client(seed_rpc=net.seed) as client:
                    await client.send(NOBODY, "x", reply_timeout_s=0.05)

            with pytest.raises(NoReply):
                await fail()

    run(test)


def test_what_was_sent_last_is_delivered() -> None:
    async def test() -> None:
        async with Net.running() as net, Client(seed_rpc=net.seed) as bob:
            data = os.urandom(3_900_000)
            async with Client(seed_rpc=net.seed) as alice:
                await alice.send(bob.address, data, no_reply=True)
            assert (await bob.receive()).data == data

    run(test)


def test_it_comes_back_after_the_node_and_sends_what_waited() -> None:
    async def test() -> None:
        async with two() as (net, alice, bob), answering(bob):
            assert await alice.send(bob.address, "before")
            restart = asyncio.create_task(net.restart())
            while alice.is_up or bob.is_up:  # noqa: ASYNC110 - both, in any order
                await asyncio.sleep(0.005)
            waiting = asyncio.create_task(alice.send(bob.address, "meanwhile", no_reply=True))
            await restart
            await asyncio.gather(alice.wait_up(timeout_s=10.0), bob.wait_up(timeout_s=10.0))
            await waiting
            reply = await alice.send(bob.address, "after")
            assert reply is not None
            assert alice.links[0].reconnects == bob.links[0].reconnects == 1
            assert alice.links[0].last_error == ""

    run(test)


def test_while_it_is_down_send_says_so_in_time() -> None:
    async def test() -> None:
        async with Net.running() as net, Client(seed_rpc=net.seed) as alice:
            await net.server.close()
            while alice.is_up:  # noqa: ASYNC110 - nothing tells a user
                await asyncio.sleep(0.005)
            with pytest.raises(NotConnected, match=r"not connected within 0\.1 s"):
                await alice.send(NOBODY, "hello", reply_timeout_s=0.1)
            with pytest.raises(NotConnected):
                await alice.wait_up(timeout_s=0.05)

    run(test)


def test_a_node_that_waives_signatures_and_one_that_reorders() -> None:
    async def test() -> None:
        for settings in (NodeSettings(rate_per_s=None), NodeSettings(rate_per_s=None, reorder=True)):
            async with (
                Net.running(settings) as net,
                Client(seed_rpc=net.seed) as alice,
                Client(seed_rpc=net.seed) as bob,
                answering(bob),
            ):
                replies = await asyncio.gather(*(alice.send(bob.address, f"{n}") for n in range(100)))
                assert [reply.data for reply in replies if reply] == [f"python got {n}" for n in range(100)]

    run(test)


def test_the_last_node_is_remembered() -> None:
    async def test() -> None:
        async with Net.running() as net:
            async with Client(seed_rpc=net.seed) as alice:
                (node,) = alice.last_nodes
                assert alice.links[0].node == node
            async with Client(seed_rpc="http://127.0.0.1:1", last_node=node) as alice:
                assert alice.is_up

    run(test)


def test_a_message_is_held_for_who_is_away() -> None:
    async def test() -> None:
        async with Net.running() as net, Client(seed_rpc=net.seed) as alice:
            bob = Client(identifier="bob", seed_rpc=net.seed)
            carol = Client(identifier="carol", seed_rpc=net.seed)
            await alice.send(bob.address, "not held", no_reply=True)
            await alice.send([bob.address, carol.address], "held", no_reply=True, max_holding_s=60)
            async with bob, carol:
                for away in (bob, carol):
                    assert (await away.receive()).data == "held"

    run(test)


# Several links


def test_multi_clients_reach_each_other_over_all_links_and_deliver_once() -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            MultiClient(identifier="a", seed_rpc=net.seed) as alice,
            MultiClient(identifier="b", seed_rpc=net.seed) as bob,
            answering(bob) as got,
        ):
            await alice.wait_up(4)
            await bob.wait_up(4)
            assert [link.address for link in alice.links] == [f"__{k}__.{alice.address}" for k in range(4)]
            reply = await alice.send(bob.address, "hello")
            assert reply is not None
            assert (reply.src, reply.data) == (bob.address, "python got hello")
            reply = await alice.send(f"__3__.{bob.address}", "only acknowledge")
            assert reply is not None
            assert reply.is_ack
            assert [(message.src, message.data) for message in got] == [
                (alice.address, "hello"),
                (alice.address, "only acknowledge"),
            ]
            while bob.drops.get("duplicate") != 6:  # noqa: ASYNC110 - a drop tells nobody
                await asyncio.sleep(0.005)
            assert bob.drops == {"duplicate": 6}

    run(test)


def test_a_plain_client_and_a_multi_client_that_has_the_original_too() -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            Client(identifier="a", seed_rpc=net.seed) as alice,
            MultiClient(identifier="b", original=True, sub_clients=2, seed_rpc=net.seed) as bob,
            answering(alice),
            answering(bob) as got,
        ):
            await bob.wait_up(3)
            assert bob.links[0].address == bob.address
            reply = await alice.send(bob.address, "to a multi-client")
            assert reply is not None
            reply = await bob.send(alice.address, "to a client")
            assert reply is not None
            assert reply.src == alice.address
            assert [message.src for message in got] == [alice.address]

    run(test)


def test_one_link_that_is_down_costs_nothing() -> None:
    async def test() -> None:
        async with (
            Net.running() as net,
            MultiClient(identifier="a", sub_clients=2, seed_rpc=net.seed) as alice,
            MultiClient(identifier="b", sub_clients=2, seed_rpc=net.seed) as bob,
            answering(bob),
        ):
            await alice.wait_up(2)
            await bob.wait_up(2)
            for side in (alice, bob):
                side._links[side is bob].runner.close()  # sub-client 0 of Alice, 1 of Bob: none in common
            while sum(link.state == "up" for link in (*alice.links, *bob.links)) > 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            with pytest.raises(NoReply):
                await alice.send(bob.address, "no way", reply_timeout_s=0.2)
        async with (
            Net.running() as net,
            MultiClient(identifier="a", sub_clients=2, seed_rpc=net.seed) as alice,
            MultiClient(identifier="b", sub_clients=2, seed_rpc=net.seed) as bob,
            answering(bob),
        ):
            await alice.wait_up(2)
            await bob.wait_up(2)
            alice._links[0].runner.close()
            bob._links[0].runner.close()
            for n in range(5):
                assert await alice.send(bob.address, f"{n}", reply_timeout_s=1.0)

    run(test)


# The package


def test_what_is_exported() -> None:
    for name in nconnect.nkn.__all__:
        assert getattr(nconnect.nkn, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = nconnect.nkn.Nothing


def test_the_package_itself_loads_no_clients() -> None:
    loaded = "{'asyncio', 'nconnect.sdk.client'} & {*sys.modules}"
    code = f"import sys, nconnect.nkn.link as _; sys.exit(bool({loaded}))"
    subprocess.run([sys.executable, "-c", code], check=True)
