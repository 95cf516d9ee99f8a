"""Garbage from an unknown key, or from the peer's own, is dropped and counted by reason.

user 10.86.0.2 ── node ── provider 10.86.0.1
sender ──────────┘

The sender is another NKN client on the user's machine.
"""

from __future__ import annotations

import os
import sys
import tomllib

import pytest

from lab.process import until
from lab.traffic import pings
from lab.world import SEED_RPC, SERVER, USER_PEER, World
from nconnect.crypto.keys import Box, Identity
from nconnect.model import NknAddress
from nconnect.tunnel.constants import REKEY_AFTER_S
from nconnect.wire import tunnel as frames
from nconnect.wire.message import Message, Payload, PayloadType
from nconnect.wire.tunnel import DATA_HEADER, VERSION
from netns_tests.topology import Provided


def send(world: World, seed: str, identifier: str, payloads: list[bytes]) -> None:
    dest = world.provider_side.address()
    command = [sys.executable, "-m", "netns_tests.sender", SEED_RPC, seed, identifier, dest]
    world.user.must(*command, input_text="".join(f"{payload.hex()}\n" for payload in payloads))


def user_seed(world: World) -> str:
    seed: str = tomllib.loads(world.user_side.config.read_text())["interface"]["seed"]
    return seed


def data_frame(*, version: int = VERSION, kind: int = 0, receiver: int = 0, body: bytes = b"x" * 64) -> bytes:
    return frames.data_frame(DATA_HEADER.pack(version, kind, 0, receiver, 1), len(body)) + body


def boxed(world: World, data: bytes) -> bytes:
    """An NKN message from the user with `data` as its binary payload."""
    address = NknAddress.parse(world.provider_side.address())
    nonce = os.urandom(24)
    payload = Payload(PayloadType.BINARY, os.urandom(8), data, no_reply=True).encode()
    sealed = Box(Identity(bytes.fromhex(user_seed(world))), address.public_key).seal(payload, nonce)
    return Message(sealed, encrypted=True, nonce=nonce).encode()


def drops(world: World) -> dict[str, int]:
    status = world.provider_side.status()
    found = dict(status["drops"])
    for peer in status["peers"]:
        for reason, count in peer["drops"].items():
            found[reason] = found.get(reason, 0) + count
    return found


def counted(world: World, before: dict[str, int], *reasons: str) -> bool:
    now = drops(world)
    return all(now.get(reason, 0) > before.get(reason, 0) for reason in reasons)


def still_well(world: World) -> None:
    assert pings(world.user, SERVER)
    for side in (world.user_side, world.provider_side):
        assert side.daemon is not None
        assert side.daemon.running
        assert "Traceback" not in side.daemon.text()
    assert world.node.process is not None
    assert "Traceback" not in world.node.process.text()


def test_garbage_from_an_unknown_key_is_counted_as_unknown_peer(tunnel: Provided) -> None:
    world = tunnel.world
    before = drops(world)
    handshake = world.provider_side.peer()["last_handshake_at"]
    send(world, os.urandom(32).hex(), "stranger", [os.urandom(n) for n in (0, 1, 16, 1000, 100_000)])
    until(lambda: counted(world, before, "unknown_peer"), "the unknown key to be counted")
    since_s = world.provider_side.peer()["last_handshake_at"] - handshake
    assert since_s < 1 or since_s >= REKEY_AFTER_S - 1, "no other one than the keys' renewal"
    still_well(world)


def test_the_peers_key_with_another_identifier_is_unknown(tunnel: Provided) -> None:
    """A peer is known by its whole address, not by its key alone."""
    world = tunnel.world
    before = drops(world)
    send(world, user_seed(world), "somebody", [data_frame(receiver=1)])
    until(lambda: counted(world, before, "unknown_peer"), "the unknown address to be counted")
    still_well(world)


@pytest.mark.parametrize(
    ("reason", "payloads"),
    [
        ("not_ours", [b"", b"\x00", b"\xff" * 50, os.urandom(1000)]),
        ("wrong_version", [data_frame(version=9)]),
        ("no_session", [data_frame(receiver=n) for n in (0, 1, 0xFFFFFFFF)]),
        ("wrong_version", [data_frame(kind=77)]),
        ("no_session", [data_frame(body=os.urandom(3_900_000))]),
    ],
    ids=["noise", "version", "receiver", "kind", "oversized"],
)
def test_bad_frames_from_the_peer_are_counted_by_reason(
    tunnel: Provided, reason: str, payloads: list[bytes]
) -> None:
    world = tunnel.world
    before = drops(world)
    send(world, user_seed(world), USER_PEER, payloads)
    until(lambda: counted(world, before, reason), f"{reason} to be counted")
    still_well(world)


@pytest.mark.parametrize(
    "data",
    [b"", b"nc", b"nc\x01", b"nc\x01\x01" + bytes(200), b"nc\x09\x01" + bytes(200), os.urandom(5000)],
    ids=["empty", "magic", "short", "zeros", "version", "noise"],
)
def test_bad_handshakes_from_the_peer_are_counted(tunnel: Provided, data: bytes) -> None:
    world = tunnel.world
    before = sum(drops(world).values())
    send(world, user_seed(world), USER_PEER, [boxed(world, data)])
    until(lambda: sum(drops(world).values()) > before, "the message to be counted")
    still_well(world)
