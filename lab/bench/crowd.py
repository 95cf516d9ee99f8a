"""`python -m lab.bench.crowd SEED_RPC FIRST COUNT [PROVIDER]`: many clients, or many users, in one process.

Each has a link of its own with the machine of every client (`nkn.link`), but a lean shell (`lab.bench.lean`),
since they all share one processor; with PROVIDER (an NKN address) also a tunnel core of its own with that
one peer, but no TUN. Whenever the numbers have changed it prints a JSON object, at most 20 times a second:
{"at": time.monotonic(), "began", "links", "sessions", "why"}; began is when the first link was started, why
has the most frequent reasons for which links broke or did not come to be. Ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from ipaddress import ip_network

import uvloop

from lab.bench.lean import LeanLink
from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.io.clock import boottime
from nconnect.io.process.process import collect_rarely
from nconnect.model import NknAddress, PeerConfig
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Send, SessionLost, SessionUp, Settings
from nconnect.tunnel.timers import NEVER
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage

AT_ONCE = 32  # that connect at the same time: more would measure the backlog of a listening socket
REPORT_S = 0.05
_OPENED = memoryview(bytearray(1 << 16))


def identity(number: int) -> Identity:
    """The key of user `number`, the same in every process, so that a provider can be configured for it."""
    return Identity(hashlib.sha256(b"nconnect bench, user %d" % number).digest())


def user_address(number: int) -> str:
    return str(NknAddress(f"u{number}", identity(number).public_key))


def tunnel_address(number: int) -> str:
    """An address in 10.86.0.0/16, but not in 10.86.0.0/24, which the bench uses itself."""
    return f"10.86.{1 + number // 250}.{1 + number % 250}"


class User:
    """A client, and the user of a tunnel if there is a provider."""

    def __init__(self, number: int, seed_rpc: str, provider: str | None, crowd: Crowd) -> None:
        self.is_up = False
        self.sessions = 0
        self._crowd = crowd
        self._has_started = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._tunnel: Tunnel | None = None
        key = identity(number)
        address = NknAddress(f"u{number}", key.public_key)
        now = boottime()
        if provider is not None:
            peer = PeerConfig("provider", NknAddress.parse(provider), (ip_network("10.86.0.1/32"),))
            self._tunnel = Tunnel(
                key,
                address,
                (peer,),
                Settings(suite=CipherSuite.AES256GCM),
                now=now,
                rng=os.urandom,
                wall_clock_ns=time.time_ns,
            )
        self.link = LeanLink(Link(key, address, (seed_rpc,), now=now, rng=os.urandom), self)

    def on_up(self, node: NodeInfo) -> None:
        self.is_up = True
        if self._tunnel is None:
            self._started()
        else:
            self._tunnel.link_up(boottime())
            self._drain()
        self._crowd.changed()

    def on_down(self, why: str, reason: DownReason) -> None:
        self.is_up = False
        self._crowd.reasons[why] += 1
        self._crowd.changed()

    def on_writable(self) -> None: ...

    def _started(self) -> None:
        """The link, and with a provider the session, is up. Count it if it is the first time."""
        if not self._has_started:
            self._has_started = True
            self._crowd.begin_another()

    def on_message(self, message: InboundMessage) -> None:
        if self._tunnel is not None:
            self._tunnel.receive(message.src, memoryview(message.payload), _OPENED, boottime())
            self._drain()

    def _drain(self) -> None:
        assert self._tunnel is not None
        while (output := self._tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                self.link.send(output.dest, (output.payload,))
            elif isinstance(output, SessionUp):
                self.sessions = 1
                self._started()
                self._crowd.changed()
            elif isinstance(output, SessionLost):
                self.sessions = 0
                self._crowd.changed()
        at = self._tunnel.next_at()
        if at != self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = None
            if at != NEVER:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(max(0.0, at - boottime()), self._on_timer)

    def _on_timer(self) -> None:
        assert self._tunnel is not None
        self._timer, self._timer_at = None, NEVER
        self._tunnel.handle_timeout(boottime())
        self._drain()


class Crowd:
    """All users of this process."""

    def __init__(self, seed_rpc: str, first: int, count: int, provider: str | None) -> None:
        self._users = [User(number, seed_rpc, provider, self) for number in range(first, first + count)]
        self._waiting = iter(self._users)
        self._began = 0.0
        self.reasons: Counter[str] = Counter()
        self._reporting: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        collect_rarely()
        self._began = time.monotonic()
        for _ in range(AT_ONCE):
            self.begin_another()
        await ended.wait()
        for user in self._users:
            user.link.close()

    def begin_another(self) -> None:
        """One that was started is up: start the next."""
        user = next(self._waiting, None)
        if user is not None:
            user.link.start()

    def changed(self) -> None:
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(REPORT_S, self._report)

    def _report(self) -> None:
        self._reporting = None
        links = sum(user.is_up for user in self._users)
        sessions = sum(user.sessions for user in self._users)
        said = {"at": time.monotonic(), "began": self._began, "links": links, "sessions": sessions}
        print(json.dumps({**said, "why": dict(self.reasons.most_common(3))}), flush=True)


async def _main() -> None:
    seed_rpc, first, count, *provider = sys.argv[1:]
    await Crowd(seed_rpc, int(first), int(count), provider[0] if provider else None).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
