"""Who waits to be let in: newcomers, whose keys cost nothing, drive nobody out who still tries."""

from __future__ import annotations

from nconnect.tunnel.constants import MAX_PENDING_SENDERS, PENDING_SILENT_S
from nconnect.tunnel.pending import MAX_SOURCE_CHARS, PendingSenders


def addresses(pending: PendingSenders) -> set[str]:
    return {sender.address for sender in pending}


def test_newcomers_do_not_flush_who_still_tries() -> None:
    """A stranger with 80 keys, and one with many more than there is room for."""
    pending = PendingSenders()
    pending.tried("honest", 0.0)
    for second in range(600):
        for key in range(80):
            pending.tried(f"steady {key}", second)
        if second % 5 == 0:
            pending.tried("honest", second)
        assert "honest" in addresses(pending)
    for number in range(10 * MAX_PENDING_SENDERS):
        pending.tried(f"fresh {number}", 600.0)
    assert "honest" in addresses(pending)
    assert len(pending) == MAX_PENDING_SENDERS


def test_a_honest_device_that_comes_after_eighty_keys_finds_room() -> None:
    pending = PendingSenders()
    for key in range(80):
        pending.tried(f"steady {key}", 0.0)
    pending.tried("honest", 1.0)
    assert "honest" in addresses(pending)


def test_who_has_given_up_makes_room() -> None:
    pending = PendingSenders()
    for number in range(MAX_PENDING_SENDERS):
        pending.tried(str(number), float(number > 0))
    pending.tried("late", PENDING_SILENT_S - 1)
    assert "late" not in addresses(pending)
    pending.tried("late", PENDING_SILENT_S)
    assert addresses(pending) == {"late", *map(str, range(1, MAX_PENDING_SENDERS))}


def test_times_and_count_of_each() -> None:
    pending = PendingSenders()
    for now in (1.0, 2.0, 5.0):
        pending.tried("a", now)
    pending.tried("b", 5.0)
    assert [(s.address, s.first_at, s.last_at, s.count) for s in pending] == [
        ("a", 1.0, 5.0, 3),
        ("b", 5.0, 5.0, 1),
    ]


def test_who_is_a_peer_now_is_forgotten_and_what_is_no_address_never_kept() -> None:
    pending = PendingSenders()
    pending.tried("a", 0.0)
    pending.forget("a")
    pending.forget("never seen")
    pending.tried("x" * (MAX_SOURCE_CHARS + 1), 0.0)
    assert not len(pending)
