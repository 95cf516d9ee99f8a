"""Reading what `nft -j list ruleset` prints (libnftables-json(5)), into tables of `netfilter`.

Any JSON is taken: what is not understood makes a rule unclear, or is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Any

from nconnect.doctor.netfilter import (
    UNCLEAR,
    Condition,
    FirewallChain,
    FirewallRule,
    RuleVerdict,
    Span,
    Table,
    Wanted,
)
from nconnect.doctor.targets import MARKS, verdict_of

_Json = Mapping[str, Any]
Key = tuple[str, str, str]  # family, table, name

MAX_ELEMENTS = 4096  # of one set: a larger one is not looked into
_FAMILIES = frozenset({"ip", "ip6", "inet", "netdev"})
_VERDICTS = {
    "accept": RuleVerdict.ACCEPT,
    "drop": RuleVerdict.DROP,
    "reject": RuleVerdict.DROP,
    "return": RuleVerdict.RETURN,
    "continue": RuleVerdict.NONE,
    "dnat": RuleVerdict.ALTER,
    "redirect": RuleVerdict.ALTER,
    "tproxy": RuleVerdict.ALTER,
    "snat": RuleVerdict.ACCEPT,
    "masquerade": RuleVerdict.ACCEPT,
    "queue": RuleVerdict.UNCLEAR,
    "synproxy": RuleVerdict.UNCLEAR,
    "fwd": RuleVerdict.UNCLEAR,
}
_CALLS = {"jump": RuleVerdict.JUMP, "goto": RuleVerdict.GOTO}
_HARMLESS = frozenset({
    "counter", "log", "comment", "mangle", "notrack", "flow", "dup", "last", "secmark", "ct helper",
    "ct timeout", "ct expectation", "set", "map",
})  # fmt: skip
_VERSIONS: dict[object, int] = {"ip": 4, "ipv4": 4, "ip6": 6, "ipv6": 6}
_PROTOCOLS: dict[object, str] = {"icmpv6": "ipv6-icmp", 1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_OPENING = {"fin", "syn", "rst", "ack"}


def parse(ruleset: Iterable[object]) -> tuple[list[Table], set[tuple[str, str]]]:
    """The tables of the list under "nftables", and which of them (family, name) use iptables' extensions."""
    entries = [entry for entry in ruleset if isinstance(entry, Mapping)]
    tables: dict[tuple[str, str], Table] = {}
    extended: set[tuple[str, str]] = set()
    holders: dict[Key, _Json] = {}
    for entry in entries:
        for kind in ("set", "map"):
            if isinstance(holder := entry.get(kind), Mapping):
                holders[_text(holder, "family"), _text(holder, "table"), _text(holder, "name")] = holder
        if isinstance(chain := entry.get("chain"), Mapping) and _text(chain, "family") in _FAMILIES:
            _table(tables, chain).chains[_text(chain, "name")] = _chain(chain)
    for entry in entries:
        rule = entry.get("rule")
        if not isinstance(rule, Mapping) or _text(rule, "family") not in _FAMILIES:
            continue
        table = _table(tables, rule)
        reader = _RuleReader(table, holders)
        name = _text(rule, "chain")
        table.chains.setdefault(name, FirewallChain(name)).rules += reader.read(rule)
        if reader.uses_extensions:
            extended.add((table.family, table.name))
    return list(tables.values()), extended


def _table(tables: dict[tuple[str, str], Table], entry: _Json) -> Table:
    key = _text(entry, "family"), _text(entry, "table")
    return tables.setdefault(key, Table(*key, program="nft"))


def _chain(entry: _Json) -> FirewallChain:
    priority, device = entry.get("prio"), entry.get("dev")
    devices = device if isinstance(device, list) else [device]
    return FirewallChain(
        _text(entry, "name"),
        hook=_text(entry, "hook"),
        priority=priority if isinstance(priority, int) else 0,
        translates=entry.get("type") == "nat",
        drops=entry.get("policy") == "drop",
        device=tuple(name for name in devices if isinstance(name, str)),
    )


