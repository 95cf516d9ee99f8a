"""When a websocket may send: a `Pacer`, told what the kernel knows of the connection (TCP_INFO)."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from nconnect.io.clock import boottime
from nconnect.io.net import tcp_info
from nconnect.io.net.congestion import CongestionControl
from nconnect.queueing.pacer import Pacer

# How often the kernel is asked about a connection that sends. The pacer wants 10 to 20 ms.
SAMPLE_INTERVAL_S = 0.015
# Where less was sent in that time, there is no queue worth knowing of, and the kernel is asked less often.
SPARSE_BYTES = 4096
SPARSE_INTERVAL_S = 0.1  # below what the pacer takes for a pause
RECEIVER_LIMITED = 0.1  # guessed: held back by its window for more of the time, the receiver is slow


class PacedSocket(Protocol):
    """The websocket, as its pacing knows it."""

    writable: bool
    unsent_bytes: int
    rate: float | None

    def resume(self) -> None:
        """There is a budget again."""


class Pacing:
    """One connection's. It sets its owner's `writable` to False, and `rate`."""

    __slots__ = (
        "_congestion", "_loop", "_owner", "_receiver_limited_s", "_sampled_at", "_socket", "_unsampled_bytes",
        "pacer", "timer",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, owner: PacedSocket, loop: asyncio.AbstractEventLoop) -> None:
        self.pacer = Pacer(boottime())
        self.timer: asyncio.TimerHandle | None = None
        self._socket = sock
        self._owner = owner
        self._loop = loop
        self._sampled_at = 0.0
        self._unsampled_bytes = 0  # sent since
        self._receiver_limited_s = 0.0
        self._congestion = CongestionControl()

    @property
    def budget(self) -> int:
        """How many bytes may be sent now."""
        return self.pacer.budget(boottime())

    def sent(self, size: int) -> None:
        """Account for what was sent, and hold back when that is enough for now."""
        now = boottime()
        pacer, owner = self.pacer, self._owner
        pacer.sent(now, size)
        self._unsampled_bytes += size
        since_s = now - self._sampled_at
        if since_s >= SAMPLE_INTERVAL_S and (
            self._unsampled_bytes >= SPARSE_BYTES
            or since_s >= SPARSE_INTERVAL_S
            or pacer.rate is not None
            or owner.unsent_bytes
        ):
            self._sample(now)
        wait_s = SAMPLE_INTERVAL_S
        if pacer.rate is not None and not owner.unsent_bytes and not pacer.budget(now):
            owner.writable = False
            wait_s = min(wait_s, pacer.next_at(now) - now)
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
        if self.timer is None and (owner.unsent_bytes or pacer.rate is not None):
            self.timer = self._loop.call_later(wait_s, self.look)

    def look(self) -> None:
        """See whether more may be sent, and look again later if not."""
        self.timer = None
        pacer, owner = self.pacer, self._owner
        now = boottime()
        if now >= self._sampled_at + SAMPLE_INTERVAL_S:
            self._sample(now)
        if owner.unsent_bytes or not pacer.budget(now):
            wait_s = SAMPLE_INTERVAL_S
            if not owner.unsent_bytes:
                wait_s = min(wait_s, pacer.next_at(now) - now)
            self.timer = self._loop.call_later(wait_s, self.look)
        elif not owner.writable:
            owner.resume()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _sample(self, now: float) -> None:
        since_s, self._sampled_at, self._unsampled_bytes = now - self._sampled_at, now, 0
        try:
            info = tcp_info.read(self._socket)
        except OSError:
            return  # gone; the next send or receive says so
        self._congestion.look(self._socket, info)
        limited_s = info.receiver_limited_s - self._receiver_limited_s
        self._receiver_limited_s = info.receiver_limited_s
        self.pacer.sample(
            now,
            acked_bytes=info.acked_bytes,
            in_flight_bytes=info.in_flight_bytes,
            unsent_bytes=info.unsent_bytes + self._owner.unsent_bytes,
            rtt_s=info.rtt_s,
            min_rtt_s=info.min_rtt_s,
            busy_s=info.busy_s,
            limited_elsewhere=limited_s > RECEIVER_LIMITED * since_s,
        )
        self._owner.rate = self.pacer.rate
