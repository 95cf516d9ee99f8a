"""The direct TCP streams of one interface: listens, dials while there is traffic, gives them to the driver.

`nconnect.tunnel.paths.stream` decides whom to let in, when to dial, and which of two streams stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket
from typing import Protocol

from nconnect.daemon.seams import DriverStream
from nconnect.errors import DropReason, NetworkError
from nconnect.io.clock import boottime
from nconnect.io.net.stream_dial import dial_first
from nconnect.io.net.stream_link import StreamLink
from nconnect.io.net.streams import StreamListener
from nconnect.model import Endpoint, NknAddress
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import StreamEnds
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.paths.stream.dialling import PeerDialler
from nconnect.tunnel.paths.stream.keys import StreamKeys
from nconnect.tunnel.peer import Peer

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often it is looked whom to dial, while there are packets
_IDLE_LOOK_S = 10.0  # and otherwise: an idle daemon sleeps
_BUSY_S = 10.0  # a peer without packets for so long is not dialled


class StreamUser(Protocol):
    """Who uses streams: the driver."""

    def add_stream(self, link: DriverStream) -> bool:
        """Use it from now on. False if its peer has no session, or is gone."""

    def drop_stream(self, link: DriverStream) -> None:
        """It is closed."""

    def flush(self) -> None:
        """Send what waits."""


class _Known:
    """What is known of one peer."""

    def __init__(self, dialler: PeerDialler) -> None:
        self.dialler = dialler
        self.link: StreamLink | None = None
        self.told: object = None  # the list of candidates, and the network, that the dialler has
        self.packets = 0
        self.busy_until = 0.0


class Streams:
    """`run` is a task. Everything else may be called while it runs."""

    def __init__(
        self,
        address: NknAddress,
        tunnel: Tunnel,
        user: StreamUser,
        surroundings: Surroundings,
        listeners: Sequence[socket],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`listeners`: from `io.net.streams.bind`; closed here."""
        self._address = address
        self._tunnel = tunnel
        self._user = user
        self._surroundings = surroundings
        self._listeners = listeners
        self._clock = clock
        self._listener: StreamListener | None = None
        self._refused: Counter[DropReason] = Counter()  # at listeners of earlier ports
        self._known: dict[str, _Known] = {}
        self._dials: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()

    @property
    def refused(self) -> Counter[DropReason]:
        """Connections to our port that became no stream, by why not."""
        return self._refused + self._listener.refused if self._listener is not None else self._refused

    def link(self, peer: Peer) -> StreamLink | None:
        """The stream to this peer that is open."""
        known = self._known.get(peer.dest)
        return known.link if known is not None else None

    async def run(self) -> None:
        """Listen and dial, until cancelled; all streams are closed then.

        A failure closes nothing: the sockets were bound with rights that are gone, and this is started again.
        """
        if self._listener is None:
            self.listen(self._listeners)
        try:
            while True:
                self._woken.clear()
                self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S if self._may_dial() else _IDLE_LOOK_S):
                        await self._woken.wait()
        except asyncio.CancelledError:
            await self._close()
            raise

    def listen(self, listeners: Sequence[socket]) -> None:
        """Use these sockets from now on, in place of the old ones."""
        if self._listener is not None:
            self._listener.close()
            self._refused += self._listener.refused
        self._listeners = listeners
        self._listener = StreamListener(listeners, self._keys_of, self._opened, self._clock)

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for dial in self._dials:
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for known in self._known.values():
            self._end(known)

    # What happens

    def ended(self, event: StreamEnds) -> None:
        """The session with a peer is over."""
        if (known := self._known.get(event.peer.dest)) is not None:
            self._end(known)

    def network_changed(self) -> None:
        """This device is somewhere else: what failed before may work, and a lost address ends its streams."""
        now = self._clock()
        for known in self._known.values():
            if known.link is not None and known.link.is_orphan():
                self._end(known)
                self._user.flush()
            known.dialler.moved(now)

    def wake(self) -> None:
        """A search for direct paths began, or ended: there may be somebody to dial."""
        self._woken.set()

    def _may_dial(self) -> bool:
        """Whether a peer without a stream has packets."""
        now = self._clock()
        return any(known.link is None and now < known.busy_until for known in self._known.values())

    def look(self) -> None:
        """Dial who is to be dialled, and close the streams of those who may have none any more."""
        now = self._clock()
        for known in self._known.values():
            if known.link is not None and self._is_inside(known.link):
                self._end(known)
        for dest in [dest for dest in self._known if not self._tunnel.may_stream(dest)]:
            self._end(self._known.pop(dest))
        for dest, peer in self._tunnel.peers.items():
            if self._tunnel.may_stream(dest):
                self._look_at(peer, now)

    def _look_at(self, peer: Peer, now: float) -> None:
        known = self._of(peer.dest)
        packets = peer.traffic.rx_packets + peer.traffic.tx_packets
        if packets != known.packets:
            known.packets, known.busy_until = packets, now + _BUSY_S
        if known.link is not None or peer.direct is None or now >= known.busy_until:
            return
        told = peer.direct.theirs, self._surroundings.revision
        if told != known.told:
            known.told = told
            known.dialler.told(peer.direct.reachable(), now)
        keys = self._tunnel.keys_to_dial(peer.dest, now)
        if keys is not None and (endpoints := known.dialler.due(now)):
            dial = asyncio.create_task(self._dial(peer.dest, endpoints, keys), name=f"stream to {peer.name}")
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)

    async def _dial(self, dest: str, endpoints: Sequence[Endpoint], keys: StreamKeys) -> None:
        known = self._of(dest)
        try:
            self._opened(await dial_first(dest, endpoints, keys))
        except NetworkError as error:
            log.debug("no direct TCP stream: %s", error)
        finally:
            known.dialler.attempt_over(self._clock())

    def _opened(self, link: StreamLink) -> None:
        """A stream is open, whoever dialled."""
        now, known = self._clock(), self._of(link.peer)
        if self._is_inside(link):
            link.close()
            return
        if not known.dialler.opened(is_ours=link.is_ours, now=now):
            link.close()  # the other one stays, on both sides
            return
        old, known.link = known.link, link
        if not self._user.add_stream(link):
            self._end(known)
        else:
            link.on_lost = lambda _: self._lost(link)
            link.start()
        if old is not None:
            self._user.drop_stream(old)
            old.close()

    def _is_inside(self, link: StreamLink) -> bool:
        """Whether its segments are packets of the tunnel: each would go into the stream, and make another.

        A peer can dial our address in the tunnel, and a route may come later.
        """
        route = self._surroundings.network.route_to(link.remote.address)
        return route is not None and route.is_tunnel

    def _lost(self, link: StreamLink) -> None:
        known = self._of(link.peer)
        if known.link is link:
            self._end(known)
            self._user.flush()

    def _end(self, known: _Known) -> None:
        if known.link is not None:
            link, known.link = known.link, None
            self._user.drop_stream(link)
            link.close()
            known.dialler.closed(self._clock())

    def _of(self, dest: str) -> _Known:
        known = self._known.get(dest)
        if known is None:
            is_first = self._address.public_key < NknAddress.parse(dest).public_key
            known = self._known[dest] = _Known(PeerDialler(self._surroundings.budget, is_first=is_first))
        return known

    def _keys_of(self, index: int) -> tuple[str, StreamKeys] | None:
        return self._tunnel.stream_keys(index, self._clock())
