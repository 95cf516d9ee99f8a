"""What the rules of a firewall do with a packet, as far as that can be told. Pure.

A packet has to pass each base chain of each hook on its way: an accept in one chain does not override a
drop in another. Rules can match by things that are not known here (a user, a rate, a set that is too
large). So a condition is true, false or unclear, and a chain has a set of possible outcomes. It stops a
packet for certain if a drop is the only possible outcome. Rules that are not understood make a result less
certain, never wrong.

`nft_rules` and `iptables_rules` make these values of what the programs print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Network, IPv6Network

from nconnect.model import Address, Prefix


class RuleVerdict(Enum):
    ACCEPT = auto()
    DROP = auto()  # or reject
    JUMP = auto()
    GOTO = auto()
    RETURN = auto()
    ALTER = auto()  # accepted with another destination
    UNCLEAR = auto()  # handed to something that may do anything with it
    NONE = auto()  # counted, logged: the next rule is looked at


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int


Value = str | int | Address
Wanted = str | int | Prefix | Span  # a text that ends in "*" is the beginning of a name
Packet = Mapping[str, Value | None]  # None, or absent: not known


@dataclass(frozen=True, slots=True)
class Condition:
    """A packet's field is (or with `negated`, is not) one of some values. An unclear one has no field."""

    field: str = ""
    wanted: tuple[Wanted, ...] = ()
    negated: bool = False

    def holds(self, packet: Packet) -> bool | None:
        value = packet.get(self.field)
        if value is None:
            return None
        return any(_is(value, wanted) for wanted in self.wanted) != self.negated


UNCLEAR = Condition()
CONNECTION_TRACKING = -200  # its priority (NF_IP_PRI_CONNTRACK)
_UNTRACKED: Packet = {"state": "invalid", "direction": None}  # as nft and iptables see a packet before that


@dataclass(frozen=True, slots=True)
class FirewallRule:
    conditions: tuple[Condition, ...]
    verdict: RuleVerdict
    target: str = ""  # the chain of a jump or goto
    text: str = ""  # as its program prints it
    handle: int = 0  # nft's number for it; 0 where there is none
    sets_mark: bool = False

    def takes(self, packet: Packet) -> bool | None:
        """Whether all conditions hold; None when that cannot be told."""
        taken: bool | None = True
        for condition in self.conditions:
            holds = condition.holds(packet)
            if holds is False:
                return False
            if holds is None:
                taken = None
        return taken


@dataclass(slots=True)
class FirewallChain:
    name: str
    rules: list[FirewallRule] = field(default_factory=list)
    hook: str = ""  # of a base chain
    priority: int = 0
    translates: bool = False  # its type is nat: it sees the first packet of a connection only
    drops: bool = False  # its policy
    device: tuple[str, ...] = ()  # of the hooks ingress and egress


@dataclass(slots=True)
class Table:
    """All chains of one table. `program`: what its rules are made with."""

    family: str  # "ip", "ip6", "inet" or "netdev"
    name: str
    program: str  # "nft", "iptables" or "iptables-legacy"
    chains: dict[str, FirewallChain] = field(default_factory=dict)

    def takes(self, version: object) -> bool:
        """Whether packets of this IP version come by."""
        return self.family in ("inet", "netdev") or self.family == ("ip" if version == 4 else "ip6")


@dataclass(frozen=True, slots=True)
class Stop:
    """A base chain that stops a packet for certain. `rule` None: by its policy; else a rule of `chain`."""

    table: Table
    base: FirewallChain
    chain: str
    rule: FirewallRule | None


@dataclass(slots=True)
class _Outcome:
    """What may become of a packet in a chain."""

    accepts: bool = False
    drops: bool = False
    falls: bool = False  # the next rule of the chain that called is looked at
    altered: bool = False
    by: tuple[str, FirewallRule] | None = None  # the first rule that may drop it, and its chain

    def add(self, other: _Outcome) -> None:
        """All but `falls`, which is the caller's to follow."""
        self.accepts |= other.accepts
        self.drops |= other.drops
        self.altered |= other.altered
        self.by = self.by or other.by


