"""The firewall: which packets may pass between the tunnel and this machine, and its networks.

One table. What comes out of the tunnel:

```
prerouting  raw      source unknown: drop; loopback destination: drop; SEEN -> REAL (mapped subnets)
            ways     source that the kernel would answer by another interface: drop; and the reverse
            dstnat   tunnel address and exposed port -> loopback
input       tunnel_in      services: judged; replies and errors to what this side opened; ping; judged
forward     tunnel_across  replies and errors to what this side opened; not provided: refused; judged
            forward        between other interfaces: see nconnect.host.forwarding
out         own_sources    of the addresses of this device, the one that the provider gave
taken up    TCP for provided subnets, where a program here dials them again (a tunnel without root): such
            packets go to its socket by `input`, and are judged as those in `forward`
both, later limit          a new connection above the peer's max_flows: see nconnect.host.flow_limits
```

Into the tunnel may go: replies; and new connections from other machines, only if this side provides nothing
(a container on the user's device) or has `inbound`. Every packet that the opener of a connection sends is
judged, and never an `established` state that remembers an older rule: a connection whose right is revoked
ends at its next packet.

Replies and errors are accepted at this side's tunnel addresses and in the subnets that it provides, and only
from prefixes that are routed into the tunnel: a network that this machine reaches by another way does not
belong to a peer, whatever its allowed_ips say.

Each chain in which a packet can end refuses; the base chains drop what might be left.

A paused peer may open nothing here (its `allow` is empty then, see `nconnect.daemon.shut`), and what this
side sends in connections that it opens to that peer is refused before it enters the tunnel.

A side that provides nothing accepts no connection from its peers (no ping either), unless `inbound` is set.
On a side that provides something, `inbound` opens nothing on the machine itself.

`allow`: if absent, everything that is provided, and the services; if a list, only its entries. An entry for
a single address allows that address, even one of the provider's own. A wider entry allows only the services
at the provider's own addresses in it. Every peer may ping the tunnel addresses. For mapped subnets, entries
may use the address that peers see. The mapping is stateless, so an ICMP error about a mapped packet quotes
its real address, which the peer's kernel does not recognise: TCP is reset at once there, UDP is refused
silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

from nconnect.host import closing as closing_rules
from nconnect.host import expressions as e
from nconnect.host import flow_limits, forwarding
from nconnect.host.closing import Closing
from nconnect.host.expressions import VERSIONS
from nconnect.host.forwarding import Guard
from nconnect.host.intervals import AddressRange, merged_ranges, owned_ranges, ranges_without
from nconnect.host.offered import loopback_of, peer_id, provides, reachable_exposed, real_prefix, sources
from nconnect.host.ruleset import AddressMap, AddressSet, Chain, Hook, Json, Rule, Ruleset, table_name
from nconnect.model import Address, AllowRule, Config, Exposed, PeerConfig, Prefix, ProvidedSubnet

OPENED_COUNTER = "opened"  # prefix of each peer's counter of connections, in either direction
EVERYTHING = "accept"
SERVICES = "jump services"
TAKEN_UP = 0x6E63  # the mark of packets that a program takes up
# Netfilter's own places (uapi/linux/netfilter_ipv4.h); REAL -> SEEN comes after source NAT.
_RAW, _AFTER_RAW, _MANGLE, _DSTNAT, _FILTER, _SRCNAT, _AFTER_SRCNAT = -300, -290, -150, -100, 0, 100, 300
_LOOPBACK = IPv4Network("127.0.0.0/8")
_OPENING = ("fin", "syn", "rst", "ack")  # of these, only SYN is set in a connection's first segment


def ruleset(
    config: Config,
    closing: Closing | None = None,
    guard: Guard | None = None,
    elsewhere: Iterable[Prefix] = (),
    limits: Mapping[str, int] | None = None,
    *,
    taken_up_at: int = 0,
) -> Ruleset:
    """The table for a configuration.

    `closing`: prefixes that may be reached through the tunnel only. `guard`: block forwarding between other
    interfaces that is on because of us. `elsewhere`: prefixes that this machine reaches by another way than
    the tunnel, which are therefore no sources of a peer. `limits`: peer's name -> how many connections it
    may have. `taken_up_at`: the port of the transparent socket that takes TCP for provided subnets, and
    packets with `TAKEN_UP` are routed to this machine; 0: they are forwarded.
    """
    exposed = reachable_exposed(config)
    owned = [(prefix, peer) for peer in config.peers for prefix in peer.allowed_ips]
    chains = _base_chains(config) | {
        "raw": _raw(config),
        "ways": _ways(config.interface),
        "unanswered": Chain((*_COUNTED, (e.DROP,))),
        "tunnel_in": Chain(_local_rules(config, exposed)),
        "tunnel_across": Chain(_across_rules(config)),
        "into_tunnel": Chain(_into_rules(config)),
        "judge_in": Chain(_judged_by("local")),
        "judge_across": Chain(_judged_by("across")),
        "services": Chain(_service_rules(config, exposed)),
        "refuse": Chain((*_COUNTED, *_REJECT)),
        "mss": _mss(config),
    }
    chains |= _address_translation(config, exposed)
    counters = {f"refused_{peer_id(peer)}": peer.name for peer in config.peers}
    counters |= {f"{OPENED_COUNTER}_{peer_id(peer)}": peer.name for peer in config.peers}
    limited = {peer_id(peer): (limits or {})[peer.name] for peer in config.peers if limits}
    if limited:
        entering = e.from_interface(config.interface)
        opened = tuple((entering, *rule) for rule in _opened("saddr"))
        chains |= flow_limits.chains(config.interface, limited, _REJECT, opened)
        counters |= {f"{flow_limits.FLOW_LIMIT_COUNTER}_{peer_id(peer)}": peer.name for peer in config.peers}
    if taken_up_at and config.provide.subnets:
        chains["taken_up"] = taken_up(config.interface, taken_up_at)
        local = chains["input"]
        marked = (e.from_interface(config.interface), e.match(e.meta("mark"), TAKEN_UP))
        chains["input"] = Chain(((*marked, e.jump("tunnel_across")), *local.rules), local.hook)
    if guard is not None:
        forward = chains["forward"]
        chains["forward"] = Chain((*forward.rules, *forwarding.rules(guard)), forward.hook)
        counters[forwarding.NOT_FORWARDED_COUNTER] = ""
    if closing:
        chains |= closing_rules.chains(config.interface, closing, chains)
    for peer in config.peers:
        if peer.allow:
            chains[f"across_{peer_id(peer)}"] = Chain(
                tuple(_across_allowed(peer.allow, config.provide.subnets))
            )
            chains[f"local_{peer_id(peer)}"] = Chain(
                tuple(_local_allowed(peer.allow, config.provide.subnets, exposed))
            )
    several = sources(config)
    chains |= _own_sources(config, several)
    sets: dict[str, AddressSet] = {}
    maps: dict[str, AddressMap] = {}
    real = [subnet.real for subnet in config.provide.subnets]
    elsewhere = tuple(elsewhere)
    for version in VERSIONS:
        owners = owned_ranges(((prefix, peer_id(peer)) for prefix, peer in owned), version)
        by_id = {peer_id(peer): peer for peer in config.peers}
        sets[f"sources{version}"] = AddressSet(
            version, ranges_without((p for p, _ in owned), elsewhere, version)
        )
        sets[f"own{version}"] = AddressSet(version, merged_ranges(_own(config, real, exposed), version))
        sets[f"provided{version}"] = AddressSet(version, merged_ranges(real, version))
        if _pauses(config):
            paused = [at for at, owner in owners.items() if by_id[owner].paused is not None]
            sets[f"paused{version}"] = AddressSet(version, tuple(paused))
        maps[f"across{version}"] = AddressMap(
            version, "verdict", _verdicts(owners, by_id, EVERYTHING, "across_{}")
        )
        maps[f"local{version}"] = AddressMap(
            version, "verdict", _verdicts(owners, by_id, SERVICES, "local_{}")
        )
        maps[f"refused{version}"] = AddressMap(
            version, "counter", {at: f"refused_{owner}" for at, owner in owners.items()}
        )
        maps[f"{OPENED_COUNTER}{version}"] = AddressMap(
            version, "counter", {at: f"{OPENED_COUNTER}_{owner}" for at, owner in owners.items()}
        )
        if several:
            maps[f"from{version}"] = AddressMap(
                version, "verdict", {at: f"jump from_{owner}" for at, owner in owners.items()}
            )
        if limited:
            maps[f"limit{version}"] = AddressMap(
                version, "verdict", {at: f"jump limit_{owner}" for at, owner in owners.items()}
            )
    if closing:
        sets |= closing_rules.sets(closing)
    standby = closing_rules.STANDBY if closing else frozenset[str]()
    return Ruleset(table_name(config.interface), chains, sets, maps, counters, standby)


def _own(config: Config, provided: Iterable[Prefix], exposed: tuple[Exposed, ...]) -> Iterator[Prefix]:
    """This machine's addresses at which replies and errors may arrive: those that belong to the tunnel."""
    for address in config.address:
        yield ip_network(address.ip)
    yield from provided
    if exposed:
        yield _LOOPBACK  # behind destination NAT


