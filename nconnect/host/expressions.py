"""The few nftables expressions and statements that the rules are made of (libnftables-json(5))."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nconnect.host.ruleset import Json
from nconnect.model import Prefix

ACCEPT: Json = {"accept": None}
DROP: Json = {"drop": None}
PROHIBITED: Json = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
ECHO_REQUEST = {4: ("icmp", "echo-request"), 6: ("icmpv6", "echo-request")}
VERSIONS = (4, 6)  # of IP


def match(left: Any, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def jump(chain: str) -> Json:
    return {"jump": {"target": chain}}


def meta(key: str) -> Json:
    return {"meta": {"key": key}}


def payload(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def ip(version: int) -> str:
    """nft's name of an IP version's header."""
    return "ip" if version == 4 else "ip6"


def address(version: int, name: str) -> Json:
    """`saddr` or `daddr` of the packet."""
    return payload(ip(version), name)


def tracked_address(version: int, name: str, direction: str = "original") -> Json:
    """`saddr` or `daddr` of the connection's first packet, as it came in, or of its "reply"."""
    return {"ct": {"key": f"{ip(version)} {name}", "dir": direction}}


def from_interface(interface: str) -> Json:
    return match(meta("iifname"), interface)


def to_interface(interface: str) -> Json:
    return match(meta("oifname"), interface)


def route_back() -> Json:
    """The name of the interface by which the kernel would answer; "" where it would not."""
    return {"fib": {"result": "oifname", "flags": ["saddr"]}}


def in_state(*states: str) -> Json:
    return match({"ct": {"key": "state"}}, list(states), "in")


def in_reply_direction() -> Json:
    """The packet's sender is not the one who opened the connection."""
    return match({"ct": {"key": "direction"}}, "reply")


def in_original_direction() -> Json:
    """The packet's sender is the one who opened the connection."""
    return match({"ct": {"key": "direction"}}, "original")


def translated_destination() -> Json:
    return match({"ct": {"key": "status"}}, ["dnat"], "in")


def in_prefix(left: Json, prefix: Prefix) -> Json:
    """`left` (an address) lies in the prefix."""
    text = str(prefix.network_address)
    if prefix.prefixlen == prefix.max_prefixlen:
        return match(left, text)
    return match(left, {"prefix": {"addr": text, "len": prefix.prefixlen}})


def echo_request(version: int) -> Json:
    protocol, kind = ECHO_REQUEST[version]
    return match(payload(protocol, "type"), kind)


def icmp_error(version: int) -> Json:
    """An ICMP message that speaks of another packet."""
    kinds = {
        4: ("icmp", ["destination-unreachable", "time-exceeded", "parameter-problem"]),
        6: ("icmpv6", ["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"]),
    }
    protocol, types = kinds[version]
    return match(payload(protocol, "type"), {"set": types})


def neighbour_discovery() -> Json:
    """RFC 4861: what finds neighbours and routers on an IPv6 link."""
    types = ["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert"]
    return match(payload("icmpv6", "type"), {"set": types})


def ports_are(protocol: str | None, ports: tuple[int, int] | None) -> list[Json]:
    """Protocol "tcp", "udp" or "icmp" and destination ports; None is any. Ports alone mean TCP and UDP."""
    if protocol == "icmp":
        return [match(meta("l4proto"), {"set": ["icmp", "ipv6-icmp"]})]
    if ports is None:
        return [] if protocol is None else [match(meta("l4proto"), protocol)]
    first, last = ports
    wanted = first if first == last else {"range": [first, last]}
    if protocol is not None:
        return [match(payload(protocol, "dport"), wanted)]
    return [match(meta("l4proto"), {"set": ["tcp", "udp"]}), match(payload("th", "dport"), wanted)]


def tcp_flags_are(wanted: Iterable[str], among: Iterable[str], op: str = "==") -> Json:
    """Of the flags `among`, exactly those `wanted` are set; with the operator "!=", others are."""
    return match({"&": [payload("tcp", "flags"), list(among)]}, list(wanted), op)


def move_prefix(version: int, name: str, target: Prefix) -> Json:
    """Put the address's host bits into another prefix of the same length: stateless, checksums follow."""
    field = address(version, name)
    value = {"|": [{"&": [field, str(target.hostmask)]}, str(target.network_address)]}
    return {"mangle": {"key": field, "value": value}}


def first_packet() -> Json:
    """No packet of this connection has passed all rules yet: the kernel's table does not hold it."""
    return match({"&": [{"ct": {"key": "status"}}, "confirmed"]}, 0)


def more_than(rate: int, per: str, *, burst: int) -> Json:
    """More packets than a token bucket lets pass."""
    return {"limit": {"rate": rate, "per": per, "burst": burst, "inv": True}}


MSS: Json = {"tcp option": {"name": "maxseg", "field": "size"}}


def set_mss(value: int | Json) -> Json:
    return {"mangle": {"key": MSS, "value": value}}
