"""NATs and firewalls as they differ for hole punching, in virtual time."""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from math import inf
from typing import Literal

from nconnect.model import Endpoint

Kind = Literal["cone", "address", "port", "symmetric", "trap", "blocked"]
EXPIRES_S = 60.0
UNREPLIED_S = 30.0  # Linux: nf_conntrack_udp_timeout
TRAP_S = 30.0


class Nat:
    """One router.

    cone        one port for all destinations; from outside everybody may use it
    address     the same; only addresses that were sent to
    port        the same; only addresses and ports that were sent to (Linux' masquerade, INPUT drops)
    symmetric   another port for each destination; only that one may answer
    trap        as port, but the router itself answers what it does not forward, and keeps an entry for it
    blocked     no UDP
    """

    def __init__(self, kind: Kind, public: IPv4Address, rng: random.Random, *, expires_s: float = EXPIRES_S):
        self.kind = kind
        self.public = public
        self.expires_s = expires_s
        self._rng = rng
        # (inside, remote or None) -> (public port, until when)
        self._flows: dict[tuple[Endpoint, Endpoint | None], tuple[int, float]] = {}
        self._sent_to: dict[tuple[Endpoint, Endpoint], float] = {}  # (inside, remote) -> when
        self._shift = 0
        self._own: dict[tuple[Endpoint, int], float] = {}  # the trap: (remote, port) -> when

    def out(self, inside: Endpoint, remote: Endpoint, now: float) -> Endpoint | None:
        """A packet from inside: its source outside."""
        if self.kind == "blocked":
            return None
        key = (inside, None if self.kind in ("cone", "address") else remote)
        port, until = self._flows.get(key, (0, -inf))
        if now > until:
            port = self._new_port(inside, remote, now)
        self._flows[key] = port, max(until, now + min(UNREPLIED_S, self.expires_s))
        self._sent_to[inside, remote] = now
        return Endpoint(self.public, port)

    def _new_port(self, inside: Endpoint, remote: Endpoint, now: float) -> int:
        port = inside.port + self._shift
        if self.kind == "symmetric" or now - self._own.get((remote, port), -inf) < TRAP_S:
            port = self._rng.randrange(20_000, 60_000)
        while any(
            taken == port and who != inside and now <= until and to in (remote, None)
            for (who, to), (taken, until) in self._flows.items()
        ):
            port = self._rng.randrange(20_000, 60_000)
        return port

    def back(self, remote: Endpoint, port: int, now: float) -> Endpoint | None:
        """A packet from outside to our port: whom it is for inside, if anybody."""
        for key, (mapped, until) in self._flows.items():
            inside, only = key
            if mapped != port or now > until or only not in (remote, None):
                continue
            if self.kind == "address" and not self._has_sent_to(inside, remote, now):
                continue
            self._flows[key] = mapped, now + self.expires_s
            return inside
        if self.kind == "trap":
            self._own[remote, port] = now
        return None

    def _has_sent_to(self, inside: Endpoint, remote: Endpoint, now: float) -> bool:
        return any(
            who == inside and to.address == remote.address and now - at <= self.expires_s
            for (who, to), at in self._sent_to.items()
        )

    def flush(self, *, new_ports: bool = False) -> None:
        """Forget everything, as after a restart; `new_ports`: everybody gets another one than before."""
        self._shift += new_ports
        self._flows.clear()
        self._sent_to.clear()
