"""Several links on real websockets: nodes of their own, a node that is shared, and one that is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from itertools import permutations

import pytest

from nconnect.crypto.keys import Identity
from nconnect.io.nkn.link import LinkRunner
from nconnect.io.nkn.links import LinkCameUp, LinkEvent, Links, LinkWentDown, tag_of
from nconnect.model import NknAddress
from nconnect.nkn import spares
from nconnect.node.rpc import node_info
from nconnect.wire.jsonrpc import NodeInfo
from tests.io.test_link_and_node import node as node_server
from tests.loops import run, until

IDENTITY = Identity(bytes([9]) * 32)
ADDRESS = NknAddress("me", IDENTITY.public_key)


class Owner:
    def __init__(self) -> None:
        self.ups: list[str] = []
        self.downs: list[int] = []

    def __call__(self, event: LinkEvent) -> None:
        if isinstance(event, LinkCameUp):
            self.ups.append(event.node.addr)
        elif isinstance(event, LinkWentDown):
            self.downs.append(event.link)


def node(number: int) -> NodeInfo:
    return NodeInfo(f"192.0.2.{number}:1", "", f"{number:02x}" * 32, "")


@contextlib.asynccontextmanager
async def running(links: Links) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(run()) for _, run in links.tasks()]
    try:
        yield
    finally:
        links.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)


def test_tags_tell_nodes_apart() -> None:
    assert tag_of(node(1)) == tag_of(node(1)) != tag_of(node(2))
    assert 0 < tag_of(node(3)) < 1 << 32


def test_each_link_has_its_own_address_and_all_of_them_end() -> None:
    async def test() -> None:
        owner = Owner()
        links = Links(IDENTITY, ADDRESS, ["http://127.0.0.1:1"], owner, count=3, rng=os.urandom)
        names = [link.address.identifier for link in links.links]
        assert names == ["me", "__1__.me", "__2__.me"]
        async with running(links):
            await until(lambda: set(owner.downs) == {0, 1, 2})
            assert not links.is_up
            assert not links.send("anybody", (b"x",))
            assert links.tags() == {}

    run(test)


def test_links_that_are_named_the_same_node_share_the_one_with_the_lowest_number() -> None:
    async def test() -> None:
        server = await node_server(verify=True)
        owner = Owner()
        links = Links(
            IDENTITY, ADDRESS, [f"http://127.0.0.1:{server.rpc_port}"], owner, count=3, rng=os.urandom
        )
        try:
            async with running(links):
                await until(lambda: links.shared_with == [None, 0, 0])
                assert set(links.tags()) == {0}
                assert links.link is links.links[0]
                assert links.send(str(ADDRESS), (b"to myself",))
                assert not owner.downs, "a link that is shared has not failed"
                await until(lambda: not any(runner.is_up for runner in links.runners[1:]))
        finally:
            await server.close()

    run(test)


def test_a_link_stands_in_for_all_that_the_one_it_replaces_stood_in_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In whatever order the links came up, at one node: status shows the state of the one that is left."""

    async def test() -> None:
        monkeypatch.setattr(LinkRunner, "is_up", True)
        for order in permutations(range(3)):
            links = Links(IDENTITY, ADDRESS, ["http://127.0.0.1:1"], Owner(), count=3, rng=os.urandom)
            for number in order:
                links._ones[number].on_up(node(1))
            assert links.shared_with == [None, 0, 0], order

    run(test)


def test_a_lost_node_takes_all_links_down_and_they_come_back_as_one() -> None:
    async def test() -> None:
        server = await node_server(verify=False)
        ports = (server.ws_port, server.rpc_port)
        owner = Owner()
        links = Links(
            *(IDENTITY, ADDRESS, [f"http://127.0.0.1:{server.rpc_port}"], owner),
            count=2,
            rng=os.urandom,
            after_loss_s=0.01,
        )
        try:
            async with running(links):
                await until(lambda: links.shared_with == [None, 0])
                await server.close()
                await until(lambda: not links.is_up)
                assert 0 in owner.downs
                server = await node_server(False, *ports)
                await until(lambda: links.is_up)
                await until(lambda: len(links.tags()) == 1 and None in links.shared_with)
        finally:
            await server.close()

    run(test)


