"""What each peer is told, whenever it changes, and what peers tell (docs/protocol.md, "Statements").

`changed` may be called at any time; all the work is done by `run`: statements are made and read in a thread.
A peer's statement goes out as `events.PeerStated`, and its subnets to `follow_offers`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from nconnect.daemon.driver import Driver
from nconnect.daemon.events import Bus, PeerStated
from nconnect.daemon.settings import InForce
from nconnect.io.clock import boottime
from nconnect.model import Address, Config, PeerConfig, Prefix
from nconnect.offers import statement as codec
from nconnect.offers.names import is_usable
from nconnect.offers.statement import Statement
from nconnect.offers.told import LiveServer, statement_to
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import SessionLost, Stated

log = logging.getLogger(__name__)

LOOK_S = 5.0  # for packets that were refused because of their source
REFUSED_S = 60.0  # a source is told for so long after its last packet
MAX_NAMED = 3  # of a peer's refused sources, in a sentence


def no_limits(peer: PeerConfig) -> Mapping[str, Any]:
    """Members of a `Statement` that limit what the peer may do: none."""
    return {}


class Announcing:
    """One interface's. `statements`: what peers have told last, by NKN address."""

    def __init__(
        self,
        in_force: InForce,
        tunnel: Tunnel,
        driver: Driver,
        bus: Bus,
        *,
        live: Callable[[], Mapping[str, LiveServer]],
        follow_offers: Callable[[str, Iterable[Prefix]], Awaitable[None]],
        limits: Callable[[PeerConfig], Mapping[str, Any]] = no_limits,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`live`: the servers that answer. `limits`: what else a peer is told, as members of `Statement`."""
        self.statements: dict[str, Statement] = {}
        self._in_force, self._tunnel, self._driver, self._bus = in_force, tunnel, driver, bus
        self._live, self._follow_offers, self._limits, self._clock = live, follow_offers, limits, clock
        self._moved = asyncio.Event()
        self._is_stale = True  # what we tell
        self._heard: dict[str, bytes] = {}  # not read yet
        self._refused: dict[str, dict[Address, float]] = {}  # source -> when its last packet was refused

    def changed(self, _: object = None) -> None:
        """Something that peers are told may have changed."""
        self._is_stale = True
        self._moved.set()

    def stated(self, event: Stated) -> None:
        """A peer has told something: the newest counts."""
        self._heard[event.peer.dest] = event.document
        self._moved.set()

    def session_lost(self, event: SessionLost) -> None:
        """It may come back with other addresses: which of its sources were refused is of the past."""
        event.peer.statements.take_refused()
        if self._refused.pop(event.peer.dest, None):
            self.changed()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._moved.wait()
            self._moved.clear()
            await self.step()

    async def step(self) -> None:
        """Do what there is to do now."""
        self._look_at_refused()
        if self._is_stale:
            self._is_stale = False
            await self._tell()
        while self._heard:
            await self._read()

    def statement_of(self, dest: str) -> Statement:
        """What a peer has told last; an empty statement if nothing."""
        return self.statements.get(dest, Statement())

    def problems(self) -> Iterable[str]:
        """Sentences for `status`: packets that are refused because of their source, here and there."""
        for peer in self._tunnel.peers.values():
            if sources := self._refused.get(peer.dest):
                yield (
                    f"{peer.name} sends packets from {_named(sources)}, which are refused: they must come"
                    f" from {_named(_real(peer.config, self._in_force.file.config).allowed_ips)}. Correct"
                    f" its address there, or `nconnect peer set {peer.name} --allowed-ips` here"
                )
            said = self.statement_of(peer.dest)
            if said.refused_source:
                joined = bool(peer.config.local_address)
                key = f"local_address of [[peer]] {peer.name}" if joined else "[interface] address"
                yield (
                    f"{peer.name} refuses packets from {_named(said.refused_source)}: they must come from"
                    f" {_named(said.expected) or 'another address'}. Correct {key} here, or"
                    f" the allowed_ips of this device there"
                )

    async def _tell(self) -> None:
        config, live = self._in_force.file.config, dict(self._live())
        refused = {dest: tuple(sources) for dest, sources in self._refused.items()}
        documents = await asyncio.to_thread(self._documents, config, live, refused)
        for dest, document in documents.items():
            peer = self._tunnel.peers.get(dest)
            if peer is not None:
                self._tunnel.announce(peer, document, self._clock())
        self._driver.drain()

    def _documents(
        self, config: Config, live: Mapping[str, LiveServer], refused: Mapping[str, tuple[Address, ...]]
    ) -> dict[str, bytes]:
        found = {}
        for peer in config.peers:
            dest = str(peer.address)
            said = replace(statement_to(peer, config, live), **self._limits(peer))
            if dest in refused:
                said = replace(said, refused_source=refused[dest], expected=peer.allowed_ips)
            found[dest] = codec.encode(said)
        return found

    async def _read(self) -> None:
        dest, document = self._heard.popitem()
        said = await asyncio.to_thread(codec.decode, document)
        peer = self._tunnel.peers.get(dest)
        if peer is None:
            return
        if said.dropped and said.dropped != self.statement_of(dest).dropped:
            log.warning("%s offers %d things that are malformed: they are not used", peer.name, said.dropped)
        self.statements[dest] = said
        self._bus.publish(PeerStated(peer, said))
        await self._follow_offers(dest, said.subnets)

    def _look_at_refused(self) -> None:
        now = self._clock()
        before = {dest: frozenset(sources) for dest, sources in self._refused.items()}
        for dest, peer in self._tunnel.peers.items():
            for raw in peer.statements.take_refused():
                source = ip_address(raw)
                if is_usable(source):  # others are the kernel's own, such as router solicitations
                    self._refused.setdefault(dest, {})[source] = now
        for dest in list(self._refused):
            allowed = self._tunnel.peers[dest].config.allowed_ips if dest in self._tunnel.peers else ()
            sources = {
                source: at
                for source, at in self._refused[dest].items()
                if now < at + REFUSED_S and not any(source in prefix for prefix in allowed)
            }
            sources = dict(sorted(sources.items(), key=lambda each: each[1])[-codec.MAX_OWN :])
            if sources and dest in self._tunnel.peers:
                self._refused[dest] = sources
            else:
                del self._refused[dest]
        if before != {dest: frozenset(sources) for dest, sources in self._refused.items()}:
            self.changed()
        for dest in set(self.statements) - set(self._tunnel.peers):
            del self.statements[dest]


def _real(peer: PeerConfig, file: Config) -> PeerConfig:
    """The peer as the file has it: with real addresses."""
    return next((each for each in file.peers if each.address == peer.address), peer)


def _named(items: Iterable[object]) -> str:
    texts = sorted(map(str, items))
    more = f" and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""
    return ", ".join(texts[:MAX_NAMED]) + more
