"""How much is heard of those who are no peers."""

from __future__ import annotations

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Settings
from nconnect.tunnel.strangers import BURST, MAX_SENDERS, PER_S, TOTAL_BURST, TOTAL_PER_S, Strangers

STRANGER = "nobody." + "ab" * 32


def test_a_sender_may_say_a_few_things_and_then_a_few_a_second() -> None:
    strangers = Strangers(0.0)
    assert sum(strangers.admits(STRANGER, 0.0) for _ in range(1000)) == BURST
    assert sum(strangers.admits(STRANGER, 1.0) for _ in range(1000)) == PER_S


def test_one_that_floods_does_not_keep_others_from_being_heard() -> None:
    strangers = Strangers(0.0)
    for _ in range(10_000):
        strangers.admits(STRANGER, 0.0)
    assert all(strangers.admits("applicant", 0.0) for _ in range(int(BURST)))


def test_many_keys_together_are_bounded_in_work_and_memory() -> None:
    strangers = Strangers(0.0)
    heard = sum(strangers.admits(f"{n}.{STRANGER}", n / 10_000) for n in range(30_000))
    assert heard <= TOTAL_BURST + 3 * TOTAL_PER_S
    assert len(strangers._senders) <= MAX_SENDERS


def test_peers_are_heard_whatever_strangers_do() -> None:
    identity, peer = Identity(bytes(32)), NknAddress("laptop", Identity(b"p" * 32).public_key)
    core = Tunnel(
        identity,
        NknAddress("gpu-box", identity.public_key),
        (PeerConfig("laptop", peer, ()),),
        Settings(CipherSuite.AES256GCM, persistent=False),
        now=0.0,
        rng=lambda size: bytes(size),
        wall_clock_ns=lambda: 0,
    )
    assert sum(core.hears(STRANGER, 0.0) for _ in range(5000)) == BURST
    assert core.drops == {DropReason.UNKNOWN_PEER: 5000 - BURST}
    assert all(core.hears(source, 0.0) for source in (str(peer), f"__3__.{peer}") for _ in range(5000))
