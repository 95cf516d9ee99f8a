"""Reading what `iptables-save` prints, into tables of `netfilter`.

Of the extensions that rules of iptables match by ("conntrack", "addrtype"), nft shows the names only, so the
tables that use them are read from here; and it shows nothing at all of iptables-legacy.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from ipaddress import ip_network

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

# Priorities of the hooks (linux/netfilter_ipv4.h), by table.
PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
TABLES = (*PRIORITIES, "nat")
HOOKS = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
# Those whose options are all read below, or say nothing.
_MODULES = {"tcp", "udp", "comment", "conntrack", "state", "addrtype", "multiport", "mark"}
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}
_OPENING = ("FIN,SYN,RST,ACK", "SYN")


def parse(text: str, family: str, program: str) -> list[Table]:
    """The tables in an output of `iptables-save` (`family` "ip") or `ip6tables-save` ("ip6").

    What is not understood in a rule makes it unclear; a line that is no rule is passed over.
    """
    tables: list[Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(Table(family, line[1:].strip(), program))
        elif line.startswith(":") and tables:
            name, _, rest = line[1:].partition(" ")
            tables[-1].chains[name] = _chain(tables[-1].name, name, rest.startswith("DROP"))
        elif line.startswith("-A ") and tables:
            _, name, text = (line + "  ").split(" ", 2)
            chain = tables[-1].chains.setdefault(name, FirewallChain(name))
            chain.rules.append(_rule(text.strip(), set(tables[-1].chains)))
    return tables


def _chain(table: str, name: str, drops: bool) -> FirewallChain:
    hook = HOOKS.get(name, "")
    at_source = table == "nat" and hook in ("postrouting", "input")
    priority = (100 if at_source else -100) if table == "nat" else PRIORITIES.get(table, 0)
    return FirewallChain(
        name,
        hook=hook,
        priority=priority if hook else 0,
        translates=table == "nat",
        drops=drops and bool(hook),
    )


def _rule(text: str, chains: set[str]) -> FirewallRule:
    try:
        words = shlex.split(text)
    except ValueError:
        return FirewallRule((UNCLEAR,), RuleVerdict.UNCLEAR, text=text)
    target = ""
    goto = False
    conditions: list[Condition] = []
    for negated, option, values in _options(words):
        if option in ("-j", "-g"):
            target, goto = values[0] if values else "", option == "-g"
            break  # what follows are the target's own options
        conditions += _conditions(option, values, negated)
    if target in chains:
        verdict = RuleVerdict.GOTO if goto else RuleVerdict.JUMP
    else:
        verdict = verdict_of(target) if target else RuleVerdict.NONE
    return FirewallRule(
        tuple(conditions),
        verdict,
        target if target in chains else "",
        text,
        sets_mark=target in MARKS,
    )


def _options(words: list[str]) -> Iterator[tuple[bool, str, list[str]]]:
    """Each option with its values, and whether "!" stands before it."""
    negated = False
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "!":
            negated = True
            continue
        values = words[at : at + 1] if word == "--comment" else []  # which may look like options
        at += len(values)
        while at < len(words) and not words[at].startswith("-") and words[at] != "!":
            values.append(words[at])
            at += 1
        yield negated, word, values
        negated = False


def _conditions(option: str, values: list[str], negated: bool) -> list[Condition]:
    value = values[0] if values else ""
    match option:
        case "-m":
            return [] if value in _MODULES else [UNCLEAR]
        case "--comment":
            return []
        case "-i" | "-o":
            name = value[:-1] + "*" if value.endswith("+") else value
            return [Condition("iifname" if option == "-i" else "oifname", (name,), negated)]
        case "-p":
            return [] if value == "all" else [Condition("protocol", (_PROTOCOLS.get(value, value),), negated)]
        case "-s" | "-d":
            return [_address("saddr" if option == "-s" else "daddr", value, negated)]
        case "--dport" | "--dports":
            return [Condition("dport", _ports(value), negated)]
        case "--sport" | "--sports":
            return [Condition("sport", _ports(value), negated)]
        case "--ctstate" | "--state":
            states = tuple(value.lower().split(","))
            return [UNCLEAR if {"dnat", "snat"} & {*states} else Condition("state", states, negated)]
        case "--dst-type":
            return [Condition("daddr_type", tuple(value.lower().split(",")), negated)]
        case "--mark":
            # The packet has the mark 0 (or an unknown one), which a mask leaves as it is.
            return [Condition("mark", (_number(value.partition("/")[0]),), negated)]
        case "--tcp-flags" if tuple(values) == _OPENING:
            return [Condition("opening", ("yes",), negated)]
    return [UNCLEAR]


def _address(field: str, text: str, negated: bool) -> Condition:
    try:
        return Condition(field, (ip_network(text, strict=False),), negated)
    except ValueError:
        return UNCLEAR  # a mask with holes, or a list


def _ports(text: str) -> tuple[Wanted, ...]:
    found: list[Wanted] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        found.append(Span(_number(first or "0"), _number(last or "65535" if colon else first)))
    return tuple(found)


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return -1
