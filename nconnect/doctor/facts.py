"""The facts about a machine that the checks judge. Every field has a value for "not known"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nconnect.doctor.findings import Argv
from nconnect.doctor.firewalls import Obstacle
from nconnect.doctor.routing import Detour
from nconnect.host.plan import SkippedPrefix
from nconnect.model import Address, Config, Prefix
from nconnect.nat.port_mapping import Router
from nconnect.nat.stun import Verdict


@dataclass(frozen=True, slots=True)
class SeedFact:
    """One seed that was asked. `node` is HOST:PORT that it named; `why`: what failed."""

    url: str
    node: str = ""
    rtt_ms: float | None = None
    why: str = ""
    clock_ahead_s: float | None = None  # the seed's wall clock against ours
    mend: str = ""  # what to do about `why`, where that is known
    over_tls: bool = False  # the node was reached over TLS
    stun_ports: tuple[int, ...] = ()  # UDP, of the node
    in_the_way: bool = False  # `why` is no fault of this seed: a proxy's, or a login page


@dataclass(frozen=True, slots=True)
class ProxyFact:
    """A proxy that is set on this machine."""

    place: str  # HOST:PORT, "" when the setting is wrong
    where: str  # in words that follow "it is set"
    used: bool
    why: str = ""  # what is wrong with it, a sentence; only of one that is used
    mend: str = ""  # what to do to have it used


@dataclass(frozen=True, slots=True)
class NatFact:
    """What STUN servers say of this network, for one IP version."""

    version: int
    verdict: Verdict
    own: Address  # of this machine, on the way to them
    asked: tuple[str, ...]  # HOST:PORT


@dataclass(frozen=True, slots=True)
class SubnetFact:
    """One provided subnet as this machine reaches it."""

    prefix: Prefix
    interface: str = ""  # "": no route leads there
    mtu: int = 0  # of that interface
    tried: tuple[str, ...] = ()  # the hosts that were asked
    answered: tuple[str, ...] = ()
    path_mtu: int | None = None  # the largest packet that came back from a host; None: none was tried


@dataclass(frozen=True, slots=True)
class Listener:
    """An inference server on this machine. `wide`: it listens on more than loopback."""

    name: str  # Ollama, vLLM, …
    host: str
    port: int
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at."""

    interface: str
    path: str  # the configuration's file
    config: Config | None = None
    config_problems: tuple[str, ...] = ()
    config_readable_by_others: bool = False
    is_root: bool = True
    net_admin: bool = True
    no_namespaces: str = ""  # why a tunnel without root cannot be
    in_container: bool = False
    tun: str = ""  # why /dev/net/tun cannot be used; "" when it can
    tun_module: bool = True  # whether `modprobe tun` can help
    nft: str = ""  # why nft cannot be used, and after a colon what to do
    running: bool = False
    direct_port: int = 0  # of the running daemon; 0: it has none, or is not asked
    left_behind: bool = False  # a table of a daemon that was killed
    unreachable: Argv = ()  # a daemon runs without its control socket: what brings the socket back
    said: tuple[str, ...] = ()  # what the running daemon's `status` says is wrong
    config_unwritable: str = ""  # why nothing can be written beside the configuration
    state_unwritable: str = ""  # the same of the state folder
    sysctls: Mapping[str, str] = field(default_factory=dict)
    # Needed, and not to be set from in here, by sysctl(8)'s names.
    locked_sysctls: tuple[tuple[str, str], ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    detours: tuple[Detour, ...] | None = None  # None: the interface is not up, or nobody could be asked
    skipped_routes: tuple[SkippedPrefix, ...] = ()
    plan_warnings: tuple[str, ...] = ()
    plan_notes: tuple[str, ...] = ()
    plan_problem: str = ""
    now: float = 0.0  # seconds since the Unix epoch
    released_at: float = 0.0  # no right clock shows less
    proxies: tuple[ProxyFact, ...] = ()
    seeds: tuple[SeedFact, ...] = ()
    nats: tuple[NatFact, ...] = ()
    router: Router | None = None  # of the default route; None: there is none, or it was not asked
    stun_problems: tuple[str, ...] = ()  # servers that the configuration names and that cannot be asked
    login_page: str = ""  # a portal that answers web requests only, and stops all others: a sentence
    subnets: tuple[SubnetFact, ...] = ()
    listeners: tuple[Listener, ...] = ()
    # Where something listens on this machine, by (tcp or udp, port); None: not known.
    listening: Mapping[tuple[str, int], tuple[Address, ...]] | None = None
    peers: tuple[tuple[str, str], ...] = ()  # name and state, or "left": it said that it stops