def _verdicts(
    owners: dict[AddressRange, str], by_id: dict[str, PeerConfig], unlimited: str, chain: str
) -> dict[AddressRange, str]:
    """A peer with an empty `allow` has no element, so its packets reach the refusal."""
    result = {}
    for addresses, owner in owners.items():
        allow = by_id[owner].allow
        if allow is None:
            result[addresses] = unlimited
        elif allow:
            result[addresses] = "jump " + chain.format(owner)
    return result


def _base_chains(config: Config) -> dict[str, Chain]:
    interface = config.interface
    entering = e.from_interface(interface)
    leaving = e.to_interface(interface)
    # After a revocation has flushed its connections, conntrack would take the next segment of the local
    # server for a new connection of ours, and let the peer's answers in: a first segment must look like one.
    stale = e.tcp_flags_are(("syn",), _OPENING, "!=")
    paused = ((leaving, *rule) for rule in _paused_rules(config))
    return {
        "input": Chain(
            ((entering, e.jump("tunnel_in")), (entering, e.DROP)), Hook("filter", "input", _FILTER)
        ),
        "forward": Chain(
            (
                (entering, e.jump("tunnel_across")),
                (entering, e.DROP),
                (leaving, e.jump("into_tunnel")),
            ),
            Hook("filter", "forward", _FILTER),
        ),
        "output": Chain(
            (
                *paused,
                (leaving, e.in_state("new"), stale, *_TCP_RESET),
                *((leaving, *rule) for rule in _opened("daddr")),
            ),
            Hook("filter", "output", _FILTER),
        ),
    }


