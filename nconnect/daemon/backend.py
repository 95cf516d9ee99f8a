"""What the control socket asks of a running daemon, answered by its parts (`control.server.Backend`)."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nconnect import __version__
from nconnect.config.proxy import Proxies
from nconnect.control.schema import (
    DirectHere,
    OfferLine,
    OffersStatus,
    PendingPeer,
    PingReply,
    SkippedRoute,
    Status,
    UsageReport,
)
from nconnect.daemon import status
from nconnect.daemon.announcing import Announcing
from nconnect.daemon.driver import Driver
from nconnect.daemon.host_state import HostState
from nconnect.daemon.limits import PeerLimits
from nconnect.daemon.names import NameService
from nconnect.daemon.reload import FileWatch, Reload
from nconnect.daemon.settings import InForce
from nconnect.daemon.stream_rights import StreamRights
from nconnect.daemon.streams import Streams
from nconnect.daemon.usage import Usage
from nconnect.daemon.waiting import Waiting
from nconnect.io.clock import boottime
from nconnect.io.nkn.links import Links
from nconnect.model import NknAddress
from nconnect.offers.names import of_peers
from nconnect.streams.dialler import Dialler, Stream
from nconnect.tunnel.core import Tunnel


@dataclass(frozen=True, slots=True)
class DaemonBackend:
    """One interface's. Times: CLOCK_BOOTTIME, seconds.

    `problems`: sentences of all the parts; "" is none. `direct`: what this device has for direct paths.
    """

    in_force: InForce
    address: NknAddress
    proxies: Proxies
    links: Links
    tunnel: Tunnel
    driver: Driver
    streams: Streams
    rights: StreamRights
    dialler: Dialler
    host_state: HostState
    file_watch: FileWatch
    changes: Reload
    waiting: Waiting
    usage: Usage
    limits: PeerLimits
    direct: Callable[[], DirectHere]
    names: NameService
    announcing: Announcing
    problems: Callable[[], Iterable[str]]
    started_at: float
    clock: Callable[[], float] = boottime

    async def status(self) -> Status:
        config, address, tunnel, links = self.in_force.config, str(self.address), self.tunnel, self.links
        now = self.clock()
        wall = time.time() - now  # what turns our clock's times into the wall's
        refused = _together(await self.host_state.refused_counts(now), self.rights.refused)
        await self.file_watch.look()
        self.usage.look()
        peers, plan = tunnel.peers.values(), self.host_state.plan
        skipped = plan.skipped_routes if plan else ()
        offers = self._offers()
        return Status(
            interface=config.interface,
            address=address,
            public_key=address[-64:],
            links=status.link_statuses(links.links, links.shared_with, tunnel, self.proxies),
            peers=tuple(
                status.peer_status(
                    peer,
                    tunnel,
                    now,
                    wall,
                    refused,
                    self.proxies,
                    self.streams.link(peer),
                    self.host_state.waiting_of(peer.name),
                    self.limits.paused(peer),
                    self.usage.last_seen(peer),
                    self.usage.status(peer),
                    offers.get(peer.name),
                )
                for peer in peers
            ),
            routes=tuple(str(route) for route in plan.state.routes) if plan else (),
            skipped_routes=tuple(SkippedRoute(str(each.route), each.why) for each in skipped),
            addresses=tuple(str(a) for a in config.address),
            version=__version__,
            pid=os.getpid(),
            started_at=self.started_at + wall,
            direct=self.direct(),
            problems=tuple(filter(None, self.problems())),
            names=self.names.texts(),
            names_by=self.names.by,
            names_dropped=self.names.dropped,
            drops=dict(
                sorted(
                    status.drops(
                        tunnel.drops, self.driver.drops, self.streams.refused, link=links.link
                    ).items()
                )
            ),
        )

    def offers(self) -> Sequence[OfferLine]:
        return [
            OfferLine(provider, each.name, each.url, each.names, each.models, each.allowed)
            for provider, told in self._offers().items()
            for each in told.servers
        ]

    async def may_read(self, uid: int) -> bool:
        readers = self.in_force.config.readers
        return bool(readers) and await asyncio.to_thread(_name_of, uid) in readers

    def _offers(self) -> dict[str, OffersStatus]:
        """By the peer's name, of those with a session."""
        found: dict[str, OffersStatus] = {}
        for provider in of_peers(self.in_force.config, self.announcing.statements):
            peer = self.tunnel.peer_named(provider.name)
            if peer is None or peer.session.current is None:
                continue
            said = self.announcing.statements.get(peer.dest)
            refused = self.limits.paused(peer) is not None
            peer_label = self.names.labels.get(peer.name, "")
            found[peer.name] = status.offers_status(provider, peer_label, said, self.names.known, refused)
        return found

    def pending(self) -> Sequence[PendingPeer]:
        return status.pending_peers(self.tunnel.pending, self.clock())

    async def reload(self) -> None:
        await self.changes.apply()

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        await self.waiting.wait(peer, timeout_s)

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        return await self.waiting.ping(peer, timeout_s)

    async def open_stream(self, host: str, port: int) -> Stream:
        return await self.dialler.open(host, port)

    async def used(self, since: float) -> UsageReport:
        return await self.usage.report(self.in_force.config.interface, since)

    def request_stop(self) -> None:
        self.waiting.request_stop()


def _together(
    packets: Mapping[str, Mapping[str, int]], streams: Mapping[str, Mapping[str, int]]
) -> Mapping[str, Mapping[str, int]]:
    """What was refused, by peer and reason."""
    found = {peer: Counter(counts) for peer, counts in packets.items()}
    for peer, counts in streams.items():
        found.setdefault(peer, Counter()).update(counts)
    return found


def _name_of(uid: int) -> str | None:
    """A user's name; None where there is no such user. Blocks."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
