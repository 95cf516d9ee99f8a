"""`fail_closed`: packets for the peers' prefixes leave through the tunnel, or not at all. Pure.

The rules depend on the configuration, not on routes: whatever happens to the routes and to the daemon, a
packet to a closed prefix is refused on every other interface. The rules outlive the daemon.

```
output       local packets: the exceptions below, else rejected, so that a program fails at once
forward      packets of other machines and containers: rejected
postrouting  both, once more: dropped. Only here is the interface final, after a program's mark in the
             `route` hook has sent a packet another way. Here the tunnel's name is not enough: the interface
             must be a TUN device, or another one could be given the name of ours
```

The exceptions keep the machine on its network if that has addresses of a closed prefix: DHCP, neighbour
discovery (ARP passes no such hook), ICMP to gateways, and TCP of the daemon itself to the endpoints that the
configuration names by address. Packets that a program writes to a device directly (AF_PACKET, which needs
CAP_NET_RAW) pass no hook.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nconnect.host import expressions as e
from nconnect.host.expressions import VERSIONS
from nconnect.host.intervals import merged_ranges
from nconnect.host.ruleset import AddressSet, Chain, Hook, Json, Rule
from nconnect.model import Address, Endpoint, Prefix

STANDBY = frozenset({"last", "closed_last", "closed4", "closed6"})  # see `nconnect.host.ruleset`
_PRIORITY = 300  # of the postrouting chain: after source NAT
_ND_HOP_LIMIT = 255  # RFC 4861: no router has passed such a packet on


@dataclass(frozen=True, slots=True)
class Closing:
    """What is closed, and the exceptions."""

    prefixes: tuple[Prefix, ...]
    gateways: tuple[Address, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()  # TCP
    uid: int | None = None  # the daemon's: other users' programs cannot reach the endpoints

    def __bool__(self) -> bool:
        return bool(self.prefixes)

    def holds(self, address: Address) -> bool:
        return any(address in p for p in self.prefixes)


def sets(closing: Closing) -> dict[str, AddressSet]:
    return {f"closed{v}": AddressSet(v, merged_ranges(closing.prefixes, v)) for v in VERSIONS}


def chains(interface: str, closing: Closing, base: Mapping[str, Chain]) -> dict[str, Chain]:
    """Our chains, and the chains "output" and "forward" of `base` with our rules first.

    A connection whose packets are rejected here is not reset: it continues when the tunnel is back.
    """
    not_lo = e.match(e.meta("oifname"), "lo", "!=")
    elsewhere = (e.match(e.meta("oifname"), interface, "!="), not_lo)
    excepted = tuple(_exceptions(closing))
    tunnel: Rule = (e.to_interface(interface), e.match(e.meta("oifkind"), "tun"), e.ACCEPT)
    found = {
        "closed": Chain(((e.PROHIBITED,),)),
        "closed_here": Chain((*excepted, (e.PROHIBITED,))),
        "closed_last": Chain((tunnel, *excepted, (e.DROP,))),
        "last": Chain(_jumps((not_lo,), "closed_last"), Hook("filter", "postrouting", _PRIORITY)),
    }
    for name, target in (("forward", "closed"), ("output", "closed_here")):
        found[name] = Chain((*_jumps(elsewhere, target), *base[name].rules), base[name].hook)
    return found


def _jumps(where: Iterable[Json], target: str) -> tuple[Rule, ...]:
    return tuple(
        (*where, e.match(e.address(version, "daddr"), f"@closed{version}"), e.jump(target))
        for version in VERSIONS
    )


def _exceptions(closing: Closing) -> Iterator[Rule]:
    for client, server in ((68, 67), (546, 547)):  # DHCP of IPv4 and IPv6
        ports = (e.payload("udp", "sport"), client), (e.payload("udp", "dport"), server)
        yield (*(e.match(port, number) for port, number in ports), e.ACCEPT)
    yield (e.neighbour_discovery(), e.match(e.payload("ip6", "hoplimit"), _ND_HOP_LIMIT), e.ACCEPT)
    for gateway in filter(closing.holds, closing.gateways):
        icmp = "icmp" if gateway.version == 4 else "ipv6-icmp"
        yield (_to(gateway), e.match(e.meta("l4proto"), icmp), e.ACCEPT)
    if closing.uid is not None:
        for address, port in closing.endpoints:
            if closing.holds(address):
                by_us = e.match(e.meta("skuid"), closing.uid)
                yield (_to(address), e.match(e.payload("tcp", "dport"), port), by_us, e.ACCEPT)


def _to(address: Address) -> Json:
    return e.match(e.address(address.version, "daddr"), str(address))
