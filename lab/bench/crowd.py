"""`python -m lab.bench.crowd SEED_RPC FIRST COUNT [PROVIDER [NETWORK]]`: many clients or users in a process.

Each has a link of its own with the machine of every client (`nkn.link`), but a lean shell (`lab.bench.lean`),
since they all share one processor; with PROVIDER (an NKN address) also a tunnel core of its own with that
one peer, but no TUN; with NETWORK (an IPv4 prefix whose addresses this machine has) each user has one of
these addresses, and looks for a direct path by UDP from there, which a ping every 15 to 30 s keeps.

Whenever the numbers have changed it prints a JSON object, at most 20 times a second: {"at":
time.monotonic(), "began", "links", "sessions", "direct", "why"}; began is when the first link was started,
why has the most frequent reasons for which links broke or did not come to be. Ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv4Network, ip_network
from itertools import islice, repeat

import uvloop

from lab.attack.packets import ICMP, ipv4
from lab.bench.lean import LeanLink
from lab.ping import echo_request
from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.io.clock import boottime
from nconnect.io.net.datagrams import DatagramSocket
from nconnect.io.process.process import collect_rarely
from nconnect.model import Buffer, Endpoint, NknAddress, PeerConfig
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.constants import MAX_BATCH_BYTES
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import (
    DirectChanged,
    Send,
    SendDatagram,
    SessionLost,
    SessionUp,
    Settings,
)
from nconnect.tunnel.paths.datagrams import UDP_LINK
from nconnect.tunnel.paths.direct.candidates import LocalAddress, Network, Route
from nconnect.tunnel.paths.direct.outputs import PathState
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.timers import NEVER
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES

PROVIDER = "10.86.0.1"
AT_ONCE = 32  # that connect at the same time: more would measure the backlog of a listening socket
SEARCH_AT_ONCE = 4  # a round trip measured while this process is busy makes a direct path look slow
REPORT_S = 0.05
PING_S = 30.0  # an idle path is let go after two minutes
FIRST_HOST = 2  # of the network: the router is 1
_OPENED = memoryview(bytearray(1 << 16))
_SEALED = memoryview(bytearray(1 << 16))
_ARENA = bytearray(MAX_BATCH_BYTES)


def identity(number: int) -> Identity:
    """The key of user `number`, the same in every process, so that a provider can be configured for it."""
    return Identity(hashlib.sha256(b"nconnect bench, user %d" % number).digest())


def user_address(number: int) -> str:
    return str(NknAddress(f"u{number}", identity(number).public_key))


def tunnel_address(number: int) -> str:
    """An address in 10.86.0.0/16, but not in 10.86.0.0/24, which the bench uses itself."""
    return f"10.86.{1 + number // 250}.{1 + number % 250}"


def hosts(network: IPv4Network, count: int) -> list[IPv4Interface]:
    """Where the users of a process are."""
    found = islice(network.hosts(), FIRST_HOST - 1, FIRST_HOST - 1 + count)
    return [IPv4Interface((address, network.prefixlen)) for address in found]


class User:
    """A client, and the user of a tunnel if there is a provider."""

    def __init__(
        self, number: int, seed_rpc: str, provider: str | None, home: IPv4Interface | None, crowd: Crowd
    ) -> None:
        """`home`: where it is, if it looks for a direct path."""
        self.is_up = False
        self.sessions = 0
        self.is_direct = self._searches = False
        self._crowd = crowd
        self._has_started = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._tunnel: Tunnel | None = None
        self._datagrams: DatagramSocket | None = None
        self._ping = bytearray(VIRTIO_HEADER_BYTES) + ipv4(
            tunnel_address(number), PROVIDER, ICMP, echo_request(1, 1)
        )
        key = identity(number)
        address = NknAddress(f"u{number}", key.public_key)
        now = boottime()
        if provider is not None:
            peer = PeerConfig("provider", NknAddress.parse(provider), (ip_network(f"{PROVIDER}/32"),))
            self._tunnel = Tunnel(
                key,
                address,
                (peer,),
                Settings(suite=CipherSuite.AES256GCM),
                now=now,
                rng=os.urandom,
                wall_clock_ns=time.time_ns,
                surroundings=None if home is None else self._surroundings(home),
            )
        self.link = LeanLink(Link(key, address, (seed_rpc,), now=now, rng=os.urandom), self)

    def _surroundings(self, home: IPv4Interface) -> Surroundings:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        bound.bind((str(home.ip), 0))
        self._datagrams = DatagramSocket(bound)
        asyncio.get_running_loop().add_reader(bound.fileno(), self._on_datagrams)
        routes = (Route(ip_network("0.0.0.0/0")), Route(home.network))
        return Surroundings(self._datagrams.port, network=Network((LocalAddress(home),), routes))

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
        """The link, and what else it is to have, is there; the search of a direct path may have failed."""
        if not self._has_started:
            self._has_started = True
            self._crowd.begin_another()

    def on_message(self, message: InboundMessage) -> None:
        if self._tunnel is not None:
            self._tunnel.receive(message.src, memoryview(message.payload), _OPENED, boottime())
            self._drain()

    def _on_datagrams(self) -> None:
        assert self._tunnel is not None
        assert self._datagrams is not None
        now = boottime()
        for source, run, segment in self._datagrams.receive(16):
            self._tunnel.receive_datagrams(source, run, segment, now)
        self._tunnel.datagrams.flush(now)
        self._drain()

    def _send_ping(self) -> None:
        """By the way that packets take now."""
        tunnel, now = self._tunnel, boottime()
        assert tunnel is not None
        asyncio.get_running_loop().call_later(PING_S * random.uniform(0.5, 1.0), self._send_ping)
        if not self.sessions:
            return
        (peer,) = tunnel.peers.values()
        tunnel.enqueue(peer, bytearray(self._ping), now)
        for link in (0, UDP_LINK):
            while (batch := tunnel.next_batch(_ARENA, now, link=link)) is not None:
                _, size, _, lane = batch
                view = memoryview(_ARENA)[:size]
                if link == UDP_LINK:
                    assert peer.direct is not None
                    assert peer.direct.remote is not None
                    for parts, segment in tunnel.seal_datagrams(peer, view, now):
                        self._send(peer.direct.remote, parts, segment)
                else:
                    prefix, n = tunnel.seal(peer, view, _SEALED, lane)
                    self.link.send(lane.dest, (prefix, _SEALED[:n]))
                tunnel.sent(peer, lane, size, now)
        self._drain()

    def _send(self, to: Endpoint, parts: Iterable[Buffer], segment: int, ttl: int | None = None) -> None:
        assert self._datagrams is not None
        self._datagrams.send(to, tuple(parts), segment, ttl=ttl)

    def _drain(self) -> None:
        assert self._tunnel is not None
        while (output := self._tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                self.link.send(output.dest, (output.payload,))
            elif isinstance(output, SendDatagram):
                self._send(output.to, output.parts, output.segment, output.ttl)
            elif isinstance(output, DirectChanged):
                state = output.peer.direct.state if output.peer.direct is not None else None
                self.is_direct = state is PathState.DIRECT
                if self.is_direct or (state is PathState.RELAY and self._searches):
                    self._started()
                self._searches = state is PathState.SEARCH
                self._crowd.changed()
            elif isinstance(output, SessionUp):
                if self._datagrams is None:
                    self._started()
                elif not self._has_started and not self.sessions:
                    asyncio.get_running_loop().call_soon(self._send_ping)
                self.sessions = 1
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

    def __init__(
        self, seed_rpc: str, first: int, count: int, provider: str | None, network: IPv4Network | None
    ) -> None:
        homes: Iterable[IPv4Interface | None] = repeat(None)
        self._at_once = AT_ONCE
        if network is not None:
            homes = hosts(network, count)
            self._at_once = SEARCH_AT_ONCE
        self._users = [
            User(number, seed_rpc, provider, home, self)
            for number, home in zip(range(first, first + count), homes, strict=False)
        ]
        self._waiting = iter(self._users)
        self._began = 0.0
        self.reasons: Counter[str] = Counter()
        self._reporting: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        collect_rarely()
        self._began = time.monotonic()
        for _ in range(self._at_once):
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
        direct = sum(user.is_direct for user in self._users)
        said = {"at": time.monotonic(), "began": self._began}
        said |= {"links": links, "sessions": sessions, "direct": direct}
        print(json.dumps({**said, "why": dict(self.reasons.most_common(3))}), flush=True)


async def _main() -> None:
    seed_rpc, first, count, *tunnel = sys.argv[1:]
    provider = tunnel[0] if tunnel else None
    network = IPv4Network(tunnel[1]) if len(tunnel) > 1 else None
    await Crowd(seed_rpc, int(first), int(count), provider, network).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
