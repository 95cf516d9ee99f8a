"""Mail for offline clients: the mailboxes alone, and through the node."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.node.mailbox import ENTRY_OVERHEAD_BYTES, EXPIRE_AT_ONCE, HOST_SHARE, Held, OfflineMailbox
from nconnect.node.settings import NodeDrop
from tests.node.fakes import FakeClient, make_node

KEY = "ab" * 32
BOB = "bob." + KEY


class Box:
    """Mailboxes with small bounds, and what they dropped."""

    def __init__(self, limit: int = 1 << 20, mailbox: int = 64 << 10, messages: int = 10) -> None:
        self.drops: Counter[NodeDrop] = Counter()
        self.holding = OfflineMailbox(
            limit_bytes=limit, mailbox_bytes=mailbox, mailbox_messages=messages, dropped=self.dropped
        )

    def dropped(self, reason: NodeDrop) -> None:
        self.drops[reason] += 1

    def put(
        self,
        text: bytes,
        *,
        dest: str = BOB,
        src: str = "alice",
        host: str = "h",
        until: float = 60.0,
        now: float = 0.0,
    ) -> bool:
        return self.holding.put(dest, Held(src, text, host, until), now)

    def take(self, now: float = 0.0, dest: str = BOB) -> list[bytes]:
        taken = []
        while (held := self.holding.take(dest, now)) is not None:
            taken.append(held.payload)
        return taken


def test_mail_is_taken_in_order_and_once() -> None:
    box = Box()
    for text in (b"1", b"2", b"3"):
        assert box.put(text)
    assert box.holding.waits(BOB)
    assert not box.holding.waits("carol." + KEY)
    assert box.holding.held_messages == 3
    assert box.take() == [b"1", b"2", b"3"]
    assert box.take() == []
    assert (box.holding.held_messages, box.holding.held_bytes, box.holding.next_end()) == (0, 0, None)


def test_nothing_is_handed_out_after_its_time() -> None:
    box = Box()
    box.put(b"short", until=10.0)
    box.put(b"long", until=20.0)
    assert box.holding.next_end() == 10.0
    assert box.take(now=10.0) == [b"long"]
    assert box.drops == {NodeDrop.HELD_TOO_LONG: 1}


def test_expiry_frees_what_nobody_fetches() -> None:
    box = Box()
    box.put(b"2", until=20.0)
    box.put(b"1", until=10.0)
    box.holding.expire(9.9)
    assert box.holding.held_messages == 2
    box.holding.expire(10.0)
    assert box.holding.next_end() == 20.0
    box.holding.expire(20.0)
    assert not box.holding.waits(BOB)
    assert (box.holding.held_bytes, box.drops) == (0, {NodeDrop.HELD_TOO_LONG: 2})


def test_a_flood_into_a_mailbox_pushes_out_itself_first() -> None:
    box = Box(messages=4)
    box.put(b"precious", src="alice")
    for number in range(50):
        box.put(b"%d" % number, src="mallory")
    assert box.take() == [b"precious", b"47", b"48", b"49"]
    assert box.drops == {NodeDrop.HOLDING_FULL: 47}


def test_a_mailbox_is_bounded_in_bytes() -> None:
    box = Box(mailbox=11_000)
    for number in range(9):
        box.put(bytes([number]) * 4000)
    assert [text[0] for text in box.take()] == [7, 8]
    assert not box.put(bytes(11_001))


def test_one_host_cannot_fill_the_node() -> None:
    box = Box(limit=100_000)
    size = 100_000 // HOST_SHARE // 2 - ENTRY_OVERHEAD_BYTES - 10
    results = [box.put(bytes(size), dest=f"{n}.{KEY}") for n in range(4)]
    assert results == [True, True, False, False]
    assert box.put(b"other", host="other")
    for n in range(4):
        box.take(dest=f"{n}.{KEY}")
    assert box.put(bytes(size))


def test_a_stranger_with_many_keys_pushes_no_mail_of_others_out_of_a_mailbox() -> None:
    box = Box(messages=10)
    for text in (b"dear", b"bob"):
        box.put(text, src="alice", host="home")
    for number in range(50):
        box.put(b"spam", src=f"key {number}", host="elsewhere")
    assert box.take() == [b"dear", b"bob", *[b"spam"] * 8]


def test_the_node_is_bounded_and_the_expired_make_room() -> None:
    box = Box(limit=10_000)
    hosts = [box.put(bytes(1000), host=f"{n}", dest=f"{n}.{KEY}", until=10.0) for n in range(6)]
    assert hosts == [True] * 4 + [False] * 2
    assert box.put(bytes(1000), host="late", until=30.0, now=11.0)
    assert box.holding.held_messages == 1
    assert box.drops == {NodeDrop.HOLDING_FULL: 2, NodeDrop.HELD_TOO_LONG: 4}


def test_hosts_that_fill_the_node_give_way_to_others() -> None:
    """With keys by the thousand, each message for another destination."""
    box = Box(limit=100_000)
    for n in range(200):
        box.put(b"x", dest=f"{n}.{KEY}", host=f"hog {n % 2}")
    assert box.holding.held_bytes > 90_000
    for n in range(20):
        assert box.put(b"mail", dest=f"carol{n}.{KEY}", src="alice", host="home")
    assert all(box.take(dest=f"carol{n}.{KEY}") == [b"mail"] for n in range(20))
    assert box.holding.held_bytes <= 100_000
    assert box.put(b"x", dest=f"late.{KEY}", host="hog 0"), "there is room again"


def test_what_ends_all_at_once_is_forgotten_in_parts() -> None:
    box = Box(limit=10 << 20)
    for n in range(3 * EXPIRE_AT_ONCE):
        assert box.put(b"x", dest=f"{n}.{KEY}", until=10.0)
    steps = 0
    while (end := box.holding.next_end()) is not None:
        before = box.holding.held_messages
        box.holding.expire(end)
        assert before - box.holding.held_messages == EXPIRE_AT_ONCE
        steps += 1
    assert steps == 3


def test_the_list_of_ends_does_not_grow_without_bound() -> None:
    box = Box()
    for _ in range(5000):
        box.put(b"x", until=1e9)
        box.put(b"kept", dest="carol." + KEY, until=1e9)
        box.take()
    assert len(box.holding._ends) < 3000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "take", "expire"]),
            st.integers(0, 2),
            st.integers(0, 3),
            st.integers(0, 3000),
            st.integers(1, 9),
        ),
        max_size=60,
    )
)
def test_accounts_agree_with_what_is_there(steps: list[tuple[str, int, int, int, int]]) -> None:
    box = Box(limit=20_000, mailbox=8_000, messages=4)
    put = gone = 0
    for now, (what, dest, src, size, wait) in enumerate(steps):
        address = f"{dest}.{KEY}"
        if what == "put":
            put += 1
            box.put(bytes(size), dest=address, src=str(src), host=str(src), until=now + wait, now=now)
        elif what == "take":
            gone += len(box.take(now, address))
        else:
            box.holding.expire(now)
        boxes = box.holding._mailboxes.values()
        waiting = deque(held for one in boxes for held in one.messages)
        assert box.holding.held_messages == len(waiting) == put - gone - sum(box.drops.values())
        assert box.holding.held_bytes == sum(held.size_bytes for held in waiting) <= 20_000
        assert sum(host.size_bytes for host in box.holding._hosts.values()) == box.holding.held_bytes
        assert sum(len(host.mail) for host in box.holding._hosts.values()) == len(waiting)
        assert all(one.size_bytes <= 8_000 and 0 < len(one.messages) <= 4 for one in boxes)


# --- through the node ---


def offline_bob(**changes: Any) -> tuple[FakeClient, FakeClient]:
    node = make_node(**changes)
    return FakeClient(node).log_in(), FakeClient(node, "bob", b"b" * 32)


def test_a_held_message_arrives_at_login_in_order_before_new_ones() -> None:
    alice, bob = offline_bob()
    for text in (b"1", b"2"):
        alice.send(bob.address, text, max_holding_seconds=60)
    stats = alice.node.stats()
    assert (stats.held_messages, stats.messages, stats.drops) == (2, 0, {})
    bob.log_in(now=1.0)
    alice.send(bob.address, b"3", now=1.0)
    assert bob.payloads() == [b"1", b"2", b"3"]
    assert {message.src for message in bob.received()} == {alice.address}
    stats = alice.node.stats()
    assert (stats.held_messages, stats.held_bytes, stats.messages, stats.bytes) == (0, 0, 3, 3)


def test_who_wants_no_holding_gets_none() -> None:
    alice, bob = offline_bob()
    alice.send(bob.address, b"now or never")
    bob.log_in()
    assert bob.payloads() == []
    assert alice.node.stats().drops == {"unknown_dest": 1}


def test_an_address_has_a_rate_of_mail_whatever_its_keys() -> None:
    node = make_node(holding_rate_per_s=10.0)
    keys = [FakeClient(node, f"key{n}", bytes([n + 1]) * 32, host="203.0.113.1").log_in() for n in range(4)]
    alice = FakeClient(node).log_in()
    for n in range(400):
        keys[n % 4].send(f"{n}.{KEY}", b"x", max_holding_seconds=60)
    assert node.stats().held_messages == 40
    assert node.stats().drops == {"holding_full": 360}
    alice.send(BOB, b"x", max_holding_seconds=60)
    keys[0].send(BOB, b"x", now=1.0, max_holding_seconds=60)
    assert node.stats().held_messages == 42


def test_a_node_may_hold_nothing() -> None:
    alice, bob = offline_bob(holding_bytes=0)
    alice.send(bob.address, b"x", max_holding_seconds=60)
    assert alice.node.stats().drops == {"unknown_dest": 1}


@pytest.mark.parametrize("dest", ["", "bob", "bob." + "AB" * 32, "x" * 2000 + "." + KEY, "bob. " + KEY])
def test_nothing_is_held_for_what_can_never_log_in(dest: str) -> None:
    alice, _ = offline_bob()
    if dest:
        alice.send(dest, b"x", max_holding_seconds=60)
        assert alice.node.stats().drops == {"unknown_dest": 1}
    assert alice.node.stats().held_messages == 0


def test_held_for_as_long_as_its_sender_wants_and_no_longer_than_the_node() -> None:
    alice, bob = offline_bob(max_holding_s=100.0)
    alice.send(bob.address, b"10 s", max_holding_seconds=10)
    alice.send(bob.address, b"for ever", max_holding_seconds=0xFFFF_FFFF)
    bob.log_in(now=99.0)
    assert bob.payloads() == [b"for ever"]
    alice.node.closed(bob.connection)
    alice.send(bob.address, b"for ever", max_holding_seconds=0xFFFF_FFFF, now=200.0)
    late = FakeClient(alice.node, "bob", b"b" * 32, now=301.0).log_in(now=301.0)
    assert late.payloads() == []


def test_the_node_forgets_in_time_even_with_nobody_connected() -> None:
    alice, bob = offline_bob()
    alice.send(bob.address, b"x", max_holding_seconds=3600)
    node = alice.node
    for client in (alice, bob):
        node.closed(client.connection)
    while (deadline := node.poll_timeout()) is not None:
        node.handle_timeout(deadline.at)
    assert node.stats().held_messages == 0
    assert node.stats().drops == {"held_too_long": 1}


def test_a_client_that_reads_slowly_gets_its_mail_as_it_reads() -> None:
    alice, bob = offline_bob()
    for number in range(10):
        alice.send(bob.address, b"%d" % number, max_holding_seconds=60)
    bob.transport.takes = 3
    bob.log_in()
    assert bob.payloads() == [b"0", b"1", b"2"]
    alice.send(bob.address, b"new")  # behind the mail
    bob.transport.takes, bob.transport.writable = 4, True
    alice.send(bob.address, b"newer")  # before the node was told that it takes data again
    assert len(bob.payloads()) == 3
    bob.node.writable(bob.connection, 0.0)
    assert len(bob.payloads()) == 7
    bob.transport.takes, bob.transport.writable = None, True
    bob.node.writable(bob.connection, 0.0)
    assert bob.payloads() == [b"%d" % number for number in range(10)] + [b"new", b"newer"]
    alice.send(bob.address, b"direct")
    assert isinstance(bob.transport.parts[-1][1], memoryview)


def test_mail_that_was_not_sent_waits_for_the_next_login() -> None:
    alice, bob = offline_bob()
    for number in range(6):
        alice.send(bob.address, b"%d" % number, max_holding_seconds=60)
    bob.transport.takes = 2
    bob.log_in()
    again = FakeClient(alice.node, "bob", b"b" * 32)
    alice.node.closed(bob.connection)
    again.log_in()
    assert bob.payloads() + again.payloads() == [b"%d" % number for number in range(6)]


def test_the_newest_connection_of_an_address_takes_over_the_mail() -> None:
    alice, stuck = offline_bob()
    for number in range(6):
        alice.send(stuck.address, b"%d" % number, max_holding_seconds=60)
    stuck.transport.takes = 2
    stuck.log_in()
    fresh = FakeClient(alice.node, "bob", b"b" * 32).log_in()
    assert fresh.payloads() == [b"2", b"3", b"4", b"5"]
    stuck.transport.takes, stuck.transport.writable = None, True
    alice.node.writable(stuck.connection, 0.0)
    assert stuck.payloads() == [b"0", b"1"]


def test_a_verifying_node_asks_for_receipts_of_mail_too() -> None:
    node = make_node(verify_signatures=True)
    alice, bob = FakeClient(node).log_in(), FakeClient(node, "bob", b"b" * 32)
    alice.send_signed(bob.address, b"signed", max_holding_seconds=60)
    bob.log_in()
    (message,) = bob.received()
    bob.acknowledge(message)
    assert node.stats().receipts == 1
