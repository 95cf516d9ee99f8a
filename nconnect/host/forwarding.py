"""Rules against forwarding between other interfaces, if the machine forwards only because of us. Pure.

To provide a subnet, nconnect switches forwarding on, for the whole machine: a neighbour on the uplink that
routes the subnet through this machine would reach it, and other networks, without any right. So if we
switched it on, new connections between two other interfaces are dropped and counted.

Other programs (Docker, libvirt, another VPN) may begin to forward after us, when the setting is on already.
They create virtual interfaces, which we do not block: a virtual interface that did not exist when we switched
forwarding on is theirs. Bridged packets that pass the IP hooks (br_netfilter) enter and leave by one bridge,
and are not forwarded by the machine at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from nconnect.host import expressions as e
from nconnect.host.ruleset import Json, Rule

NOT_FORWARDED_COUNTER = "not_forwarded"
# IFLA_INFO_KIND of what programs that forward make for it; tun is also the kind of a tap device.
VIRTUAL_KINDS = frozenset({"bridge", "veth", "tun", "wireguard"})


@dataclass(frozen=True, slots=True)
class Guard:
    """`versions` of IP whose forwarding we switched on, `passing` interfaces of programs that forward."""

    versions: tuple[int, ...]
    passing: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


def rules(guard: Guard) -> tuple[Rule, ...]:
    """Rules for the end of the forward chain, after those about our own interface."""
    made: list[Rule] = [
        (e.from_interface(bridge), e.to_interface(bridge), e.ACCEPT) for bridge in guard.bridges
    ]
    if guard.passing:
        names: Json = {"set": list(guard.passing)}
        made += [(e.match(e.meta(key), names), e.ACCEPT) for key in ("iifname", "oifname")]
    made += [
        (
            e.match(e.meta("nfproto"), f"ipv{version}"),
            e.in_state("new"),
            {"counter": NOT_FORWARDED_COUNTER},
            e.DROP,
        )
        for version in guard.versions
    ]
    return tuple(made)
