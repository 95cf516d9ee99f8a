"""One nftables table as a value, and the transactions (nft's JSON) that lead from one value to another.

A transaction switches rules in one step. `transactions(old, new)` never leaves a moment in which something
that both contain is missing: first new chains are added, then one transaction switches rules, sets and
maps, then unreferenced objects are removed. nft 1.0.6 (Debian 12) refuses a map element that jumps to a
chain made in the same transaction, which requires this order too.

A table with unknown contents (a killed daemon's) is deleted and made again. In that transaction there is a
moment in which neither table judges packets: on Linux 6.18 about ten packets of a flood pass each time. What
must not be open meanwhile, `Ruleset.standby`, is loaded as a separate table before, and deleted afterwards.

Schema: libnftables-json(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nconnect.host.intervals import AddressRange

Json = dict[str, Any]
Rule = tuple[Json, ...]  # the statements of one rule

FAMILY = "inet"
TABLE_PREFIX = "nconnect_"
_ESCAPED = re.compile(rb"_(_|[0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain hangs. Its policy is always accept: it judges the packets of our interface only."""

    kind: str  # "filter" or "nat"
    hook: str  # "prerouting", "input", "forward", "output" or "postrouting"
    priority: int


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[Rule, ...]
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class AddressSet:
    """An interval set of addresses of one IP version."""

    version: int
    elements: tuple[AddressRange, ...]


@dataclass(frozen=True, slots=True)
class AddressMap:
    """An interval map from addresses of one IP version to verdicts, or to the names of counters.

    A target is "accept", "jump CHAIN", or the name of a counter.
    """

    version: int
    data: str  # "verdict" or "counter"
    elements: Mapping[AddressRange, str]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that our table holds. `peers` names the peer behind each chain and counter id."""

    table: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, AddressSet] = field(default_factory=dict)
    maps: Mapping[str, AddressMap] = field(default_factory=dict)
    counters: Mapping[str, str] = field(default_factory=dict)  # counter -> name of its peer, or ""
    standby: frozenset[str] = frozenset()  # chains and sets that hold while the table is made anew


def table_name(interface: str) -> str:
    """The table of an interface. No two interfaces share one: `_` and odd characters are escaped."""
    escaped = "".join(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else "__" if byte == 0x5F else f"_{byte:02x}"
        for byte in interface.encode()
    )
    return TABLE_PREFIX + escaped


def interface_of_table(table: str) -> str | None:
    """The interface to which a table belongs; None for a table that is not ours."""
    if not table.startswith(TABLE_PREFIX):
        return None

    def plain(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        return b"_" if code == b"_" else bytes([int(code, 16)])

    return _ESCAPED.sub(plain, table.removeprefix(TABLE_PREFIX).encode()).decode(errors="replace")


def transactions(old: Ruleset | None, new: Ruleset) -> list[list[Json]]:
    """What `nft -j -f -` must be given, in order. `old` None: whatever bears the table's name is replaced."""
    if old is None:
        empty = Ruleset(new.table)
        made = [[*_anew(new.table), *_additions(empty, new)], _switch(empty, new)]
        if new.standby:
            made = [_standby(new), *made, _without(standby_name(new.table))]
    else:
        made = [_additions(old, new), _switch(old, new), _removals(old, new)]
    return [commands for commands in made if commands]


def standby_name(table: str) -> str:
    """Of the table that stands in for another one's standby chains. No interface's table has such a name."""
    return f"{table}_standby"


def deletion(table: str) -> list[Json]:
    """The transaction that removes a table, and succeeds when there is none."""
    return [*_without(table), *_without(standby_name(table))]


def _standby(new: Ruleset) -> list[Json]:
    table = standby_name(new.table)
    part = Ruleset(
        table,
        {name: chain for name, chain in new.chains.items() if name in new.standby},
        {name: addresses for name, addresses in new.sets.items() if name in new.standby},
    )
    return [*_anew(table), *_additions(Ruleset(table), part)]


def _anew(table: str) -> list[Json]:
    return [*_without(table), {"add": {"table": {"family": FAMILY, "name": table}}}]


def _without(table: str) -> list[Json]:
    """The `add` makes the `delete` succeed when there was no table."""
    name = {"family": FAMILY, "name": table}
    return [{"add": {"table": name}}, {"delete": {"table": name}}]


