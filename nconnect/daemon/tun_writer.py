"""The way into the TUN: packets are written at once, as far as this turn of the loop has time for them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Sequence

from nconnect.daemon.inflow import TURN_PACKETS, Inflow
from nconnect.daemon.seams import Device
from nconnect.errors import DropReason
from nconnect.ip import offload
from nconnect.tunnel.timers import NEVER

_STAY_S = 1.0  # guessed: a move may put packets out of order, once


class TunWriter:
    """Writes to one queue of the device, so that flows that are answered are read from there too."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop, drops: Counter[DropReason]) -> None:
        """`drops`: where to count what is not written."""
        self.fd = device.fds[0]  # the queue that is written to
        self._device = device
        self._loop = loop
        self._drops = drops
        self._moved_at = -NEVER
        self._inflow = Inflow()

    def stop(self) -> None:
        """Forget what waits."""
        self._inflow = Inflow()

    def make_way(self, now: float) -> None:
        """Write to another queue from now on: flows that are answered leave the flooded one."""
        if now - self._moved_at >= _STAY_S:
            self._moved_at = now
            fds = self._device.fds
            self.fd = fds[(fds.index(self.fd) + 1) % len(fds)]

    def write(self, source: str | None, packets: Sequence[memoryview]) -> None:
        """Write packets, or keep copies of those for which this turn of the loop has no room.

        `source`: under whose keys they came; sources take turns. None: write them now.
        """
        inflow = self._inflow
        if source is not None and (inflow.left < len(packets) or inflow.waiting):
            packets = self._hold_back(source, packets)
        inflow.left -= len(packets)
        if inflow.left < TURN_PACKETS // 2 and not inflow.is_counted:
            self._count_turn()
        for record in packets:
            try:
                os.write(self.fd, record)
            except OSError as error:
                if error.errno == errno.EINVAL and record[1] == offload.GSO_UDP_L4:
                    # Some kernels grant USO and refuse it (e269d79c61d3, in 6.6.44 and a few besides).
                    self.write(None, [memoryview(piece) for piece in offload.split(record)])
                    continue
                self._drops[DropReason.TUN_REFUSED] += 1

    def _hold_back(self, source: str, packets: Sequence[memoryview]) -> Sequence[memoryview]:
        """Those that may be written in this turn; the others wait."""
        inflow = self._inflow
        room = 0 if inflow.holds(source) else max(0, inflow.left)
        if packets[room:]:
            if lost := inflow.put(source, packets[room:]):
                self._drops[DropReason.QUEUE_FULL] += lost
            self._count_turn()
        return packets[:room]

    def _count_turn(self) -> None:
        if not self._inflow.is_counted:
            self._inflow.is_counted = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._inflow.left, self._inflow.is_counted = TURN_PACKETS, False
        if self._inflow.waiting:
            self.write(None, self._inflow.take(TURN_PACKETS))
            self._count_turn()
