"""How much is heard of those who are no peers."""

from __future__ import annotations

from collections import Counter

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.errors import DropReason
from nconnect.model import NknAddress, PeerConfig
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Settings, Visitor
from nconnect.tunnel.strangers import BURST, MAX_SENDERS, PER_S, TOTAL_BURST, TOTAL_PER_S, Strangers
from nconnect.wire.message import Message
from nconnect.wire.tunnel import DATA_HEADER, VERSION, FrameKind, data_frame

STRANGER = "nobody." + "ab" * 32
LAPTOP = NknAddress("laptop", Identity(b"p" * 32).public_key)


def test_a_sender_may_say_a_few_things_and_then_a_few_a_second() -> None:
    strangers = Strangers()
    assert sum(strangers.admits(STRANGER, 0.0) for _ in range(1000)) == BURST
    assert sum(strangers.admits(STRANGER, 1.0) for _ in range(1000)) == PER_S


def test_one_that_floods_does_not_keep_others_from_being_heard() -> None:
    strangers = Strangers()
    for _ in range(10_000):
        strangers.admits(STRANGER, 0.0)
    assert all(strangers.admits("applicant", 0.0) for _ in range(int(BURST)))


def test_many_keys_together_are_bounded_in_work_and_memory() -> None:
    strangers = Strangers()
    heard = sum(strangers.admits(f"{n}.{STRANGER}", n / 10_000) for n in range(30_000))
    assert heard <= TOTAL_BURST + 3 * TOTAL_PER_S
    assert len(strangers._each) <= MAX_SENDERS


def provider(*, accept_pending: bool = False) -> Tunnel:
    identity = Identity(bytes(32))
    return Tunnel(
        identity,
        NknAddress("gpu-box", identity.public_key),
        (PeerConfig("laptop", LAPTOP, ()),),
        Settings(CipherSuite.AES256GCM, persistent=False, accept_pending=accept_pending),
        now=0.0,
        rng=lambda size: bytes(size),
        wall_clock_ns=lambda: 0,
    )


def test_peers_are_heard_whatever_strangers_do() -> None:
    core, peer = provider(), LAPTOP
    heard: Counter[str] = Counter()
    plain = memoryview(Message(b"hello").encode())
    out = memoryview(bytearray(100))
    for source in (STRANGER, str(peer), f"__3__.{peer}"):
        for _ in range(5000):
            assert core.receive(source, plain, out, 0.0) == []
            while (output := core.poll_output()) is not None:
                assert isinstance(output, Visitor)
                heard.update((output.source,))
    assert heard == {STRANGER: BURST, str(peer): 5000, f"__3__.{peer}": 5000}
    assert core.drops == {DropReason.UNKNOWN_PEER: 5000 - BURST}


def test_data_under_unknown_keys_of_strangers_is_looked_at_as_seldom() -> None:
    core = provider(accept_pending=True)
    frame = memoryview(data_frame(DATA_HEADER.pack(VERSION, FrameKind.DATA, 0, 7, 0), 20) + bytes(20))
    for now in (0.0, 1.0):
        for _ in range(1000):
            assert core.receive(STRANGER, frame, memoryview(bytearray(100)), now) == []
    assert core.drops == {DropReason.UNKNOWN_PEER: 2000}
    assert sum(entry.count for entry in core.pending) == BURST + PER_S
