"""What the core does with unknown senders: what is not encrypted is said, the rest is counted."""

from __future__ import annotations

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Settings, Visitor
from nconnect.wire.message import Message

IDENTITY = Identity(bytes(32))
PUBLIC_KEY = Identity(bytes([1]) * 32).public_key
OUT = memoryview(bytearray(1000))
CLEAR = Message(b"hello").encode()
SEALED = Message(b"hello", encrypted=True, nonce=bytes(24)).encode()


def tunnel(*, accept_pending: bool = False) -> Tunnel:
    return Tunnel(
        IDENTITY,
        NknAddress("gpu-box", IDENTITY.public_key),
        (),
        Settings(CipherSuite.AES256GCM, persistent=False, accept_pending=accept_pending),
        now=0.0,
        rng=lambda size: bytes(size),
        wall_clock_ns=lambda: 0,
    )


def test_what_is_not_encrypted_is_a_visitor_and_the_rest_is_counted() -> None:
    core = tunnel()
    assert core.receive("guest", memoryview(CLEAR), OUT, 7.0) == []
    core.receive("guest", memoryview(SEALED), OUT, 9.0)
    assert core.drops == {DropReason.UNKNOWN_PEER: 1}
    assert core.poll_output() == Visitor("guest", b"hello", 7.0)
    assert core.poll_output() is None


def test_a_visitor_that_is_turned_away_is_counted_and_remembered() -> None:
    core = tunnel(accept_pending=True)
    core.receive("guest", memoryview(CLEAR), OUT, 7.0)
    assert not core.drops
    core.turn_away("guest", 7.0)
    assert core.drops == {DropReason.UNKNOWN_PEER: 1}
    assert [sender.address for sender in core.pending] == ["guest"]


def test_a_peer_that_is_turned_away_is_counted_for_the_peer() -> None:
    core = tunnel()
    core.set_peers([PeerConfig("laptop", NknAddress("laptop", PUBLIC_KEY), ())], 0.0)
    core.turn_away(f"laptop.{PUBLIC_KEY.hex()}", 7.0)
    (peer,) = core.peers.values()
    assert peer.drops == {DropReason.NOT_OURS: 1}
    assert not core.drops


def test_an_expired_peer_that_is_turned_away_is_counted_as_one() -> None:
    core = tunnel()
    core.set_peers([PeerConfig("laptop", NknAddress("laptop", PUBLIC_KEY), (), expires_at=-1.0)], 0.0)
    core.turn_away(f"laptop.{PUBLIC_KEY.hex()}", 7.0)
    (peer,) = core.peers.values()
    assert peer.drops == {DropReason.PEER_EXPIRED: 1}
