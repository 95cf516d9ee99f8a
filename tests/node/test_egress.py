"""The queue in front of one client, and its share of the node's memory."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nconnect.node.egress import MESSAGE_BYTES, Account, Egress, Pool
from nconnect.node.settings import NodeDrop

LIGHT, HEAVY = 2, 1  # sources


def make(limit: int = 1 << 20, pool: int = 10 << 20) -> tuple[Egress, Pool, Counter[NodeDrop]]:
    drops: Counter[NodeDrop] = Counter()
    shared = Pool(pool)
    return Egress(limit, Account(shared), lambda reason: drops.update([reason])), shared, drops


def sized(size: int, fill: int = 0) -> bytes:
    """A message that counts as so many bytes."""
    return bytes((fill,)) * (size - MESSAGE_BYTES)


def test_one_senders_order_is_kept() -> None:
    egress, pool, drops = make()
    for n in range(5):
        egress.put(1, 7, b"%d" % n, 0.0)
    assert pool.used_bytes == egress.size_bytes == 5 * (1 + MESSAGE_BYTES)
    assert [egress.take(0.0) for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", None]
    assert pool.used_bytes == 0
    assert not drops


def test_over_its_bound_the_fattest_source_loses_its_oldest() -> None:
    egress, _, drops = make(limit=20_000)
    egress.put(LIGHT, 1, b"light", 0.0)
    for n in range(40):
        egress.put(HEAVY, n % 20, sized(1000, n), 0.0)
    assert egress.size_bytes <= 20_000
    assert drops == {NodeDrop.QUEUE_FULL: 21}
    left = [egress.take(0.0) for _ in range(len(egress))]
    assert b"light" in left
    assert left[-1] == sized(1000, 39)


def test_many_connections_of_one_source_get_one_turn() -> None:
    """A flood from 500 connections of one address, and a bulk transfer of another."""
    egress, _, _ = make(limit=100 << 20, pool=1000 << 20)
    for n in range(4000):
        egress.put(HEAVY, n % 500, sized(10_000, 1), 0.0)
    for _ in range(1000):
        egress.put(LIGHT, 1, sized(10_000, 2), 0.0)
    first = [egress.take(0.0) for _ in range(1000)]
    assert 450 < first.count(sized(10_000, 2)) < 550, "half of what leaves is the other source's"


def test_small_messages_are_no_way_to_more_than_a_turn() -> None:
    egress, _, _ = make(limit=100 << 20, pool=1000 << 20)
    for _ in range(20_000):
        egress.put(HEAVY, 1, b"x", 0.0)
        egress.put(LIGHT, 1, bytes(5_000), 0.0)
    first = [egress.take(0.0) for _ in range(2000)]
    small = first.count(b"x")
    large = len(first) - small
    assert small * (1 + MESSAGE_BYTES) < 1.5 * large * (5_000 + MESSAGE_BYTES) + (128 << 10)


def test_what_was_idle_goes_first() -> None:
    egress, _, _ = make()
    for _ in range(50):
        egress.put(HEAVY, 1, sized(10_000), 0.0)
    for _ in range(10):
        egress.take(0.0)
    egress.put(LIGHT, 1, b"ping", 0.0)
    assert egress.take(0.0) == b"ping"


def test_nothing_is_dropped_for_its_age() -> None:
    """The window of an NCP session, 4 MiB, at 1 Mbit/s: its sender would only send again what is dropped."""
    egress, _, drops = make(limit=8 << 20, pool=24 << 20)
    now = 0.0
    for _ in range(64):
        egress.put(1, 1, bytes(65_536), now)
    while egress.take(now) is not None:
        now += 0.5
    assert not drops


def test_the_pool_is_shared_out_between_receiving_addresses() -> None:
    pool, drops = Pool(1_000_000), Counter[NodeDrop]()
    hogs, other = Account(pool), Account(pool)

    def queue(account: Account) -> Egress:
        return Egress(10 << 20, account, lambda reason: drops.update([reason]))

    deaf = [queue(hogs) for _ in range(100)]
    for n in range(2000):
        deaf[n % 100].put(1, 1, sized(1000), 0.0)
    assert hogs.used_bytes == 500_000, "however many clients, one address takes half"
    late = queue(other)
    for _ in range(2000):
        late.put(1, 1, sized(1000), 0.0)
    assert other.used_bytes == 250_000, "and the next half of what is left"
    assert drops[NodeDrop.NODE_FULL] == 1500 + 1750
    for egress in deaf:
        egress.clear()
    assert pool.used_bytes == 250_000
    assert drops[NodeDrop.CLIENT_GONE] == 500


@given(st.lists(st.tuples(st.integers(-3, 5), st.integers(0, 3), st.integers(0, 4000)), max_size=100))
def test_the_account_is_right(steps: list[tuple[int, int, int]]) -> None:
    egress, pool, drops = make(limit=10_000, pool=15_000)
    put = taken = 0
    for now, (source, sender, size) in enumerate(steps):
        if source < 0:
            taken += egress.take(now * 0.1) is not None
        else:
            egress.put(source, sender, bytes(size), now * 0.1)
            put += 1
        assert pool.used_bytes == egress.size_bytes == egress.account.used_bytes <= 10_000
        assert put == taken + len(egress) + drops.total()
    egress.clear()
    assert pool.used_bytes == 0
