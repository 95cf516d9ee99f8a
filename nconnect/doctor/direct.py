"""What direct paths this device can have: what is in their way, and what would help. Pure.

A direct path needs one side that the other can send to first. Which NATs let that happen:
docs/decisions/0030, and the table in docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from nconnect.doctor.facts import Facts, NatFact
from nconnect.doctor.findings import Finding, Level, ok
from nconnect.nat.port_mapping import is_inner
from nconnect.wire.direct import NatVerdict


def check_direct(facts: Facts) -> Iterator[Finding]:
    """None of it is a mistake: where there is no direct path, packets go by a node."""
    config = facts.config
    if config is None or not config.peers:
        return
    if config.network.direct == "off" and all(peer.direct in (None, "off") for peer in config.peers):
        yield ok("direct", 'direct = "off": packets go by a node, and nothing listens for others')
        return
    port = facts.direct_port or config.network.direct_port
    yield from _by_udp(facts, f"UDP port {port}" if port else "UDP port direct_port")
    for obstacle in facts.obstacles:
        if obstacle.of_direct:
            text = f"{obstacle.sentence}: direct paths by TCP, which are faster, cannot begin at a peer"
            yield Finding("direct", Level.OK, text, obstacle.mend)


def _by_udp(facts: Facts, port: str) -> Iterator[Finding]:
    found = [nat for nat in facts.nats if nat.verdict.nat is not NatVerdict.UNKNOWN]
    if not found:
        return
    router = facts.router
    is_mapped = router is not None and router.speaks and router.outside and not is_inner(router.outside)
    if all(nat.verdict.nat is NatVerdict.BLOCKED for nat in found):
        yield Finding(
            "direct",
            Level.OK,
            "no direct path by UDP from this network: by TCP, to peers that can be reached, at most",
            "have the network let UDP out, where you can",
        )
    elif any(_is_reachable(nat) for nat in found):
        yield ok("direct", "direct paths are to be expected: this machine has an address of the internet")
    elif is_mapped:
        yield ok("direct", "direct paths are to be expected: the router sends a port on to this machine")
    elif any(nat.verdict.nat is NatVerdict.EASY for nat in found):
        yield Finding(
            "direct",
            Level.OK,
            "direct paths are to be expected, but to peers behind a hard NAT",
            f"for those: switch on PCP, NAT-PMP or UPnP in the router, or forward {port} to this machine",
        )
    else:
        yield Finding(
            "direct",
            Level.OK,
            "direct paths are found only to peers whose own side lets packets in: the NAT here is hard",
            f"switch on PCP, NAT-PMP or UPnP in the router, or forward {port} to this machine; IPv6 on both"
            " sides helps too",
        )


def _is_reachable(nat: NatFact) -> bool:
    """Whether this machine's own address is what the internet sees."""
    mapped = nat.verdict.mapped
    return mapped is not None and mapped.address == nat.own
