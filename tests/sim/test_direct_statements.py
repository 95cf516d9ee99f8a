"""Statements reach the peer while only the direct path lives, and by it alone where that is the only way."""

from __future__ import annotations

from nconnect.model import Endpoint
from nconnect.tunnel.statements import MAX_STATEMENT_BYTES
from nconnect.wire.tunnel import STATEMENT_HEAD, RecordKind, control_batch
from tests.sim.direct import Device, DirectWorld
from tests.sim.test_direct import found


def say(world: DirectWorld, speaker: Device, document: bytes) -> None:
    speaker.tunnel.announce(speaker.peer, document, world.clock.now)
    speaker.drain()


def relay_dies(world: DirectWorld) -> None:
    world.relay_is_up = False
    for side in (world.user, world.provider):
        side.tunnel.relay_up(False)


def test_a_statement_goes_by_the_direct_path_when_the_relay_is_dead() -> None:
    world = DirectWorld()
    found(world)
    relay_dies(world)
    for speaker, listener in ((world.provider, world.user), (world.user, world.provider)):
        for document in (b"a server", b"x" * 5000, b""):
            world.run(1.1)
            say(world, speaker, document)
            world.run(0.3)
            assert listener.stated == [document]
            listener.stated.clear()
    world.chat(2.0)
    assert world.both_direct


def test_the_largest_statement_takes_one_datagram_for_each_round_trip() -> None:
    world = DirectWorld()
    found(world)
    relay_dies(world)
    document = bytes(MAX_STATEMENT_BYTES)
    say(world, world.provider, document)
    for _ in range(20):
        world.chat(1.0, every_s=0.5)
    assert world.user.stated == [document]


def test_a_relay_that_died_unnoticed_delays_no_statement() -> None:
    """The links are up, and nothing crosses them."""
    world = DirectWorld()
    found(world)
    world.relay_is_up = False
    say(world, world.provider, b"a server")
    world.run(0.2)
    assert world.user.stated == [b"a server"]
    sent = world.provider.datagrams
    world.run(0.9)
    assert world.provider.datagrams <= sent + 2, "it was acknowledged: no repetitions"


def test_a_statement_comes_once_where_both_ways_live() -> None:
    world = DirectWorld()
    found(world)
    say(world, world.provider, b"y" * 3000)
    world.run(2.0)
    assert world.user.stated == [b"y" * 3000]
    assert not world.user.peer.all_drops().get("bad_statement")


def test_a_statement_from_an_address_that_is_not_proven_is_not_read() -> None:
    """An answer to it would let a peer have us send to anybody."""
    world = DirectWorld()
    found(world)
    pair = world.provider.peer.session.current
    assert pair is not None
    body = STATEMENT_HEAD.pack(7, 1, 4, 0) + b"evil"
    datagram = b"".join(pair.direct.seal_run((control_batch((RecordKind.STATEMENT, body)),)))
    sent = world.user.datagrams
    world.user.datagram(Endpoint(world.provider.local.address, 9), datagram)
    assert (world.user.stated, world.user.datagrams) == ([], sent)
