"""Where the kernel sends packets that belong into the tunnel or come out of it. It is asked for each prefix.

Another program's rule before the main table, a more specific route inside a peer's prefix, or a separate
table for answers from a provided subnet can lead packets elsewhere although our own routes are all there.
One question covers a whole range of addresses that no rule and no route distinguishes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from nconnect.doctor.findings import Argv
from nconnect.host.intervals import AddressRange, owned_ranges
from nconnect.host.plan import ROUTE_PROTOCOL
from nconnect.host.policy import MAIN, Cause, PolicyRule, Question, RouteAnswer, TableRoute, cause
from nconnect.model import Address, Prefix, within

MAX_RANGES = 512  # asked about in one look, those with foreign routes first; 60 us each on a busy machine
_MAX_PAIRS = 64  # ranges of peers, and of hosts, that are asked about with one another
_MAX_NAMED = 3  # prefixes in one sentence
_VERSIONS = (4, 6)
_BY_KERNEL = 2  # RTPROT_KERNEL: the route of an interface's own network
_SENDS, _DROPS = "the kernel sends ", "the kernel drops "


@dataclass(frozen=True, slots=True)
class View:
    """What the questions are made of."""

    interface: str
    tunnel: tuple[Address, ...]  # the interface's own addresses
    peers: tuple[Prefix, ...]  # what is routed to peers
    networks: tuple[Prefix, ...] = ()  # the interface's own networks
    provided: tuple[Prefix, ...] = ()  # the real prefixes of provided subnets
    held: frozenset[Address] = frozenset()  # all addresses of this machine
    forwards: frozenset[int] = frozenset()  # the IP versions that this machine forwards
    rules: tuple[PolicyRule, ...] = ()
    routes: tuple[TableRoute, ...] = ()


@dataclass(frozen=True, slots=True)
class Detour:
    """Packets that take a wrong way, or none. `advice`: what to do if no command helps."""

    sentence: str
    commands: tuple[Argv, ...] = ()
    advice: str = ""

    @property
    def mend(self) -> str:
        return " && ".join(" ".join(command) for command in self.commands) or self.advice

    @property
    def problem(self) -> str:
        """Both, for `status`."""
        return f"{self.sentence}: `{self.mend}`" if self.commands else f"{self.sentence}; {self.advice}"


def is_detour(problem: str) -> bool:
    """Whether one of `status`'s problems is a detour's."""
    return problem.startswith((_SENDS, _DROPS))


class Sample(NamedTuple):
    """An address that stands for a part of `prefix`: for that whole, or for a foreign prefix inside it."""

    address: Address
    prefix: Prefix
    part: Prefix


@dataclass(slots=True)
class _Found:
    """One cause, and all that it takes elsewhere."""

    subject: str
    answer: RouteAnswer
    packet: Question
    cause: Cause | None
    prefixes: dict[Prefix, Prefix] = field(default_factory=dict)  # as it is named -> the whole that it is in


def find_detours(
    view: View, ask: Callable[[Question], RouteAnswer]
) -> tuple[list[Detour], dict[Prefix, str]]:
    """The detours, and the device that leads to each provided subnet ("" if none does)."""
    asked = _Look(view, ask)
    asked.into_the_tunnel()
    for subnet in view.provided:
        asked.to_and_from(subnet)
    return [_detour(entry, view.interface) for entry in asked.found.values()], asked.devices


class _Look:
    def __init__(self, view: View, ask: Callable[[Question], RouteAnswer]) -> None:
        self.found: dict[object, _Found] = {}
        self.devices: dict[Prefix, str] = {}
        self._view = view
        self._ask = ask
        self._foreign = [
            *(route.prefix for route in view.routes if route.protocol != ROUTE_PROTOCOL),
            *(end for rule in view.rules for end in (rule.destination, rule.source) if end),
        ]
        peers, foreign = _Whole(view.peers), _Whole(self._foreign)
        on_peers = [part for part in self._foreign if peers.around(part)]
        on_peers += [part for prefix in view.peers if (part := foreign.around(prefix))]
        self._peers = samples(folded(view.peers, view.networks), on_peers, view.held)[:MAX_RANGES]

    def into_the_tunnel(self) -> None:
        for peer in self._peers:
            own = [address for address in self._view.tunnel if address.version == peer.address.version]
            for source in (None, *own[:1]):
                self._expect_tunnel("packets to {}", Question(peer.address, source), peer)

    def to_and_from(self, subnet: Prefix) -> None:
        view = self._view
        peers = [peer for peer in self._peers if peer.address.version == subnet.version][:_MAX_PAIRS]
        answers = f"answers from {subnet} to {{}}"
        for address in view.held:
            if address in subnet:
                for peer in peers:
                    self._expect_tunnel(answers, Question(peer.address, address), peer)
        if not peers or subnet.version not in view.forwards:
            return
        for host in samples([subnet], self._foreign, view.held)[:_MAX_PAIRS]:
            packet = Question(host.address, peers[0].address, view.interface)
            answer = self._ask(packet)
            if answer.is_refused or answer.interface == view.interface:
                self._note("what peers send to {}", packet, answer, host)
                continue
            if answer.kind == "local":
                continue
            self.devices.setdefault(subnet, answer.interface)
            for peer in peers:
                packet = Question(peer.address, host.address, answer.interface)
                self._expect_tunnel(answers, packet, peer)

    def _expect_tunnel(self, subject: str, packet: Question, sample: Sample) -> None:
        answer = self._ask(packet)
        if answer.kind == "local":
            return  # an address of this machine's own: nobody else's packets are meant
        if answer.is_refused or answer.interface != self._view.interface:
            self._note(subject, packet, answer, sample)

    def _note(self, subject: str, packet: Question, answer: RouteAnswer, sample: Sample) -> None:
        why = cause(packet, answer, self._view.rules, self._view.routes)
        if why and why.route and why.rule.table == MAIN and why.route.protocol == _BY_KERNEL:
            return  # a network that this machine is in, which the plan leaves as it is
        key = (subject, answer, str(why) if why else sample.prefix)
        entry = self.found.setdefault(key, _Found(subject, answer, packet, why))
        route = why.route.prefix if why and why.route else None
        entry.prefixes[route if route and within(route, sample.prefix) else sample.prefix] = sample.prefix


def samples(whole: Iterable[Prefix], foreign: Iterable[Prefix], held: frozenset[Address]) -> list[Sample]:
    """An address for each part of `whole` that the prefixes `foreign` tell apart, the parts in them first.

    None of `held`, and no network or broadcast address where there is another.
    """
    ours = dict.fromkeys(whole)
    held_by = _Whole(ours)
    parts = [part for part in dict.fromkeys(foreign) if part not in ours and held_by.around(part)]
    found = []
    for version in _VERSIONS:
        ranges = owned_ranges(((prefix, prefix) for prefix in (*ours, *parts)), version)
        found += [(owner, _in(of_owner, owner, held)) for of_owner, owner in ranges.items()]
    found.sort(key=lambda entry: entry[0] in ours)
    return [
        Sample(address, prefix, owner)
        for owner, address in found
        if address is not None and (prefix := held_by.around(owner)) is not None
    ]


class _Whole:
    """Prefixes, of which the longest that holds another one is found without a look at each."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._held = {(p.version, p.prefixlen, int(p.network_address)): p for p in prefixes}
        self._lengths = sorted({key[:2] for key in self._held}, reverse=True)

    def around(self, prefix: Prefix) -> Prefix | None:
        """The longest that holds it; itself, if it is one."""
        number = int(prefix.network_address)
        for version, length in self._lengths:
            if version == prefix.version and length <= prefix.prefixlen:
                shift = prefix.max_prefixlen - length
                found = self._held.get((version, length, number >> shift << shift))
                if found is not None:
                    return found
        return None


