"""What happens in a daemon, as values, and the bus that takes each to whoever asked for it.

Links and the tunnel core describe their events themselves (`io.nkn.links`, `tunnel.outputs`); what only the
daemon knows is added here. `wiring` has the one table of who is told of what, and in which order. Packets do
not pass here: links hand messages straight to the driver.

To add an event: define a frozen dataclass here, publish it where it happens, add a line to that table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nconnect.host.plan import HostPlan
from nconnect.model import Config
from nconnect.offers.statement import Statement
from nconnect.tunnel.peer import Peer

_Event = TypeVar("_Event")


@dataclass(frozen=True, slots=True)
class PlanInForce:
    """The host's state has been set by this plan."""

    plan: HostPlan


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The tunnel is to go by this configuration from now on: a reload has begun, or is undone."""

    config: Config


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Another configuration is in force, and the host's state is set by it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The interface can be used."""


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Somebody else's link, address or route of this machine came, went or changed."""


@dataclass(frozen=True, slots=True)
class PeerStated:
    """A peer has told another statement: what this device may reach there."""

    peer: Peer
    statement: Statement


@dataclass(frozen=True, slots=True)
class Resumed:
    """The machine slept, or the process was stopped, for so long."""

    away_s: float


class Bus:
    """Synchronous: `publish` returns when all subscribers have been called, in the order they subscribed.

    All of it happens in the loop's thread. A subscriber that raises ends `publish`: the publisher gets the
    exception, and the subscribers behind are not called.
    """

    def __init__(self) -> None:
        self._subscribers: defaultdict[type, list[Callable[[Any], object]]] = defaultdict(list)

    def subscribe(self, kind: type[_Event], *tell: Callable[[_Event], object]) -> None:
        self._subscribers[kind] += tell

    def publish(self, event: object) -> None:
        for tell in self._subscribers[type(event)]:
            tell(event)
