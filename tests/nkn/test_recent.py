"""Duplicate removal, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nconnect.nkn.recent import KEEP_S, MAX_IDS, RecentIds

NAMES = st.sampled_from(["a", "b", "ab"])
IDS = st.sampled_from([b"", b"1", b"2", b"b1"])


@given(st.lists(st.tuples(st.floats(0.0, 40.0), NAMES, IDS), max_size=60))
def test_it_knows_what_a_list_knows(steps: list[tuple[float, str, bytes]]) -> None:
    recent = RecentIds(keep_s=100.0)
    now = 0.0
    seen: dict[tuple[str, bytes], float] = {}
    for pause, who, id in steps:
        now += pause
        seen = {key: at for key, at in seen.items() if now - at < 100.0}
        assert recent.has(who, id, now) is ((who, id) in seen)
        assert recent.add(who, id, now) is ((who, id) not in seen)
        seen.setdefault((who, id), now)
        assert len(recent) == len(seen)


def test_it_remembers_for_five_minutes() -> None:
    recent = RecentIds()
    assert recent.add("a", b"1", 0.0)
    assert not recent.add("a", b"1", KEEP_S - 1.0)
    assert recent.add("a", b"1", KEEP_S)
    assert KEEP_S == 300.0


def test_a_flood_pushes_out_the_oldest_and_no_more() -> None:
    recent = RecentIds(most=100)
    for n in range(1000):
        assert recent.add("a", b"%d" % n, float(n) / 1000)
        assert len(recent) <= 100
    assert recent.has("a", b"900", 1.0)
    assert not recent.has("a", b"899", 1.0)
    assert MAX_IDS <= 1 << 16