def follow(tables: Iterable[Table], steps: Iterable[tuple[str, Packet]]) -> Iterator[Stop]:
    """The base chains that stop a packet on its way by these hooks; `steps` has the packet as it is at each.

    It ends where another program may give the packet another destination: what then comes is not known.
    """
    tables = list(tables)
    marks = any(rule.sets_mark for table in tables for chain in table.chains.values() for rule in chain.rules)
    for hook, packet in steps:
        seen = {**packet, "mark": None} if marks else packet
        here = [
            (table, chain)
            for table in tables
            if table.takes(packet.get("version"))
            for chain in table.chains.values()
            if chain.hook == hook and _is_at(chain, hook, packet)
        ]
        altered = False
        for table, base in sorted(here, key=lambda pair: pair[1].priority):
            if base.translates and packet.get("state") != "new":
                continue
            tracked = base.priority > CONNECTION_TRACKING
            outcome = _walk(table, base.name, seen if tracked else {**seen, **_UNTRACKED}, {})
            altered |= outcome.altered
            by_policy = outcome.falls and base.drops
            if outcome.accepts or outcome.altered or (outcome.falls and not base.drops):
                continue
            name, rule = outcome.by or (base.name, None)
            yield Stop(table, base, name, rule) if not by_policy else Stop(table, base, base.name, None)
        if altered:
            return


def _is_at(chain: FirewallChain, hook: str, packet: Packet) -> bool:
    field = {"ingress": "iifname", "egress": "oifname"}.get(hook)
    return field is None or packet.get(field) in chain.device


def _walk(table: Table, name: str, packet: Packet, known: dict[str, _Outcome]) -> _Outcome:
    """`known`: the outcomes of chains for this packet."""
    if name in known:
        return known[name]
    # A chain that is not there, or calls itself, may do anything.
    known[name] = _Outcome(accepts=True, drops=True, falls=True)
    chain = table.chains.get(name)
    if chain is not None:
        known[name] = _walk_rules(table, chain, packet, known)
    return known[name]


def _walk_rules(table: Table, chain: FirewallChain, packet: Packet, known: dict[str, _Outcome]) -> _Outcome:
    result = _Outcome()
    for rule in chain.rules:
        taken = rule.takes(packet)
        if taken is False:
            continue
        goes_on = False  # whether the next rule is looked at although this one takes the packet
        match rule.verdict:
            case RuleVerdict.ACCEPT:
                result.accepts = True
            case RuleVerdict.DROP:
                result.add(_Outcome(drops=True, by=(chain.name, rule)))
            case RuleVerdict.RETURN:
                result.falls = True
            case RuleVerdict.ALTER:
                result.accepts = result.altered = True
            case RuleVerdict.UNCLEAR:
                result.accepts = goes_on = True
            case RuleVerdict.JUMP:
                called = _walk(table, rule.target, packet, known)
                result.add(called)
                goes_on = called.falls
            case RuleVerdict.GOTO:
                called = _walk(table, rule.target, packet, known)
                result.add(called)
                result.falls |= called.falls
            case RuleVerdict.NONE:
                goes_on = True
        if taken and not goes_on:
            return result
    result.falls = True
    return result


def _is(value: Value, wanted: Wanted) -> bool:
    match wanted:
        case Span(first, last):
            return isinstance(value, int) and first <= value <= last
        case IPv4Network() | IPv6Network():
            return not isinstance(value, str | int) and value in wanted
        case str() if wanted.endswith("*"):
            return isinstance(value, str) and value.startswith(wanted[:-1])
    return value == wanted


def addresses(tables: Iterable[Table]) -> Iterator[Prefix]:
    """Each prefix that a rule tells apart."""
    for table in tables:
        for chain in table.chains.values():
            for rule in chain.rules:
                for condition in rule.conditions:
                    for wanted in condition.wanted:
                        if isinstance(wanted, IPv4Network | IPv6Network):
                            yield wanted
