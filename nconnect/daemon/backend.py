"""What the control socket asks of a running daemon, answered by its parts (`control.server.Backend`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nconnect.config.proxy import Proxies
from nconnect.control.schema import PendingPeer, PingReply, Status
from nconnect.daemon import status
from nconnect.daemon.driver import Driver
from nconnect.daemon.host_state import HostState
from nconnect.daemon.reload import FileWatch, Reload
from nconnect.daemon.settings import InForce
from nconnect.daemon.waiting import Waiting
from nconnect.io.clock import boottime
from nconnect.io.nkn.links import Links
from nconnect.model import NknAddress
from nconnect.tunnel.core import Tunnel


@dataclass(frozen=True, slots=True)
class Backend:
    """One interface's. `problems`: sentences of all the parts; "" is none. Times: CLOCK_BOOTTIME, seconds."""

    in_force: InForce
    address: NknAddress
    proxies: Proxies
    links: Links
    tunnel: Tunnel
    driver: Driver
    host_state: HostState
    file_watch: FileWatch
    changes: Reload
    waiting: Waiting
    problems: Callable[[], Iterable[str]]
    started_at: float

    async def status(self) -> Status:
        now = boottime()
        refused = await self.host_state.refused_counts(now)
        await self.file_watch.look()
        return status.build(
            self.in_force.config,
            address=str(self.address),
            links=self.links.links,
            shared_with=self.links.shared_with,
            proxies=self.proxies,
            tunnel=self.tunnel,
            plan=self.host_state.plan,
            drops=status.drops(self.tunnel.drops, self.driver.drops, link=self.links.link),
            refused=refused,
            problems=[*filter(None, self.problems())],
            started_at=self.started_at,
            now=now,
        )

    def pending(self) -> Sequence[PendingPeer]:
        return status.pending_peers(self.tunnel.pending, boottime())

    async def reload(self) -> None:
        await self.changes.apply()

    async def wait(self, peer: str | None, timeout_s: float) -> None:
        await self.waiting.wait(peer, timeout_s)

    async def ping(self, peer: str, timeout_s: float) -> PingReply:
        return await self.waiting.ping(peer, timeout_s)

    def request_stop(self) -> None:
        self.waiting.request_stop()
