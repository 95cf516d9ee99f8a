"""What peers used, on a real disk: added up, kept, pruned, and not lost with a file that is damaged."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from nconnect.errors import HostError
from nconnect.io.files.usage_store import (
    DAY_S,
    HOUR_S,
    KEPT_DAYS,
    KEPT_HOURS,
    NAME,
    KnownPeer,
    UsageStore,
    Used,
    UsedIn,
    stored_in,
)

NOW = 1_790_000_000 // DAY_S * DAY_S  # a day begins
ALICE, BOB = KnownPeer("a1", "alice", NOW + 5.0), KnownPeer("b1", "bob", None)


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path)


def test_hours_and_days_are_added_up_and_outlive_the_process(store: UsageStore, tmp_path: Path) -> None:
    store.add([UsedIn("a1", NOW, Used(1, 2, 3, 0.5)), UsedIn("b1", NOW, Used(7))], [ALICE, BOB])
    store.add([UsedIn("a1", NOW, Used(10, 20, 30, 1.0))], [])
    store.add([UsedIn("a1", NOW + HOUR_S, Used(100, 200)), UsedIn("a1", NOW + DAY_S, Used(5))], [])
    # Without `close`, as after SIGKILL.
    again = UsageStore(tmp_path)
    assert again.hours(NOW) == [
        UsedIn("a1", NOW, Used(11, 22, 33, 1.5)),
        UsedIn("b1", NOW, Used(7)),
        UsedIn("a1", NOW + HOUR_S, Used(100, 200)),
        UsedIn("a1", NOW + DAY_S, Used(5)),
    ]
    assert again.days(NOW) == [
        UsedIn("a1", NOW, Used(111, 222, 33, 1.5)),
        UsedIn("b1", NOW, Used(7)),
        UsedIn("a1", NOW + DAY_S, Used(5)),
    ]
    assert [row.at for row in again.hours(NOW + HOUR_S)] == [NOW + HOUR_S, NOW + DAY_S]
    assert again.peers() == [ALICE, BOB]
    again.close()
    store.close()


def test_a_new_name_counts_and_an_unknown_time_does_not(store: UsageStore) -> None:
    store.add([], [ALICE])
    store.add([], [KnownPeer("a1", "alice-2", None)])
    assert store.peers() == [KnownPeer("a1", "alice-2", NOW + 5.0)]
    store.close()


def test_the_file_is_its_owners_alone(store: UsageStore, tmp_path: Path) -> None:
    store.add([UsedIn("a1", NOW, Used(1))], [])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys((NAME, f"{NAME}-shm", f"{NAME}-wal"), 0o600)
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_link_is_not_followed(store: UsageStore, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / NAME).symlink_to(target)
    with pytest.raises(HostError, match="is a link"):
        store.add([UsedIn("a1", NOW, Used(1))], [])
    assert not target.exists()
    assert "cannot be written" in store.problem


@pytest.mark.parametrize(
    "damage", [b"", b"not a database, and longer than a header of one hundred bytes " * 9]
)
def test_a_damaged_file_is_kept_aside(store: UsageStore, tmp_path: Path, damage: bytes) -> None:
    store.add([UsedIn("a1", NOW, Used(1))], [])
    store.close()
    (tmp_path / NAME).write_bytes(damage)
    store.add([UsedIn("a1", NOW, Used(2))], [])
    assert store.hours(NOW) == [UsedIn("a1", NOW, Used(2))]
    assert (tmp_path / f"{NAME}.corrupt").exists() is bool(damage)  # an empty one is a new one
    store.close()


def test_what_cannot_be_written_is_said_and_later_can(store: UsageStore) -> None:
    store.add([UsedIn("a1", NOW, Used(1))], [])
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count = 1")  # as a full disk
    many = [UsedIn(f"{n:0500}", NOW, Used(1)) for n in range(2000)]
    with pytest.raises(HostError, match=r"cannot be written: database or disk is full"):
        store.add(many, [])
    assert "make room" in store.problem
    assert store.hours(NOW) == [UsedIn("a1", NOW, Used(1))]  # nothing of it
    store.add(many, [])
    assert store.problem == ""
    assert len(store.hours(NOW)) == 2001
    store.close()


def test_old_periods_are_pruned(store: UsageStore) -> None:
    old_hour, old_day = NOW - KEPT_HOURS * HOUR_S, NOW - KEPT_DAYS * DAY_S
    rows = [UsedIn("a1", at, Used(1)) for at in (old_day - DAY_S, old_day, old_hour - HOUR_S, old_hour, NOW)]
    gone = KnownPeer("c1", "carl", old_day - 1.0)
    store.add(rows, [ALICE, BOB, gone])
    store.prune(NOW)
    assert [row.at for row in store.hours(0)] == [old_hour, NOW]
    assert next(row.at for row in store.days(0)) == old_day
    assert store.peers() == [ALICE, BOB]
    store.close()


def test_who_only_looks_makes_no_file(tmp_path: Path, store: UsageStore) -> None:
    assert stored_in(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    store.add([], [ALICE])
    store.close()
    found = stored_in(tmp_path)
    assert found is not None
    assert found.peers() == [ALICE]
    found.close()


def test_the_file_can_be_read_by_other_programs(store: UsageStore, tmp_path: Path) -> None:
    store.add([UsedIn("a1", NOW, Used(1, 2, 3, 4.0))], [])
    with sqlite3.connect(tmp_path / NAME) as other:
        assert other.execute("SELECT peer, at, rx, tx, flows, connected_s FROM days").fetchall() == [
            ("a1", NOW // DAY_S, 1, 2, 3, 4.0)
        ]
    other.close()
    store.close()