def _opened(end: str) -> tuple[Rule, ...]:
    """Count a connection that is opened, for the peer to which that end of it belongs."""
    return tuple(
        (
            e.first_packet(),
            {"counter": {"map": {"key": e.address(version, end), "data": f"@{OPENED_COUNTER}{version}"}}},
        )
        for version in VERSIONS
    )


def _pauses(config: Config) -> bool:
    return any(peer.paused is not None for peer in config.peers)


def _paused_rules(config: Config) -> Iterator[Rule]:
    """What this side opens to a paused peer is refused; refusals of what that peer opens are replies."""
    if _pauses(config):
        for version in VERSIONS:
            to_paused = e.match(e.address(version, "daddr"), f"@paused{version}")
            yield from ((to_paused, e.in_original_direction(), *refusal) for refusal in _REJECT)


# Neither passed (source NAT would leave them as they are) nor refused: a reset for a late duplicate would end
# a healthy connection.
_INVALID: Rule = (e.in_state("invalid"), e.DROP)
# When somebody had removed the rules, the kernel missed a part of each connection, and may take what comes
# then for invalid, for ever. Whether an acknowledgement is for a connection the TCP at its end knows better;
# without one, or at a listener, it resets it.
_CONTINUED: Rule = (e.in_state("invalid"), e.tcp_flags_are(("ack",), ("syn", "rst", "ack")), e.ACCEPT)
_TCP_RESET: Rule = (e.match(e.meta("l4proto"), "tcp"), {"reject": {"type": "tcp reset"}})
_REJECT: tuple[Rule, ...] = (_TCP_RESET, (e.PROHIBITED,))
# For the peer to which the packet's source belongs, if there is one.
_COUNTED: tuple[Rule, ...] = tuple(
    ({"counter": {"map": {"key": e.address(version, "saddr"), "data": f"@refused{version}"}}},)
    for version in VERSIONS
)


