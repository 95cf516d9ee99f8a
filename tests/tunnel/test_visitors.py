"""What the core does with unknown senders: a hook for what is clear, a bounded memory of the rest."""

from __future__ import annotations

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Settings
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


def test_what_is_not_encrypted_goes_to_the_hook_first() -> None:
    core = tunnel()
    seen: list[tuple[str, bytes, float]] = []

    def hook(source: str, content: bytes | bytearray | memoryview, now: float) -> bool:
        seen.append((source, bytes(content), now))
        return source == "guest"

    core.receiver.on_visitor = hook
    assert core.receive("guest", memoryview(CLEAR), OUT, 7.0) == []
    assert not core.drops
    core.receive("stranger", memoryview(CLEAR), OUT, 8.0)
    assert core.drops == {DropReason.UNKNOWN_PEER: 1}
    core.receive("guest", memoryview(SEALED), OUT, 9.0)
    assert core.drops == {DropReason.UNKNOWN_PEER: 2}
    assert seen == [("guest", b"hello", 7.0), ("stranger", b"hello", 8.0)]


def test_what_the_hook_took_can_be_counted_later() -> None:
    core = tunnel(accept_pending=True)
    core.receiver.on_visitor = lambda source, content, now: True
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


def test_without_a_hook_it_is_counted() -> None:
    core = tunnel()
    core.receive("guest", memoryview(CLEAR), OUT, 7.0)
    assert core.drops == {DropReason.UNKNOWN_PEER: 1}
    assert core.poll_output() is None
