"""Sequence numbers on the wire, 1 to 2^32 - 1 and then 1 again, and the plain counts that we keep instead.

A count starts at 0 for a session's first data packet and never wraps.
"""

from __future__ import annotations

SPAN = (1 << 32) - 1  # how many sequence numbers there are: 0 means "no data"


def to_wire(count: int) -> int:
    """The sequence number of data packet `count`; negative counts are those before the first one."""
    return count % SPAN + 1


def from_wire(sequence: int, near: int) -> int:
    """The count nearest to `near` that has this sequence number; it may be negative."""
    distance = (sequence - 1 - near) % SPAN
    return near + (distance - SPAN if distance > SPAN // 2 else distance)