def _additions(old: Ruleset, new: Ruleset) -> list[Json]:
    """What nothing refers to yet. Regular chains are all declared before any rule that jumps to them."""
    table = new.table
    chains: list[Json] = []
    rules: list[Json] = []
    for name, chain in new.chains.items():
        if name in old.chains:
            continue
        declared = _named(table, name)
        if chain.hook is not None:
            declared |= {
                "type": chain.hook.kind,
                "hook": chain.hook.hook,
                "prio": chain.hook.priority,
                "policy": "accept",
            }
        chains.append({"add": {"chain": declared}})
        rules += [_rule(table, name, rule) for rule in chain.rules]
    holders: list[Json] = []
    for name in new.counters:
        if name not in old.counters:
            holders.append({"add": {"counter": _named(table, name)}})
    for name, addresses in new.sets.items():
        if name not in old.sets:
            holders.append(_holder("set", table, name, addresses.version))
            holders += _elements("add", table, name, addresses.elements)
    for name, mapping in new.maps.items():
        if name not in old.maps:
            holders.append(_holder("map", table, name, mapping.version, mapping.data))
    return chains + holders + rules


def _switch(old: Ruleset, new: Ruleset) -> list[Json]:
    """One transaction for all that takes effect; deletions first, since elements must not overlap."""
    table = new.table
    gone: list[Json] = []
    come: list[Json] = []
    for name, chain in new.chains.items():
        before = old.chains.get(name)
        if before is not None and before.rules != chain.rules:
            gone.append({"flush": {"chain": _named(table, name)}})
            come += [_rule(table, name, rule) for rule in chain.rules]
    for name, addresses in new.sets.items():
        held = old.sets.get(name)
        if held is not None:
            kept = set(held.elements) & set(addresses.elements)
            gone += _elements("delete", table, name, [e for e in held.elements if e not in kept])
            come += _elements("add", table, name, [e for e in addresses.elements if e not in kept])
    for name, mapping in new.maps.items():
        had: Mapping[AddressRange, str] = old.maps[name].elements if name in old.maps else {}
        changed = {e for e in had.keys() | mapping.elements.keys() if had.get(e) != mapping.elements.get(e)}
        gone += _targets("delete", table, name, mapping.data, {e: t for e, t in had.items() if e in changed})
        come += _targets(
            "add", table, name, mapping.data, {e: t for e, t in mapping.elements.items() if e in changed}
        )
    for name, mapping in old.maps.items():
        if name not in new.maps:  # nor may a chain go that one of its elements jumps to
            gone += _targets("delete", table, name, mapping.data, mapping.elements)
    return gone + come


def _removals(old: Ruleset, new: Ruleset) -> list[Json]:
    table = new.table
    gone = [name for name in old.chains if name not in new.chains]
    # Emptied first: one of them may jump to another.
    result: list[Json] = [{"flush": {"chain": _named(table, n)}} for n in gone]
    result += [{"delete": {"chain": _named(table, n)}} for n in gone]
    for kind, before, after in (
        ("map", old.maps, new.maps),
        ("set", old.sets, new.sets),
        ("counter", old.counters, new.counters),
    ):
        for name in before:
            if name not in after:
                result.append({"delete": {kind: _named(table, name)}})
    return result


def _named(table: str, name: str) -> Json:
    return {"family": FAMILY, "table": table, "name": name}


def _rule(table: str, chain: str, rule: Rule) -> Json:
    return {"add": {"rule": {"family": FAMILY, "table": table, "chain": chain, "expr": list(rule)}}}


def _holder(kind: str, table: str, name: str, version: int, data: str | None = None) -> Json:
    described = _named(table, name) | {"type": f"ipv{version}_addr", "flags": ["interval"]}
    if data is not None:
        described["map"] = data
    return {"add": {kind: described}}


def _key(addresses: AddressRange) -> Json | str:
    first, last = addresses.ends()
    return first if first == last else {"range": [first, last]}


def _elements(verb: str, table: str, name: str, elements: Iterable[AddressRange]) -> list[Json]:
    return _listed(verb, table, name, [_key(element) for element in elements])


def _targets(verb: str, table: str, name: str, data: str, elements: Mapping[AddressRange, str]) -> list[Json]:
    targets = [
        [_key(element), target if data == "counter" else _verdict(target)]
        for element, target in elements.items()
    ]
    return _listed(verb, table, name, targets)


def _listed(verb: str, table: str, name: str, elements: list[Any]) -> list[Json]:
    return [{verb: {"element": _named(table, name) | {"elem": elements}}}] if elements else []


def _verdict(target: str) -> Json:
    word, _, chain = target.partition(" ")
    return {word: {"target": chain}} if chain else {word: None}
