"""Unknown addresses that tried: bounded, and who goes on trying stays."""

from __future__ import annotations

from nconnect.tunnel.constants import MAX_PENDING_SENDERS
from nconnect.tunnel.pending import MAX_SOURCE_CHARS, PendingSenders


def test_times_and_count_of_each() -> None:
    pending = PendingSenders()
    for now in (1.0, 2.0, 5.0):
        pending.tried("a", now)
    pending.tried("b", 3.0)
    assert [(s.address, s.first_at, s.last_at, s.count) for s in pending] == [
        ("a", 1.0, 5.0, 3),
        ("b", 3.0, 3.0, 1),
    ]


def test_a_flood_of_addresses_does_not_push_out_who_goes_on_trying() -> None:
    pending = PendingSenders()
    pending.tried("again", 0.0)
    pending.tried("again", 1.0)
    for number in range(10 * MAX_PENDING_SENDERS):
        pending.tried(str(number), 2.0 + number)
    addresses = [sender.address for sender in pending]
    assert len(addresses) == len(pending) == MAX_PENDING_SENDERS
    assert addresses[0] == "again"
    assert str(10 * MAX_PENDING_SENDERS - 1) in addresses


def test_who_is_a_peer_now_is_forgotten_and_what_is_no_address_never_kept() -> None:
    pending = PendingSenders()
    pending.tried("a", 0.0)
    pending.forget("a")
    pending.forget("never seen")
    pending.tried("x" * (MAX_SOURCE_CHARS + 1), 0.0)
    assert not len(pending)