def _text(entry: _Json, key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


class _RuleReader:
    """One rule, which becomes several where a verdict map decides."""

    def __init__(self, table: Table, holders: Mapping[Key, _Json]) -> None:
        self.uses_extensions = False
        self._table = table
        self._holders = holders

    def read(self, entry: _Json) -> list[FirewallRule]:
        handle = entry.get("handle")
        number = handle if isinstance(handle, int) else 0
        conditions: list[Condition] = []
        marks = False
        parts = entry.get("expr")
        for part in parts if isinstance(parts, list) else []:
            kind, content = next(iter(part.items()), ("", None)) if isinstance(part, Mapping) else ("", None)
            if kind == "match" and isinstance(content, Mapping):
                conditions += self._match(content)
            elif kind == "vmap" and isinstance(content, Mapping):
                return [
                    *self._map(conditions, content, number),
                    FirewallRule((), RuleVerdict.NONE, sets_mark=marks),
                ]
            elif kind == "xt":
                self.uses_extensions = True
                found, verdict = _extension(content)
                conditions += found
                marks |= isinstance(content, Mapping) and content.get("name") in MARKS
                if verdict is not RuleVerdict.NONE:
                    return [FirewallRule(tuple(conditions), verdict, handle=number, sets_mark=marks)]
            elif kind in _CALLS or kind in _VERDICTS:
                verdict, target = _verdict(kind, content)
                return [FirewallRule(tuple(conditions), verdict, target, handle=number, sets_mark=marks)]
            elif kind not in _HARMLESS:
                conditions.append(UNCLEAR)
            marks |= kind == "mangle" and isinstance(content, Mapping) and _key(content.get("key")) == "mark"
            if kind == "mangle" and not marks and _moves(content):
                return [FirewallRule(tuple(conditions), RuleVerdict.ALTER, handle=number)]
        return [FirewallRule(tuple(conditions), RuleVerdict.NONE, handle=number, sets_mark=marks)]

    def _map(self, conditions: list[Condition], content: _Json, number: int) -> Iterator[FirewallRule]:
        """A rule for each element: no two of them take one packet."""
        data = content.get("data")
        elements = self._elements(data.get("set") if isinstance(data, Mapping) else data)
        if elements is None:
            yield FirewallRule((*conditions, UNCLEAR), RuleVerdict.UNCLEAR, handle=number)
            return
        for element in elements:
            if not isinstance(element, list) or len(element) != 2 or not isinstance(element[1], Mapping):
                yield FirewallRule((*conditions, UNCLEAR), RuleVerdict.UNCLEAR, handle=number)
                continue
            key, way = element
            kind, inner = next(iter(way.items()), ("", None))
            verdict, target = _verdict(kind, inner)
            matched = self._match({"op": "==", "left": content.get("key"), "right": key})
            yield FirewallRule((*conditions, *matched), verdict, target, handle=number)

    def _match(self, content: _Json) -> list[Condition]:
        op, left, right = content.get("op"), content.get("left"), content.get("right")
        if op not in ("==", "!=", "in") or not isinstance(left, Mapping):
            return [UNCLEAR]
        field, implied = _field(left, right)
        if not field:
            return [*implied, UNCLEAR]
        values = self._values(field, right)
        if values is None:
            return [*implied, UNCLEAR]
        return [*implied, Condition(field, values, op == "!=")]

    def _values(self, field: str, right: object) -> tuple[Wanted, ...] | None:
        """What a field is compared with; None where that is not understood."""
        if field == "opening":
            return ("yes",)
        inner = right.get("set") if isinstance(right, Mapping) and "set" in right else right
        elements = self._elements(inner)
        if elements is None:
            return None
        found: list[Wanted] = []
        for element in elements:
            value = _value(field, element)
            if value is None:
                return None
            found.append(value)
        return tuple(found)

    def _elements(self, listed: object) -> list[Any] | None:
        if isinstance(listed, str) and listed.startswith("@"):
            holder = self._holders.get((self._table.family, self._table.name, listed[1:]))
            if holder is None or "elem" not in holder:
                return None  # unknown, or listed without its elements
            listed = holder["elem"]
        elements = listed if isinstance(listed, list) else [listed]
        if len(elements) > MAX_ELEMENTS:
            return None
        return [e["elem"].get("val") if isinstance(e, Mapping) and isinstance(e.get("elem"), Mapping) else e
                for e in elements]  # fmt: skip


def _verdict(kind: str, content: object) -> tuple[RuleVerdict, str]:
    if kind in _CALLS:
        target = content.get("target") if isinstance(content, Mapping) else None
        return (_CALLS[kind], target) if isinstance(target, str) else (RuleVerdict.UNCLEAR, "")
    return _VERDICTS.get(kind, RuleVerdict.UNCLEAR), ""


def _extension(content: object) -> tuple[list[Condition], RuleVerdict]:
    name = _text(content, "name") if isinstance(content, Mapping) else ""
    if isinstance(content, Mapping) and content.get("type") == "target":
        return [], verdict_of(name)
    return ([] if name == "comment" else [UNCLEAR]), RuleVerdict.NONE


def _key(expression: object) -> object:
    meta = expression.get("meta") if isinstance(expression, Mapping) else None
    return meta.get("key") if isinstance(meta, Mapping) else None


def _moves(content: object) -> bool:
    """Whether a mangle statement gives the packet another address."""
    key = content.get("key") if isinstance(content, Mapping) else None
    payload = key.get("payload") if isinstance(key, Mapping) else None
    return isinstance(payload, Mapping) and payload.get("field") in ("saddr", "daddr", "sport", "dport")


def _field(left: _Json, right: object) -> tuple[str, list[Condition]]:
    """The packet's field that an expression reads, "" for none; and what its kind implies of the packet."""
    kind, content = next(iter(left.items()), ("", None))
    if kind == "meta":
        found = {"iif": "iifname", "oif": "oifname", "nfproto": "version", "protocol": "version",
                 "l4proto": "protocol"}  # fmt: skip
        key = _key(left)
        known = ("iifname", "oifname", "pkttype", "mark")
        return (found.get(key, "") or (key if key in known else "")) if isinstance(key, str) else "", []
    if kind == "payload" and isinstance(content, Mapping):
        return _of_payload(content.get("protocol"), content.get("field"))
    if kind == "ct" and isinstance(content, Mapping) and "dir" not in content:
        return {"state": "state", "direction": "direction"}.get(_text(content, "key"), ""), []
    if kind == "fib" and isinstance(content, Mapping) and content.get("result") == "type":
        flags = content.get("flags")
        return "daddr_type" if flags in ("daddr", ["daddr"]) else "", []
    if kind == "&" and isinstance(content, list) and len(content) == 2:
        if _key(content[0]) == "mark":
            return "mark", []  # the packet has the mark 0 (or an unknown one), which a mask leaves as it is
        payload = content[0].get("payload") if isinstance(content[0], Mapping) else None
        if payload == {"protocol": "tcp", "field": "flags"}:
            mask = content[1] if isinstance(content[1], list) else []
            is_opening = right in ("syn", ["syn"]) and {x for x in mask if isinstance(x, str)} == _OPENING
            return ("opening" if is_opening else ""), [Condition("protocol", ("tcp",))]
    return "", []


def _of_payload(protocol: object, field: object) -> tuple[str, list[Condition]]:
    if protocol in ("ip", "ip6"):
        implied = [Condition("version", (_VERSIONS[protocol],))]
        names: dict[object, str] = {
            "saddr": "saddr",
            "daddr": "daddr",
            "protocol": "protocol",
            "nexthdr": "protocol",
        }
        return names.get(field, ""), implied
    if protocol in ("tcp", "udp", "th"):
        either = ("tcp", "udp") if protocol == "th" else (str(protocol),)
        implied = [Condition("protocol", either)]
        return (str(field) if field in ("sport", "dport") else ""), implied
    if protocol in ("icmp", "icmpv6"):
        return "", [Condition("protocol", (_PROTOCOLS.get(protocol, "icmp"),))]
    return "", []


def _value(field: str, element: object) -> Wanted | None:
    if isinstance(element, Mapping):
        kind, content = next(iter(element.items()), ("", None))
        if kind == "prefix" and isinstance(content, Mapping):
            return _prefix(f"{content.get('addr')}/{content.get('len')}")
        if kind == "range" and isinstance(content, list) and len(content) == 2:
            first, last = content
            if isinstance(first, int) and isinstance(last, int):
                return Span(first, last)
        return None
    if field in ("saddr", "daddr"):
        return _prefix(element) if isinstance(element, str) else None
    if field in ("sport", "dport", "mark"):
        return element if isinstance(element, int) else None
    if field == "version":
        return _VERSIONS.get(element) if isinstance(element, str) else None
    if field == "protocol" and isinstance(element, str | int):
        return _PROTOCOLS.get(element, str(element))
    return element if isinstance(element, str) else None


def _prefix(text: str) -> Wanted | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