def _raw(config: Config) -> Chain:
    """Before connection tracking: drop packets without a peer's source, and those that cannot be answered."""
    entering = e.from_interface(config.interface)
    rules: list[Rule] = []
    for version in VERSIONS:
        unknown = e.match(e.address(version, "saddr"), f"@sources{version}", "!=")
        rules.append((entering, unknown, e.jump("unanswered")))
    # With route_localnet (for `expose`) the kernel itself would no longer refuse these.
    rules.append((entering, e.in_prefix(e.address(4, "daddr"), _LOOPBACK), e.DROP))
    rules.append((entering, e.in_prefix(e.address(6, "daddr"), IPv6Network("::1/128")), e.DROP))
    for subnet in _mapped(config.provide.subnets):
        version = subnet.seen.version
        rules.append(
            (
                entering,
                e.in_prefix(e.address(version, "daddr"), subnet.seen),
                e.move_prefix(version, "daddr", subnet.real),
                e.ACCEPT,  # or another map could move it on
            )
        )
    return Chain(tuple(rules), Hook("filter", "prerouting", _RAW))


def _ways(interface: str) -> Chain:
    """Require that each packet comes by the interface by which the kernel would answer it now.

    This is before connection tracking, which would accept a forged segment as the connection's. Packets
    from the tunnel must have a source that is routed there, and such sources may come by the tunnel only:
    otherwise a neighbour on another interface could inject packets. The destination is already the real one
    (mapped subnets).
    """
    answered_here = e.match(e.route_back(), interface)
    rules: list[Rule] = [
        (e.from_interface(interface), e.match(e.route_back(), interface, "!="), e.jump("unanswered"))
    ]
    for version in VERSIONS:
        of_a_peer = e.match(e.address(version, "saddr"), f"@sources{version}")
        rules.append((e.match(e.meta("iifname"), interface, "!="), of_a_peer, answered_here, e.DROP))
    return Chain(tuple(rules), Hook("filter", "prerouting", _AFTER_RAW))


