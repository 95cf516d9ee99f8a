"""Policy routing: which rule and which route send a packet where (ip-rule(8), ip-route(8)).

Only the kernel knows where a packet goes, so it is asked (RTM_GETROUTE, `io.system.netlink`). But its
answer does not name the rule, nor the route of a packet that is dropped. To find these, this module walks
the rules by priority, as the kernel does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nconnect.model import Address, Prefix

MAIN, LOCAL, DEFAULT = 254, 255, 253  # linux/rtnetlink.h
_TABLES = {LOCAL: "local", MAIN: "main", DEFAULT: "default"}
REFUSALS = frozenset({"blackhole", "unreachable", "prohibit"})  # kinds of routes, and actions of rules
_LOOKUP = "lookup"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of `ip rule`. A selector that is None or "" takes every packet."""

    version: int
    priority: int
    action: str  # "lookup", or one of REFUSALS; others are passed over
    table: int = MAIN
    source: Prefix | None = None
    destination: Prefix | None = None
    iif: str = ""  # "lo": packets of this machine itself
    oif: str = ""  # takes packets of sockets that are bound to this interface only
    mark: int = 0
    mask: int = 0
    inverted: bool = False
    shortest: int = -1  # routes of this length, or shorter, are passed over (suppress_prefixlength)
    unclear: bool = False  # it has other selectors: a user, a port

    def __str__(self) -> str:
        """As `ip rule` prints it, without what a reader does not need to find it."""
        words = [f"{self.priority}:"]
        words += ["not"] if self.inverted else []
        words += ["from", str(self.source or "all")]
        words += ["to", str(self.destination)] if self.destination else []
        words += ["fwmark", f"{self.mark:#x}/{self.mask:#x}"] if self.mask else []
        words += ["iif", self.iif] if self.iif else []
        words += ["oif", self.oif] if self.oif else []
        words += (
            [_LOOKUP, _TABLES.get(self.table, str(self.table))] if self.action == _LOOKUP else [self.action]
        )
        return " ".join(words)

    def takes(self, packet: Question) -> bool | None:
        """Whether it is a rule for this packet; None when that cannot be told."""
        taken = (
            self.version == packet.destination.version
            and (self.source is None or (packet.source is not None and packet.source in self.source))
            and (self.destination is None or packet.destination in self.destination)
            and (not self.iif or self.iif == (packet.iif or "lo"))
            and not self.oif
            and not self.mark & self.mask  # the packets that matter have no mark
        )
        if taken and self.unclear:
            return None
        return taken != self.inverted


@dataclass(frozen=True, slots=True)
class TableRoute:
    """A route of any kind and table."""

    prefix: Prefix
    table: int = MAIN
    kind: str = "unicast"  # or "local", "blackhole" and so on, as `ip route` has it
    interface: str = ""
    gateway: Address | None = None
    protocol: int = 0
    metric: int = 0
    source: Address | None = None  # preferred

    def __str__(self) -> str:
        """As `ip route` takes it."""
        words = [] if self.kind == "unicast" else [self.kind]
        words.append(str(self.prefix) if self.prefix.prefixlen else "default")
        words += ["via", str(self.gateway)] if self.gateway else []
        words += ["dev", self.interface] if self.interface and self.kind not in REFUSALS else []
        words += ["table", str(self.table)] if self.table != MAIN else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Question:
    """Where does a new packet go? `iif` "": this machine's own; `source` None: the kernel chooses it."""

    destination: Address
    source: Address | None = None
    iif: str = ""


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """`kind` is a route's, or "error" where the kernel only says why (`why`, `errno`)."""

    kind: str
    interface: str = ""
    table: int = 0  # 0: not told
    why: str = ""
    errno: int = 0

    @property
    def is_refused(self) -> bool:
        return self.kind == "error" or self.kind in REFUSALS


@dataclass(frozen=True, slots=True)
class Cause:
    """What decides where a packet goes: a rule, and the route in its table."""

    rule: PolicyRule
    route: TableRoute | None = None


def cause(
    packet: Question, answer: RouteAnswer, rules: Iterable[PolicyRule], routes: Iterable[TableRoute]
) -> Cause | None:
    """What led to the kernel's answer; None if it cannot be named (`goto`, a rule of another kind)."""
    holding = [route for route in routes if packet.destination in route.prefix]
    for rule in sorted(rules, key=lambda rule: rule.priority):
        takes = rule.takes(packet)
        told = bool(answer.table) and answer.table == rule.table
        if takes is False or (takes is None and not told):
            continue
        if rule.action in REFUSALS:
            return Cause(rule)
        if rule.action != _LOOKUP or (answer.table and not told):
            continue
        in_table = [r for r in holding if r.table == rule.table]
        route = max(in_table, key=lambda r: (r.prefix.prefixlen, -r.metric), default=None)
        if route is not None and route.kind != "throw" and route.prefix.prefixlen > rule.shortest:
            return Cause(rule, route)
    return None
