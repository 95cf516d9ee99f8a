"""Other programs' firewalls that stop what a provider forwards, found in `nft -j list ruleset`.

A packet has to pass every base chain of the forward hook: an accept in ours does not help against a drop in
docker's, ufw's or firewalld's. A chain stops us when its policy is drop, or when it ends in a rule without
conditions that drops or rejects, unless some rule of its table lets our interface through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nconnect.doctor.findings import Command

Json = Mapping[str, Any]

_VERDICTS = ("drop", "reject")
_PASSES = ("accept", "goto", "jump")
_STOPS = "drops what is forwarded"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A chain that stops what is forwarded for the tunnel."""

    owner: str  # docker, ufw, firewalld, or the table's own name
    chain: str  # FAMILY TABLE CHAIN
    version: int | None  # 4 or 6; None: both
    commands: tuple[Command, ...]  # what lets the interface through
    safe: bool = False  # whether these may be run without asking

    @property
    def sentence(self) -> str:
        return f"{self.owner} {_STOPS} ({self.chain}), so peers reach no subnet"

    @property
    def mend(self) -> str:
        return " && ".join(" ".join(command) for command in self.commands)

    @property
    def problem(self) -> str:
        """Both, for `status`."""
        return f"{self.sentence}: `{self.mend}`"


def is_obstacle(problem: str) -> bool:
    """Whether one of `status`'s problems is an obstacle's."""
    return f" {_STOPS} (" in problem


def obstacles(ruleset: Iterable[Json], interface: str, own_prefix: str) -> tuple[Obstacle, ...]:
    """The chains that stop packets from or to `interface`. Tables named `own_prefix…` are nconnect's own.

    `ruleset` is the list under "nftables" of `nft -j list ruleset`; entries that are not understood are
    passed over.
    """
    entries = [entry for entry in ruleset if isinstance(entry, Mapping)]
    rules = [rule for entry in entries if isinstance(rule := entry.get("rule"), Mapping)]
    chains = [chain for entry in entries if isinstance(chain := entry.get("chain"), Mapping)]
    found = []
    for chain in chains:
        table = str(chain.get("table", ""))
        if chain.get("hook") != "forward" or table.startswith(own_prefix):
            continue
        if chain.get("family") not in ("ip", "ip6", "inet"):
            continue
        place = (chain.get("family"), chain.get("table"))
        of_table = [rule for rule in rules if (rule.get("family"), rule.get("table")) == place]
        of_chain = [rule for rule in of_table if rule.get("chain") == chain.get("name")]
        if not _stops(chain, of_chain) or _lets_through(of_table, interface):
            continue
        names = {str(c.get("name")) for c in chains if (c.get("family"), c.get("table")) == place}
        found.append(_obstacle(chain, names, interface))
    return tuple(found)


def legacy_obstacle(rules: str, interface: str) -> Obstacle | None:
    """The same for what `iptables-legacy -S` prints, which nft does not show."""
    lines = rules.splitlines()
    if "-P FORWARD DROP" not in lines:
        return None
    if any(f"-i {interface} " in f"{line} " and "-j ACCEPT" in line for line in lines):
        return None
    names = {line.split()[1] for line in lines if line.startswith("-N ") and len(line.split()) > 1}
    chain = {"family": "ip", "table": "filter", "name": "FORWARD"}
    return _obstacle(chain, names, interface, program="iptables-legacy")


def _stops(chain: Json, rules: list[Json]) -> bool:
    if chain.get("policy") == "drop":
        return True
    last = rules[-1].get("expr") if rules else None
    if not isinstance(last, list):
        return False
    keys = [key for part in last if isinstance(part, Mapping) for key in part]
    return "match" not in keys and any(verdict in keys for verdict in _VERDICTS)


def _lets_through(rules: Iterable[Json], interface: str) -> bool:
    """Whether what comes from the interface is accepted, or handed to a chain for what is trusted."""
    for rule in rules:
        parts = [part for part in rule.get("expr") or () if isinstance(part, Mapping)]
        if not any(_matches(part, interface) for part in parts):
            continue
        for part in parts:
            if "accept" in part or any("trusted" in target for target in _targets(part)):
                return True
    return False


def _targets(part: Json) -> Iterator[str]:
    for kind in _PASSES:
        content = part.get(kind)
        if isinstance(content, Mapping):
            yield str(content.get("target", ""))


def _matches(part: Json, interface: str) -> bool:
    match = part.get("match")
    if not isinstance(match, Mapping) or match.get("op") not in ("==", "in"):
        return False
    left = match.get("left")
    key = left.get("meta", {}).get("key") if isinstance(left, Mapping) else None
    right = match.get("right")
    return key == "iifname" and isinstance(right, str) and _fits(right, interface)


def _fits(pattern: str, interface: str) -> bool:
    return interface.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == interface


def _obstacle(chain: Json, names: set[str], interface: str, program: str | None = None) -> Obstacle:
    family, table, name = (str(chain.get(key, "")) for key in ("family", "table", "name"))
    version = {"ip": 4, "ip6": 6}.get(family)
    tables = program or ("ip6tables" if family == "ip6" else "iptables")
    where = f"{family} {table} {name}"
    if any(n.startswith(("ufw-", "ufw6-")) for n in names):
        both = tuple(("ufw", "route", "allow", way, "on", interface) for way in ("in", "out"))
        return Obstacle("ufw", where, version, both)
    if "firewalld" in table:
        commands: tuple[Command, ...] = (
            ("firewall-cmd", "--permanent", "--zone=trusted", f"--add-interface={interface}"),
            ("firewall-cmd", "--reload"),
        )
        return Obstacle("firewalld", where, version, commands)
    if "DOCKER-USER" in names:
        # Docker leaves this chain to others; what is accepted here is still judged by our own table.
        commands = tuple(
            (tables, "-I", "DOCKER-USER", way, interface, "-j", "ACCEPT") for way in ("-i", "-o")
        )
        return Obstacle("docker", where, version, commands, safe=True)
    if table == "filter" and name == "FORWARD":
        commands = tuple((tables, "-I", "FORWARD", way, interface, "-j", "ACCEPT") for way in ("-i", "-o"))
    else:
        commands = tuple(
            ("nft", "insert", "rule", family, table, name, way, interface, "accept")
            for way in ("iifname", "oifname")
        )
    return Obstacle(f"the table {table}", where, version, commands)