def taken_up(interface: str, port: int) -> Chain:
    """Hand TCP for other machines in the provided subnets to a socket here, the destination unchanged."""
    not_ours = e.match({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!=")
    return Chain(
        tuple(
            (
                e.from_interface(interface),
                e.match(e.meta("l4proto"), "tcp"),
                e.match(e.address(version, "daddr"), f"@provided{version}"),
                not_ours,
                {"tproxy": {"family": e.ip(version), "port": port}},
                {"mangle": {"key": e.meta("mark"), "value": TAKEN_UP}},
                e.ACCEPT,
            )
            for version in VERSIONS
        ),
        Hook("filter", "prerouting", _MANGLE),
    )


def _address_translation(config: Config, exposed: tuple[Exposed, ...]) -> dict[str, Chain]:
    """NAT chains exist only if they are used: each costs work for every new connection of the machine."""
    interface = config.interface
    entering, leaving = e.from_interface(interface), e.to_interface(interface)
    chains: dict[str, Chain] = {}
    if config.provide.subnets and config.provide.masquerade:
        out = e.match(e.meta("oifname"), interface, "!=")
        chains["srcnat"] = Chain(
            ((entering, out, {"masquerade": None}),), Hook("nat", "postrouting", _SRCNAT)
        )
    if exposed:
        rules: list[Rule] = []
        for address in config.address:
            for server in exposed:
                loopback = loopback_of(server)
                if address.version == 4 and loopback is not None:
                    to = {"dnat": {"family": "ip", "addr": str(loopback), "port": server.port}}
                    at = e.match(e.address(4, "daddr"), str(address.ip))
                    rules.append((entering, at, *e.ports_are("tcp", (server.port, server.port)), to))
        chains["dstnat"] = Chain(tuple(rules), Hook("nat", "prerouting", _DSTNAT))
    mapped = _mapped(config.provide.subnets)
    if mapped:
        chains["seen"] = Chain(
            tuple(
                (
                    leaving,
                    e.in_prefix(e.address(subnet.real.version, "saddr"), subnet.real),
                    e.move_prefix(subnet.real.version, "saddr", subnet.seen),
                    e.ACCEPT,
                )
                for subnet in mapped
            ),
            Hook("filter", "postrouting", _AFTER_SRCNAT),
        )
    return chains


def _own_sources(config: Config, several: Mapping[str, Mapping[int, Address]]) -> dict[str, Chain]:
    """Packets to a provider leave with the address that it gave this device, where there are several.

    The route's preferred source is for programs that choose none; this is for the others, and for machines
    behind this one. Before other programs' masquerading, which would take the interface's first address.
    """
    if not several:
        return {}
    leaving = e.to_interface(config.interface)
    chains = {
        "own_sources": Chain(
            tuple(
                (leaving, {"vmap": {"key": e.address(version, "daddr"), "data": f"@from{version}"}})
                for version in VERSIONS
            ),
            Hook("nat", "postrouting", _SRCNAT - 1),
        )
    }
    for peer in config.peers:
        rules: list[Rule] = []
        for version, address in sorted(several.get(peer.name, {}).items()):
            source = e.address(version, "saddr")
            rules.append((e.match(source, f"@provided{version}"), {"return": None}))
            family = {"family": e.ip(version), "addr": str(address)}
            rules.append((e.match(source, str(address), "!="), {"snat": family}))
        chains[f"from_{peer_id(peer)}"] = Chain(tuple(rules))
    return chains


def _mapped(subnets: Iterable[ProvidedSubnet]) -> list[ProvidedSubnet]:
    return [subnet for subnet in subnets if subnet.real != subnet.seen]


def _answers() -> list[Rule]:
    """Packets of connections that this side opened, and ICMP errors about the tunnel's packets."""
    rules: list[Rule] = [(e.in_reply_direction(), e.in_state("established"), e.ACCEPT)]
    for version in VERSIONS:
        # Which connection an error relates to is its sender's word: it must at least be one of the tunnel's.
        for end in (e.tracked_address(version, "saddr"), e.tracked_address(version, "saddr", "reply")):
            rules.append(
                (
                    e.in_state("related"),
                    e.icmp_error(version),
                    e.match(end, f"@sources{version}"),
                    e.ACCEPT,
                )
            )
    return rules


def _local_rules(config: Config, exposed: tuple[Exposed, ...]) -> tuple[Rule, ...]:
    """To this machine itself."""
    to_us = e.match({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!=")
    rules: list[Rule] = [(to_us, e.DROP)]  # broadcast and multicast
    elsewhere = [e.match(e.address(version, "daddr"), f"@own{version}", "!=") for version in VERSIONS]
    if not provides(config):
        rules += [(not_ours, e.jump("refuse")) for not_ours in elsewhere]
        rules += _answers()
        if config.inbound:
            rules += [*((e.icmp_error(version), e.DROP) for version in VERSIONS), (e.ACCEPT,)]
        else:
            rules += [_CONTINUED, _INVALID, (e.jump("refuse"),)]
        return tuple(rules)
    # Before the answers: what a flushed connection's server still sends must not turn it into one of ours.
    for service in config.provide.services:
        rules.append((*e.ports_are(service.protocol, service.ports), e.jump("judge_in")))
    if exposed:
        rules.append((e.in_state("new", "established"), *_exposed_now(), e.jump("judge_in")))
    rules.append(_INVALID)
    rules += [(not_ours, e.jump("judge_in")) for not_ours in elsewhere]
    rules += _answers()
    for address in config.address:
        at = e.match(e.address(address.version, "daddr"), str(address.ip))
        rules.append((at, e.echo_request(address.version), e.ACCEPT))
    rules.append((e.jump("judge_in"),))
    return tuple(rules)


def _exposed_now() -> list[Json]:
    """The destination was the tunnel address and is loopback now."""
    loopback = e.in_prefix(e.address(4, "daddr"), _LOOPBACK)
    return [loopback, e.translated_destination()]


def _across_rules(config: Config) -> tuple[Rule, ...]:
    """Through this machine to another one."""
    rules = [_INVALID, *_answers()]
    rules.append((e.to_interface(config.interface), e.jump("refuse")))  # from peer to peer
    for version in VERSIONS:
        rules.append((e.match(e.address(version, "daddr"), f"@provided{version}", "!="), e.jump("refuse")))
    rules.append((e.jump("judge_across"),))
    return tuple(rules)


def _into_rules(config: Config) -> tuple[Rule, ...]:
    """From another machine into the tunnel."""
    rules: list[Rule] = [_INVALID, *_paused_rules(config)]
    rules.append((e.in_reply_direction(), e.in_state("established"), e.ACCEPT))
    rules.append((e.in_state("related"), e.ACCEPT))
    if config.inbound or not provides(config):
        rules.append((e.in_state("new"), e.tcp_flags_are(("syn",), _OPENING, "!="), *_TCP_RESET))
        rules += _opened("daddr")
        rules.append((e.in_state("new", "established"), e.ACCEPT))
    rules += _REJECT
    return tuple(rules)


def _judged_by(maps: str) -> tuple[Rule, ...]:
    """The peer's own chain, found by its source address; it accepts or returns."""
    return (
        *(({"vmap": {"key": e.address(v, "saddr"), "data": f"@{maps}{v}"}},) for v in VERSIONS),
        (e.jump("refuse"),),
    )


def _service_rules(config: Config, exposed: tuple[Exposed, ...]) -> tuple[Rule, ...]:
    rules: list[Rule] = [(e.echo_request(version), e.ACCEPT) for version in VERSIONS]
    rules += [(*e.ports_are(s.protocol, s.ports), e.ACCEPT) for s in config.provide.services]
    rules += [(*_exposed_now(), *e.ports_are("tcp", (s.port, s.port)), e.ACCEPT) for s in exposed]
    return tuple(rules)


def _across_allowed(allow: Iterable[AllowRule], subnets: tuple[ProvidedSubnet, ...]) -> Iterable[Rule]:
    for entry in allow:
        prefix = real_prefix(entry.prefix, subnets)
        at = e.in_prefix(e.address(prefix.version, "daddr"), prefix)
        yield (at, *e.ports_are(entry.protocol, entry.ports), e.ACCEPT)


def _local_allowed(
    allow: Iterable[AllowRule], subnets: tuple[ProvidedSubnet, ...], exposed: tuple[Exposed, ...]
) -> Iterable[Rule]:
    for entry in allow:
        prefix = real_prefix(entry.prefix, subnets)
        named = prefix.prefixlen == prefix.max_prefixlen
        verdict = e.ACCEPT if named else e.jump("services")
        ports = e.ports_are(entry.protocol, entry.ports)
        yield (e.in_prefix(e.address(prefix.version, "daddr"), prefix), *ports, verdict)
        if exposed and prefix.version == 4:
            asked_for = e.in_prefix(e.tracked_address(4, "daddr"), entry.prefix)
            yield (*_exposed_now(), asked_for, *ports, verdict)


def _mss(config: Config) -> Chain:
    """Clamp TCP's segment size to the path, in both directions, or to `[provide] mtu`."""
    rules: list[Rule] = []
    for side in (e.from_interface(config.interface), e.to_interface(config.interface)):
        opening = e.tcp_flags_are(("syn",), ("syn", "rst"))
        rules.append((side, opening, e.set_mss({"rt": {"key": "mtu"}})))
        if config.provide.mtu is not None:
            for version in VERSIONS:
                size = config.provide.mtu - (40 if version == 4 else 60)
                of_version = e.match(e.meta("nfproto"), f"ipv{version}")
                rules.append((side, opening, of_version, e.match(e.MSS, size, ">"), e.set_mss(size)))
    return Chain(tuple(rules), Hook("filter", "forward", _MANGLE))
