"""Asks STUN servers which address and port the internet sees of the sockets of direct paths.

They are asked from these sockets themselves, since a NAT's mapping belongs to the socket that asked. So the
answers come among the peers' datagrams, and the driver hands over what comes from a server that is asked.

The servers are the nodes of the links that are up, as far as they answer STUN, and those of `[network] stun`.
What a proxy leads to is not asked: who goes through one may not want to be seen otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from math import inf

from nconnect.io.clock import boottime
from nconnect.io.errors import reason
from nconnect.io.net import resolve
from nconnect.io.net.datagrams import DatagramSocket, Sent
from nconnect.model import Endpoint, Rng
from nconnect.nat.stun import StunProbe
from nconnect.tunnel.paths.direct.candidates import is_forbidden
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.wire.direct import NatVerdict

log = logging.getLogger(__name__)

LATE_S = 0.1  # guessed: an answer may wait in the socket for so long on a busy machine
ANSWERED_S = 60.0  # a peer answered by UDP so recently: it is not blocked, whoever is silent


class Reflexive:
    """One interface's. `sources`: the servers that are asked at the moment."""

    def __init__(
        self,
        surroundings: Surroundings,
        places: Callable[[], Iterable[tuple[str, int]]],
        *,
        may_ask: Callable[[Endpoint], bool],
        found: Callable[[], None],
        clock: Callable[[], float] = boottime,
        rng: Rng = os.urandom,
    ) -> None:
        """`places`: host and port of the servers. `may_ask`: whether an address may be sent to. `found` is
        called when the surroundings have another answer than before, or none is to be waited for."""
        self.sources: frozenset[Endpoint] = frozenset()
        self.servers: tuple[Endpoint, ...] = ()
        self.datagrams: Mapping[int, DatagramSocket] = {}  # by IP version; whoever opens them sets them
        self._surroundings = surroundings
        self._places = places
        self._may_ask = may_ask
        self._found = found
        self._clock = clock
        self._rng = rng
        self._probes: dict[int, StunProbe] = {}  # by IP version
        self._not_found: set[str] = set()  # names that were looked up in vain, which was said
        self._reached: set[int] = set()  # the IP versions by which a question left
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = inf
        self._was_late = False  # in waiting for answers, which may have been there
        self._changed = asyncio.Event()
        self._changed.set()

    # Whom to ask

    def look_again(self) -> None:
        """There may be other servers, or they may have other addresses."""
        self._changed.set()

    async def run(self) -> None:
        """Look up the servers when something has changed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.look_up()

    async def look_up(self) -> None:
        """Find the servers' addresses. A name that is not found is passed over, and said once."""
        found: dict[Endpoint, None] = {}
        for host, port in dict.fromkeys(self._places()):
            try:
                infos = await resolve.stream_addresses(host, port)
            except OSError as error:
                if host not in self._not_found:
                    log.warning("STUN server %s is not asked: %s", host, reason(error))
                    self._not_found.add(host)
                continue
            self._not_found.discard(host)
            for info in infos:
                server = Endpoint(ip_address(info[4][0]), port)
                if not is_forbidden(server.address) and self._may_ask(server):
                    found[server] = None
        self.servers = tuple(found)
        self._surroundings.has_stun = any(s.address.version in self.datagrams for s in self.servers)

    # Questions and answers

    def ask(self) -> None:
        """Ask all servers, by each IP version, unless that is under way."""
        if self._probes:
            return
        now = self._clock()
        for version in self.datagrams:
            if those := [server for server in self.servers if server.address.version == version]:
                self._probes[version] = StunProbe(those, now=now, rng=self._rng)
        self.sources = frozenset(self.servers)
        self._reached.clear()
        self._was_late = False
        self._go_on(now)

    def forget(self) -> None:
        """Wait for no answer: they would be about another network, or another socket."""
        self._probes.clear()
        self.sources = frozenset()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def received(self, source: Endpoint, run: memoryview, segment: int, now: float) -> bool:
        """Take datagrams of `segment` bytes each that came in a row from one of `sources`.

        False when none is an answer (RFC 8489, section 5): a peer may be behind the same address.
        """
        probe = self._probes.get(source.address.version)
        if probe is None:
            return False
        answers = 0
        for at in range(0, len(run), segment):
            answers += probe.receive(run[at : at + segment], source, now)
        if not answers:
            return False
        self._go_on(now)
        return True

    def _go_on(self, now: float) -> None:
        for version, probe in self._probes.items():
            while (output := probe.poll_output()) is not None:
                sent = self.datagrams[version].send(output.to, [output.data])
                if sent is not Sent.REFUSED:
                    self._reached.add(version)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [deadline.at for probe in self._probes.values() if (deadline := probe.poll_timeout())]
        if due:
            self._due_at = min(due)
            delay_s = max(0.0, self._due_at - now)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)
        else:
            self._conclude()

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        self._was_late = self._was_late or now > self._due_at + LATE_S
        for probe in self._probes.values():
            probe.handle_timeout(now)
        self._go_on(now)

    def _conclude(self) -> None:
        """All have answered, or had their time. Without a route to any server nothing was learnt."""
        verdicts = [
            probe.verdict
            for version, probe in sorted(self._probes.items())
            if version in self._reached and probe.verdict is not None
        ]
        self.forget()
        if not verdicts:  # there is no route
            self._surroundings.has_stun = False
            self._found()
        reflexive = [v.mapped for v in verdicts if v.mapped is not None and not is_forbidden(v.mapped[0])]
        nats = [v.nat for v in verdicts]
        # IPv4's first: IPv6 without a NAT says nothing about a hard one of IPv4's.
        otherwise = nats[0] if nats else NatVerdict.UNKNOWN
        nat = next((nat for nat in nats if nat is not NatVerdict.BLOCKED), otherwise)
        answered = self._clock() < self._surroundings.answered_at + ANSWERED_S
        if nat is NatVerdict.BLOCKED and (self._was_late or answered):
            self._surroundings.nothing_learnt()
            return
        if self._surroundings.set_reflexive(reflexive, nat):
            self._found()