def _in(part: AddressRange, owner: Prefix, held: frozenset[Address]) -> Address | None:
    ends = {owner.network_address, owner.broadcast_address} if owner.num_addresses > 2 else set()
    for number in range(part.first, min(part.last, part.first + 8) + 1):
        address = type(owner.network_address)(number)
        if address not in held and address not in ends:
            return address
    return None


def folded(prefixes: Iterable[Prefix], networks: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The prefixes, those in one of the networks as that network: one route leads to all of them."""
    whole = _Whole(networks)
    return tuple(dict.fromkeys(whole.around(prefix) or prefix for prefix in prefixes))


def _detour(found: _Found, interface: str) -> Detour:
    named = list(map(str, found.prefixes))
    more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
    subject = found.subject.format(", ".join(named[:_MAX_NAMED]) + more)
    answer = found.answer
    if answer.is_refused:
        sentence = f"{_DROPS}{subject}"
    elif answer.interface == interface:
        sentence = f"{_SENDS}{subject} back through {interface}"
    else:
        sentence = f"{_SENDS}{subject} through {answer.interface or 'nothing'} instead of {interface}"
    if answer.errno == errno.EXDEV:
        knob = f"net.ipv4.conf.{found.packet.iif}.rp_filter"
        return Detour(f"{sentence} (rp_filter)", (("sysctl", "-w", f"{knob}=2"),))
    why = found.cause
    if why is None:
        look = f"look at `ip route get {found.packet.destination}` and `ip rule`"
        return Detour(f"{sentence} ({answer.why or answer.kind})", advice=look)
    decides = why.route is None or why.rule.table != MAIN
    text = [f"rule {why.rule}"] if decides else []
    text += [f"route {why.route}"] if why.route else []
    return Detour(f"{sentence} ({', '.join(text)})", tuple(_mend(found, why, decides)))


def _mend(found: _Found, why: Cause, by_rule: bool) -> Iterator[Argv]:
    ip = ("ip", "-6") if why.rule.version == 6 else ("ip",)
    if not by_rule:
        yield (*ip, "route", "del", *str(why.route).split())
        return
    before = str(max(0, why.rule.priority - 1))
    for prefix in list(dict.fromkeys(found.prefixes.values()))[:_MAX_NAMED]:
        yield (*ip, "rule", "add", "to", str(prefix), "lookup", "main", "priority", before)