@pytest.mark.parametrize("seeds", [1, 2])
def test_while_the_node_it_is_named_does_not_answer_a_spare_link_stands_in(
    monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    """One seed that names such a node for the bare address, or one that names it for all and a good one."""
    monkeypatch.setattr(spares, "STUCK_AFTER_S", 0.1)
    monkeypatch.setattr(spares, "STAY_S", 0.1)
    monkeypatch.setattr("nconnect.nkn.link.CONNECT_S", 0.5)

    async def test() -> None:
        server, owner = await node_server(verify=False), Owner()
        other = await node_server(verify=False) if seeds > 1 else server
        with socket.create_server(("127.0.0.1", 0)) as silent:
            dead = node_info("127.0.0.1", silent.getsockname()[1], 1, bytes(32))
            server.assign = lambda address, secure: None if seeds == 1 and address.startswith("__") else dead
            urls = list(dict.fromkeys(f"http://127.0.0.1:{each.rpc_port}" for each in (server, other)))
            links = Links(IDENTITY, ADDRESS, urls, owner, count=1, rng=os.urandom)
            try:
                async with running(links):
                    await until(lambda: links.is_up)
                    assert set(links.tags()) == {1}
                    assert links.spare_was_up
                    assert links.spare_may_help()
                    assert [link.is_up for link in links.links] == [False, True]
                    assert links.send(str(ADDRESS), (b"x",))
                    server.assign = None
                    await until(lambda: set(links.tags()) == {0} and len(links.links) == 1)
                    await until(lambda: not links.runners[1].is_up)
            finally:
                await server.close()
                await other.close()

    run(test)


def test_a_link_that_another_replaces_still_takes_what_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer answers to the link that it knows until it hears of the other one."""
    monkeypatch.setattr(spares, "STUCK_AFTER_S", 0.1)
    monkeypatch.setattr("nconnect.nkn.link.CONNECT_S", 0.5)
    monkeypatch.setattr("nconnect.io.nkn.links.DRAIN_S", 0.3)

    async def test() -> None:
        server = await node_server(verify=False)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            dead = node_info("127.0.0.1", silent.getsockname()[1], 1, bytes(32))
            server.assign = lambda address, secure: None if address.startswith("__") else dead
            seeds = [f"http://127.0.0.1:{server.rpc_port}"]
            links = Links(IDENTITY, ADDRESS, seeds, Owner(), count=1, rng=os.urandom)
            got: list[bytes] = []
            links.runners[1].on_message = lambda message: got.append(bytes(message.payload))
            try:
                async with running(links):
                    await until(lambda: set(links.tags()) == {1})
                    server.assign = None
                    await until(lambda: set(links.tags()) == {0})
                    assert links.send(str(ADDRESS.sub_client(1)), (b"on its way",))
                    await until(lambda: got == [b"on its way"])
                    await until(lambda: not links.runners[1].is_up)
                    assert len(links.links) == 1
            finally:
                await server.close()

    run(test)


def test_a_spare_that_is_named_the_same_node_ends_and_no_other_is_left_to_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spares, "STUCK_AFTER_S", 0.1)

    async def test() -> None:
        server, owner = await node_server(verify=False), Owner()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            dead = node_info("127.0.0.1", silent.getsockname()[1], 1, bytes(32))
            server.assign = lambda address, secure: dead
            seeds = [f"http://127.0.0.1:{server.rpc_port}"]
            links = Links(IDENTITY, ADDRESS, seeds, owner, count=1, rng=os.urandom)
            try:
                async with running(links):
                    assert links.spare_may_help()
                    await until(lambda: not links.spare_may_help())
                    await until(lambda: len(links.links) == 1)
                    assert not any(link.is_up for link in links.links)
            finally:
                await server.close()

    run(test)
