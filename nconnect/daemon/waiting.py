"""Commands that wait for the interface or a peer: `up` for its first login, `nconnect wait`, `nconnect ping`.

Events that may end a wait call `notify`; then everyone who waits checks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nconnect.config.edit import unknown_peer
from nconnect.control.schema import PingReply
from nconnect.daemon import status
from nconnect.daemon.driver import Driver
from nconnect.daemon.events import Ready
from nconnect.daemon.host_state import HostState
from nconnect.errors import NetworkError
from nconnect.io.clock import boottime
from nconnect.io.nkn.links import Links, LinkWentDown
from nconnect.io.process.notify import ServiceManager
from nconnect.model import NknAddress
from nconnect.nkn.outputs import DownReason
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import Pong
from nconnect.tunnel.peer import Peer, PeerState
from nconnect.wire.tunnel import MAX_LINKS


class Waiting:
    """One interface's. `is_ready` is set once the interface can be used, `stop` when the daemon is to end."""

    def __init__(
        self,
        interface: str,
        address: NknAddress,
        tunnel: Tunnel,
        driver: Driver,
        links: Links,
        host_state: HostState,
        service: ServiceManager,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.is_ready = False
        self.stop = asyncio.Event()
        self._interface = interface
        self._address = address
        self._tunnel = tunnel
        self._driver = driver
        self._links = links
        self._host_state = host_state
        self._service = service
        self._clock = clock
        self._changed = asyncio.Event()  # replaced at each change
        self._why_link_0 = ""  # why link 0 could not come up; a spare link still may
        self._first_failure = ""
        self._pings: dict[tuple[str, int], asyncio.Future[Pong]] = {}

    def ready(self, _: Ready) -> None:
        self.is_ready = True
        self.notify()

    def request_stop(self) -> None:
        self.stop.set()
        self.notify()

    def notify(self, _: object = None) -> None:
        """Something that somebody waits for may have changed."""
        if self.is_ready and self._links.is_up:
            self._service.ready(f"{self._interface} is up as {self._address}")
        self._changed.set()
        self._changed = asyncio.Event()

    def link_went_down(self, event: LinkWentDown) -> None:
        """If link 0 cannot log in, and no spare link may either, the first login has failed.

        A changed network is no failure: the link begins again by itself.
        """
        if event.reason is DownReason.NETWORK_CHANGED:
            return
        if not event.link and event.reason is not DownReason.STOPPED:
            self._why_link_0 = event.why
        at_the_node = event.reason in (DownReason.UNREACHABLE, DownReason.TIMED_OUT, DownReason.STOPPED)
        if not (at_the_node and self._links.spare_may_help()):
            self._first_failure = self._first_failure or self._why_link_0
        self.notify()

    async def first_login(self) -> None:
        """Return at the first login. Raises `NetworkError` when it fails: then `up` ends with that."""
        while not self._links.is_up and not self.stop.is_set():
            if self._first_failure:
                raise NetworkError(f"{self._first_failure}; `nconnect up --keep-trying` goes on trying")
            await self._changed.wait()

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        """Return when all is up, and the session with `peer` too; see `control.server.Backend`."""
        if peer is not None:
            self._peer(peer)
        try:
            async with asyncio.timeout(timeout_s):
                while missing := self._missing(peer):
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{missing} after {timeout_s:g} s") from None

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        """One round trip to the peer's daemon; see `control.server.Backend`."""
        found = self._peer(peer)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        is_direct = not 0 <= found.path.lane.link < MAX_LINKS
        if found.state is not PeerState.UP or not is_direct:  # a direct path needs no link to a node
            await self.wait(peer, timeout_s)
        if (link := found.relayed.lane.link) < MAX_LINKS:  # a direct TCP stream has no node
            self._links.leg_s(link)
        ping_id = self._tunnel.ping(found, self._clock())
        if ping_id is None:
            raise TimeoutError(f"there is no session with {peer}")
        answered: asyncio.Future[Pong] = loop.create_future()
        self._pings[found.dest, ping_id] = answered
        try:
            self._driver.drain()
            async with asyncio.timeout_at(until):
                pong = await answered
        finally:
            self._pings.pop((found.dest, ping_id), None)
        if not 0 <= pong.link < MAX_LINKS:
            return PingReply(peer, pong.rtt_s * 1e3, path="direct")
        return status.ping_reply(peer, pong.rtt_s, self._links.runners[pong.link].link.rtt_s, pong.leg_s)

    def answered(self, pong: Pong) -> None:
        """A peer has answered a ping; `ping` may be waiting for it."""
        waiting = self._pings.pop((pong.peer.dest, pong.ping_id), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(pong)

    def _peer(self, name: str) -> Peer:
        found = self._tunnel.peer_named(name)
        if found is None:
            raise unknown_peer(name, (known.name for known in self._tunnel.peers.values()))
        return found

    def _missing(self, name: str | None) -> str:
        """What is missing, as a sentence; "" when everything is up."""
        if self._host_state.plan is None or not self.is_ready:
            return f"{self._interface} is not set up yet"
        if not self._links.is_up:
            return f"there is no link to a node ({self._links.link.last_error or 'still connecting'})"
        if name is not None:
            peer = self._tunnel.peer_named(name)
            if peer is None:
                return f"there is no peer {name}"
            if peer.state is not PeerState.UP:
                if self._tunnel.can_seal(peer, self._clock()):
                    self._tunnel.ping(peer, self._clock())
                self._driver.drain()
                return f"{name} does not answer"
        return ""
