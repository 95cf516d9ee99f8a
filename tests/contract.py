"""What users' scripts rely on, written down once more: commands, their options, the fields of `--json`.

Fields may be added, never renamed or given another type. So this is no copy of the product's own classes: a
test that fails here has found a change that breaks somebody's script.

A shape is a type, a tuple of alternatives (None among them), [shape] for a list, {name: shape} for an object
with at least these fields, or `Counts` for an object of counters under names of any kind.
"""

from __future__ import annotations

from typing import Any


class Counts:
    """{NAME: whole number}."""


COMMANDS: dict[str, tuple[str, ...]] = {
    "init": ("--identifier", "--address", "--provide", "--service", "--seed-rpc"),
    "up": ("-d", "--detach", "--keep-trying"),
    "down": (),
    "wait": ("--timeout",),
    "status": ("--watch", "--json"),
    "address": ("--json",),
    "peer add": ("--allowed-ips", "--allow"),
    "peer list": ("--json",),
    "peer show": ("--json",),
    "peer set": ("--allowed-ips", "--allow"),
    "peer remove": (),
    "peer pending": ("--json",),
    "peer approve": (),
    "provide show": ("--json",),
    "provide add": ("--subnet", "--service", "--expose"),
    "provide remove": ("--subnet", "--service", "--expose"),
    "invite": (),
    "invite new": ("--json",),
    "invite list": ("--json",),
    "join": ("--json",),
    "ping": ("--json",),
    "doctor": ("--json",),
    "node": ("--listen", "--ws-port", "--rpc-port", "--advertise"),
    "node status": ("--json",),
    "version": ("--json",),
}

_MAYBE_NUMBER, _MAYBE_TEXT = (int, float, None), (str, None)
_NUMBER = (int, float)
_PEER = {
    "name": str,
    "address": str,
    "allowed_ips": [str],
    "allow": ([str], None),
    "preshared_key": bool,
    "expires": _MAYBE_NUMBER,
    "state": _MAYBE_TEXT,
}
JSON: dict[str, Any] = {
    "status": {
        "interface": str,
        "address": str,
        "public_key": str,
        "links": [{"node": str, "state": str, "rtt_ms": _MAYBE_NUMBER}],
        "peers": [
            {
                "name": str,
                "address": str,
                "allowed_ips": [str],
                "allow": ([str], None),
                "state": str,
                "path": str,
                "cipher": _MAYBE_TEXT,
                "last_handshake_at": _MAYBE_NUMBER,
                "expires": _MAYBE_NUMBER,
                "rtt_ms": _MAYBE_NUMBER,
                "rx_bytes": int,
                "tx_bytes": int,
                "rx_packets": int,
                "tx_packets": int,
                "drops": Counts,
            }
        ],
        "routes": [str],
        "skipped_routes": [{"route": str, "why": str}],
        "names": dict,
        "names_by": str,
    },
    "address": {"interface": str, "address": str, "identifier": str, "public_key": str},
    "version": {"version": str, "python": str, "kernel": str},
    "peer show": _PEER,
    "peer list": {"peers": [_PEER]},
    "peer pending": {"pending": [{"address": str, "first_at": _NUMBER, "last_at": _NUMBER, "count": int}]},
    "provide show": {
        "subnets": [str], "services": [str], "expose": [str], "masquerade": bool, "mtu": (int, None),
    },
    "invite new": {"token": str, "name": str, "expires": _NUMBER},
    "invite list": {
        "invitations": [
            {
                "id": str,
                "name": str,
                "state": str,
                "made_at": _NUMBER,
                "expires": _NUMBER,
                "allow": ([str], None),
                "address": [str],
                "used_by": _MAYBE_TEXT,
                "used_at": _MAYBE_NUMBER,
            }
        ]
    },
    "ping": {
        "peer": str, "sent": int, "received": int, "rtt_ms": [_NUMBER],
        "min_ms": _MAYBE_NUMBER, "avg_ms": _MAYBE_NUMBER, "max_ms": _MAYBE_NUMBER,
    },
    "doctor": {
        "interface": str,
        "ok": bool,
        "findings": [{"check": str, "level": str, "text": str, "mend": _MAYBE_TEXT, "fixable": bool}],
    },
    "node status": {
        "pid": int,
        "version": str,
        "listen": str,
        "ws_port": (int, None),
        "rpc_port": (int, None),
        "public_key": str,
        "uptime_s": _NUMBER,
        "connections": int,
        "clients": int,
        "messages": int,
        "bytes": int,
        "held_messages": int,
        "held_bytes": int,
        "queue_bytes": int,
        "queue_drops": int,
        "wss_port": (int, None),
        "https_port": (int, None),
        "logins": int,
        "drops": Counts,
        "cluster": (dict, None),
        "port": (int, None),
        "fingerprint": _MAYBE_TEXT,
        "seed_url": str,
        "stun": ({"ports": [int], "answers": int, "drops": Counts}, None),
    },
}  # fmt: skip
LINK_STATES = {"connecting", "up", "down"}
PEER_STATES = {"never", "handshaking", "up", "stale", "expired"}
PATHS = {"node", "direct"}


def breaches(shape: Any, value: Any, where: str = "") -> list[str]:
    """Where a value is not of this shape, a line each."""
    if isinstance(shape, tuple):
        tried = [breaches(one, value, where) for one in shape]
        return [] if [] in tried else [f"{where}: {value!r} is none of {shape}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [b for i, item in enumerate(value) for b in breaches(shape[0], item, f"{where}[{i}]")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        missing = [f"{where}.{name} is missing" for name in shape if name not in value]
        there = [name for name in shape if name in value]
        return missing + [b for name in there for b in breaches(shape[name], value[name], f"{where}.{name}")]
    if shape is Counts:
        good = isinstance(value, dict) and all(type(count) is int for count in value.values())
        return [] if good else [f"{where}: {value!r} are no counts"]
    good = value is None if shape is None else type(value) is shape
    return [] if good else [f"{where}: {value!r} is no {shape}"]
