"""What is remembered of offers over restarts, as the JSON value in the state folder. Pure.

{"peers": {NKN ADDRESS: {"seen": {PREFIX: PREFIX as seen}, "offered": [PREFIX, …]}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from nconnect.model import Prefix
from nconnect.offers.accept import Kept

STORED = "routes"  # its name

Offered = Mapping[str, tuple[Prefix, ...]]  # NKN address of a peer -> the subnets that it offered last


def written(kept: Kept, offered: Offered) -> dict[str, Any]:
    """The value to store."""
    peers: dict[str, Any] = {}
    for peer, seen in kept.items():
        peers.setdefault(peer, {})["seen"] = {str(real): str(prefix) for real, prefix in seen.items()}
    for peer, prefixes in offered.items():
        peers.setdefault(peer, {})["offered"] = [str(prefix) for prefix in prefixes]
    return {"peers": peers}


def read(stored: object) -> tuple[Kept, Offered]:
    """What was stored; peers whose part does not have the right form are left out."""
    kept: dict[str, dict[Prefix, Prefix]] = {}
    offered: dict[str, tuple[Prefix, ...]] = {}
    peers = stored.get("peers") if isinstance(stored, dict) else None
    for peer, value in (peers if isinstance(peers, dict) else {}).items():
        try:
            seen = {ip_network(real): ip_network(prefix) for real, prefix in value.get("seen", {}).items()}
            kept[peer] = {real: prefix for real, prefix in seen.items() if _is_alike(real, prefix)}
            if "offered" in value:
                offered[peer] = tuple(map(ip_network, value["offered"]))
        except (AttributeError, TypeError, ValueError):
            continue
    return kept, offered


def _is_alike(one: Prefix, other: Prefix) -> bool:
    return one.version == other.version and one.prefixlen == other.prefixlen
