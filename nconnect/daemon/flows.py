"""Keeps the bounds on peers' connections in step with the connections that there are (`host.flow_limits`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

LOOK_S = 1.0  # a peer that has used up its share gets what has ended since
IDLE_S = 10.0  # the same while nothing comes: a device that is idle sleeps
REST = 20  # times as long as a look took: one of 65,536 connections takes 0.1 to 0.2 s of processor time


async def watch(
    received: Callable[[], Mapping[str, int]],
    renew: Callable[[Mapping[str, int]], Awaitable[None]],
    clock: Callable[[], float],
) -> None:
    """For ever. `received`: packets that have come from each peer."""
    rest, seen = LOOK_S, received()
    while True:
        await asyncio.sleep(rest)
        began, before, seen = clock(), seen, received()
        await renew(seen)
        rest = max(IDLE_S if seen == before else LOOK_S, REST * (clock() - began))
