"""What the kernel says about this machine: the input of `host.plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nconnect.config.proxy import UNPROXIED, Proxies
from nconnect.model import Address, Endpoint, InterfaceAddress, Prefix


@dataclass(frozen=True, slots=True)
class LocalInterface:
    name: str
    addresses: tuple[InterfaceAddress, ...]
    kind: str = ""  # of a virtual one: "bridge", "tun" and so on, as IFLA_INFO_KIND has it


@dataclass(frozen=True, slots=True)
class LocalRoute:
    """A route of the main table. `kind`: "" for a unicast route, else "blackhole", "throw" and so on."""

    prefix: Prefix
    interface: str
    gateway: Address | None = None
    protocol: int = 0
    kind: str = ""
    metric: int = 0  # the lowest wins
    source: Address | None = None  # preferred, of packets that this machine sends


@dataclass(frozen=True, slots=True)
class LocalNeighbour:
    """A machine in one of this machine's networks, which has answered on that interface (ARP, RFC 4861)."""

    address: Address
    interface: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the kernel says. Sysctls that this kernel does not have are absent."""

    interfaces: tuple[LocalInterface, ...] = ()
    routes: tuple[LocalRoute, ...] = ()
    neighbours: tuple[LocalNeighbour, ...] = ()
    name_servers: tuple[Address, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    other_tunnels: tuple[str, ...] = ()  # interfaces of other running nconnect daemons
    proxies: Proxies = UNPROXIED  # by which seeds and nodes are reached
    # What else the daemon connects to outside of the tunnel, wherever it lies: see `daemon.way_out`.
    endpoints: tuple[Endpoint, ...] = ()
    uid: int | None = None  # whose the daemon is
    # What nconnect (this daemon or another one) switched on, and which interfaces were there then.
    switched_on: frozenset[str] = frozenset()  # names of sysctls
    there_before: frozenset[str] | None = None  # None: nothing was switched on yet
    taken_up_at: int = (
        0  # TCP port to which connections to provided subnets are handed; 0: they are forwarded
    )
    sysctls_locked: bool = False  # none of them may be set: /proc/sys is read-only, as in a container
