"""What direct paths need of this machine: their sockets, its addresses and routes, and a port at the router.

The tunnel's core finds and judges the paths (`nconnect.tunnel.paths.direct`); this part keeps what they
share, `Surroundings`, as the machine is, and tells the core when something has changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from socket import socket
from typing import Protocol

from nconnect.daemon.direct_sockets import DirectSockets, is_wanted
from nconnect.daemon.events import ConfigChanged
from nconnect.daemon.reflexive import Reflexive
from nconnect.daemon.settings import InForce
from nconnect.errors import HostError
from nconnect.io.clock import boottime
from nconnect.io.net.datagrams import DatagramSocket
from nconnect.io.net.port_mapping import PortMappings
from nconnect.model import Config, Endpoint
from nconnect.nat.port_mapping import Mapping as PortMapping
from nconnect.tunnel.paths.direct.candidates import Network
from nconnect.tunnel.paths.direct.surroundings import Surroundings

log = logging.getLogger(__name__)

_ANOTHER_NAT = "the router that maps the port is itself behind another NAT, so that nobody reaches it there"


class PathUser(Protocol):
    """Who uses the sockets and the surroundings: the driver, with the core behind it."""

    def set_datagrams(self, datagrams: Mapping[int, DatagramSocket]) -> None:
        """Use these sockets from now on, by IP version."""

    def network_changed(self) -> None:
        """This device is somewhere else: what was proven is void."""

    def candidates_changed(self) -> None:
        """Peers are to be told other addresses than before."""


class StreamPort(Protocol):
    """Who lets direct TCP streams in."""

    def listen(self, listeners: Sequence[socket]) -> None:
        """Use these sockets from now on, in place of the old ones."""


class DirectResources:
    """One interface's. `run` is a task."""

    def __init__(
        self,
        in_force: InForce,
        sockets: DirectSockets,
        surroundings: Surroundings,
        reflexive: Reflexive,
        user: PathUser,
        streams: StreamPort,
        *,
        open_sockets: Callable[[Config], DirectSockets],
        read_network: Callable[[], tuple[Network, int]],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`sockets`: open already; closed here. `open_sockets` and `read_network` block; they raise
        `HostError`."""
        self.mapping_problem = ""  # why the router sends no port on to us; "" when it does, or is not asked
        self._in_force = in_force
        self._sockets = sockets
        self._surroundings = surroundings
        self._reflexive = reflexive
        self._user = user
        self._streams = streams
        self._open_sockets = open_sockets
        self._read_network = read_network
        self._clock = clock
        self._prepared: DirectSockets | None = None  # what a reload will put in place of `_sockets`
        self._mapping: asyncio.Task[None] | None = None
        self._mapped_for: object = None  # the port and the network that `_mapping` is for
        self._changed = asyncio.Event()
        reflexive.datagrams = sockets.datagrams

    # What happens around

    def changed(self) -> None:
        """The machine's network, or what is routed into the tunnel, may be another."""
        self._changed.set()

    def network_changed(self) -> None:
        """As `changed`; names may have other addresses there."""
        self._reflexive.look_again()
        self.changed()

    def resumed(self) -> None:
        """The machine slept: no NAT remembers us."""
        self._surroundings.doubt_reflexive(self._clock())
        self._user.network_changed()
        self.changed()

    async def prepare(self, fresh: Config) -> None:
        """Open what a new configuration needs, before it is put in force; raises `HostError` if it cannot."""
        self._abandon()
        if not self._are_right_for(fresh):
            self._prepared = await asyncio.to_thread(self._open_sockets, fresh)

    def config_changed(self, event: ConfigChanged) -> None:
        """A reload that is undone needs no other sockets."""
        if event.config is self._in_force.config:
            self._abandon()

    def reloaded(self) -> None:
        """Put in place what was prepared."""
        if self._prepared is not None:
            old, self._sockets, self._prepared = self._sockets, self._prepared, None
            self._reflexive.forget()
            self._reflexive.datagrams = self._sockets.datagrams
            self._surroundings.set_port(self._sockets.port)
            self._user.set_datagrams(self._sockets.datagrams)
            self._streams.listen(self._sockets.listeners)
            old.close()
            self._user.network_changed()
        self._reflexive.look_again()
        self.changed()

    def close(self) -> None:
        """May come twice."""
        self._reflexive.forget()
        self._abandon()
        self._sockets.close()

    # What is kept current

    async def run(self) -> None:
        """Follow the machine's network, and keep the port mapped, until cancelled."""
        try:
            while True:
                self._changed.clear()
                await self._look()
                await self._changed.wait()
        finally:
            await self._end_mapping()

    async def _look(self) -> None:
        if not self._sockets.port:
            await self._end_mapping()
            return
        try:
            network, largest = await asyncio.to_thread(self._read_network)
        except HostError as error:
            log.warning("direct paths: %s", error)
            return
        before = self._surroundings.revision
        if self._surroundings.set_network(network, largest=largest):
            self._reflexive.forget()
            for datagrams in self._sockets.datagrams.values():
                datagrams.route_changed()
            self._user.network_changed()
        elif self._surroundings.revision != before:
            self._user.candidates_changed()
        await self._keep_mapping(network)

    async def _keep_mapping(self, network: Network) -> None:
        """Ask the router of this network, once; again when its task has ended, or the way out is another."""
        config, port = self._in_force.config, self._sockets.port
        if not config.network.port_mapping or not config.peers:
            await self._end_mapping()
            return
        way_out = {r for r in network.routes if r.prefix.version == 4 and not r.prefix.prefixlen}
        wanted = port, frozenset(way_out)
        if self._mapping is not None and not self._mapping.done() and wanted == self._mapped_for:
            return
        await self._end_mapping()
        self._mapped_for = wanted
        mappings = PortMappings(port, self._mapped, tunnel=config.interface)
        self._mapping = asyncio.create_task(mappings.run(), name="port mapping")

    def _mapped(self, mappings: Mapping[str, PortMapping], problem: str) -> None:
        if any(mapping.is_behind_another_nat for mapping in mappings.values()):
            problem = "; ".join(filter(None, (_ANOTHER_NAT, problem)))
        self.mapping_problem = problem
        if problem:
            log.info("port mapping: %s", problem)
        told = [Endpoint(m.address, m.port) for name, m in mappings.items() if name == "udp"]
        # Behind another NAT nobody could use it, and it would tell of the network between the two.
        usable = [m for m in told if not mappings["udp"].is_behind_another_nat]
        if self._surroundings.set_mapped(usable):
            self._user.candidates_changed()

    async def _end_mapping(self) -> None:
        """Give up what is mapped; the router is told."""
        if self._mapping is not None:
            self._mapping.cancel()
            await asyncio.wait((self._mapping,))
            if not self._mapping.cancelled() and (error := self._mapping.exception()) is not None:
                log.error("port mapping failed", exc_info=error)
            self._mapping = None
            self._surroundings.set_mapped(())
        self.mapping_problem = ""

    def _are_right_for(self, fresh: Config) -> bool:
        """Whether the sockets that are open are those that a configuration asks for."""
        port, named = self._sockets.port, fresh.network.direct_port
        if not is_wanted(fresh):
            return not port
        if named is not None:
            return port == named
        return bool(port) and self._in_force.config.network.direct_port is None

    def _abandon(self) -> None:
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None
