"""What all direct paths of an interface share: this device's addresses, its NAT, and the budget for probes.

The shell keeps it current (`io` reads the kernel, STUN and port mappings), and then calls `network_changed`
or `candidates_changed` of each path.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from nconnect.model import DirectMode, Endpoint
from nconnect.tunnel.paths.direct.budget import ProbeBudget
from nconnect.tunnel.paths.direct.candidates import Network, own_candidates
from nconnect.tunnel.paths.direct.constants import REFLEXIVE_FRESH_S
from nconnect.wire.direct import Candidate, NatVerdict


class Surroundings:
    """One for each interface. `port`: of the UDP socket that all direct paths use."""

    def __init__(self, port: int, *, network: Network | None = None, largest: int = 1472) -> None:
        self.port = port
        self.has_stun = False  # whether there are servers to ask
        self.network = network or Network()
        self.largest = largest  # UDP payload that this device's interfaces take
        self.verdict = NatVerdict.UNKNOWN
        self.reflexive: tuple[Endpoint, ...] = ()
        self.mapped: tuple[Endpoint, ...] = ()
        self.revision = 0
        self.budget = ProbeBudget()
        self.answered_at = -inf  # when a peer last answered a probe: UDP is not blocked
        self._asked_at = -inf

    def candidates(self, mode: DirectMode) -> tuple[Candidate, ...]:
        """What a peer with this `direct` setting is told."""
        return own_candidates(
            self.network, self.port, mode=mode, reflexive=self.reflexive, mapped=self.mapped
        )

    def set_network(self, network: Network, *, largest: int | None = None) -> bool:
        """The kernel's addresses or routes; whether this device is somewhere else now.

        Then its reflexive addresses are void. Containers' bridges and tunnels may come and go without that.
        """
        if network == self.network and largest in (None, self.largest):
            return False
        has_moved = network.whereabouts != self.network.whereabouts
        self.network = network
        self.largest = largest or self.largest
        self.revision += 1
        if has_moved:
            self._forget_reflexive()
        return has_moved

    def set_port(self, port: int) -> None:
        """There are other sockets: what is known of the old ones is void."""
        self.port = port
        self.mapped = ()
        self.revision += 1
        self._forget_reflexive()

    def _forget_reflexive(self) -> None:
        self.reflexive, self.verdict, self._asked_at = (), NatVerdict.UNKNOWN, -inf
        self.answered_at = -inf

    def set_reflexive(self, reflexive: Iterable[Endpoint], verdict: NatVerdict) -> bool:
        """STUN's answer, or that there is none (BLOCKED); whether something changed."""
        reflexive = tuple(reflexive)
        if (reflexive, verdict) == (self.reflexive, self.verdict):
            return False
        self.reflexive, self.verdict = reflexive, verdict
        self.revision += 1
        return True

    def set_mapped(self, mapped: Iterable[Endpoint]) -> bool:
        """Ports that the router maps to ours; whether they changed."""
        mapped = tuple(mapped)
        if mapped == self.mapped:
            return False
        self.mapped = mapped
        self.revision += 1
        return True

    def wants_reflexive(self, now: float) -> bool:
        """Whether to ask the STUN servers now; if so, somebody does."""
        if not self.has_stun or now < self._asked_at + REFLEXIVE_FRESH_S:
            return False
        self._asked_at = now
        return True

    @property
    def is_asking(self) -> bool:
        """Whether a STUN server's first answer is waited for: what peers are told is not all of it yet."""
        return self.has_stun and self.verdict is NatVerdict.UNKNOWN and not self.reflexive

    def nothing_learnt(self) -> None:
        """The STUN servers' silence said nothing: ask them again when a search begins."""
        self._asked_at = -inf

    def doubt_silence(self) -> None:
        """The servers may have been silent since the network was not there yet."""
        if self.verdict is NatVerdict.BLOCKED:
            self._asked_at = -inf

    def doubt_reflexive(self, now: float) -> None:
        """The NAT may have forgotten us: what STUN said is old, unless it was said just now."""
        if now >= self._asked_at + 1.0:
            self._asked_at = -inf
