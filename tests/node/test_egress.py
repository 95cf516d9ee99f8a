"""The queue in front of one client, and its share of the node's memory."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nconnect.node.egress import Egress, Pool
from nconnect.node.settings import NodeDrop


def make(limit: int = 1000, pool: int = 10_000) -> tuple[Egress, Pool, Counter[NodeDrop]]:
    drops: Counter[NodeDrop] = Counter()
    account = Pool(pool)
    return Egress(limit, account, lambda reason: drops.update([reason])), account, drops


def test_one_sources_order_is_kept() -> None:
    egress, pool, drops = make()
    for n in range(5):
        egress.put(1, b"%d" % n, 0.0)
    assert pool.used_bytes == egress.size_bytes == 5
    assert [egress.take(0.0) for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", None]
    assert pool.used_bytes == 0
    assert not drops


def test_over_its_bound_the_fattest_source_loses_its_oldest() -> None:
    egress, _, drops = make(limit=1000)
    egress.put(2, b"light", 0.0)
    for n in range(20):
        egress.put(1, bytes((n,)) * 100, 0.0)
    assert egress.size_bytes <= 1000
    assert drops == {NodeDrop.QUEUE_FULL: 11}
    left = [egress.take(0.0) for _ in range(len(egress))]
    assert b"light" in left
    assert left[-1] == bytes((19,)) * 100


def test_nothing_is_dropped_for_its_age() -> None:
    """The window of an NCP session, 4 MiB, at 1 Mbit/s: its sender would only send again what is dropped."""
    egress, _, drops = make(limit=16 << 20, pool=256 << 20)
    now = 0.0
    for _ in range(64):
        egress.put(1, bytes(65_536), now)
    while egress.take(now) is not None:
        now += 0.5
    assert not drops


def test_the_pool_is_shared_out() -> None:
    pool, drops = Pool(1000), Counter[NodeDrop]()
    hog, other = (Egress(10_000, pool, lambda reason: drops.update([reason])) for _ in range(2))
    for _ in range(100):
        hog.put(1, bytes(10), 0.0)
    assert hog.size_bytes == 500, "a lone queue takes half"
    for _ in range(100):
        other.put(1, bytes(10), 0.0)
    assert other.size_bytes == 250, "and the next half of what is left"
    assert drops[NodeDrop.NODE_FULL] == 125
    hog.clear()
    assert pool.used_bytes == 250
    assert drops[NodeDrop.CLIENT_GONE] == 50


@given(st.lists(st.tuples(st.integers(-3, 5), st.integers(0, 400)), max_size=100))
def test_the_account_is_right(steps: list[tuple[int, int]]) -> None:
    egress, pool, drops = make(limit=1000, pool=1500)
    put = taken = 0
    for now, (source, size) in enumerate(steps):
        if source < 0:
            taken += egress.take(now * 0.1) is not None
        else:
            egress.put(source, bytes(size), now * 0.1)
            put += 1
        assert pool.used_bytes == egress.size_bytes <= 1000
        assert put == taken + len(egress) + drops.total()
