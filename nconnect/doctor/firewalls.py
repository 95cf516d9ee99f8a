"""Other programs' firewalls that stop packets of the tunnel: what peers send here and through here, what this
side sends to them, the answers to both, and the daemon's own packets to its node.

Each kind of packet is followed through all hooks on its way (`netfilter`). Only packets that are stopped for
certain are reported. Our own tables are left out, because their refusals are intended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from nconnect.doctor.findings import Argv
from nconnect.doctor.iptables_rules import HOOKS, TABLES
from nconnect.doctor.netfilter import Stop, Table, addresses, follow
from nconnect.doctor.passages import Direction, Passage, Site, passages
from nconnect.host.ruleset import TABLE_PREFIX

_MAX_NAMED = 3
_PROBLEM = re.compile(r".+ drops .+ \((ip|ip6|inet|netdev) ")
_FAMILY = {4: "ip", 6: "ip6"}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A chain that stops packets of the tunnel."""

    owner: str  # docker, ufw, firewalld, libvirt, or the table's own name
    subject: str  # what it drops, in words
    chain: str  # FAMILY TABLE CHAIN, of the rule
    rule: str = ""  # as its program prints it; "": by the chain's policy
    handle: int = 0  # nft's number of the rule, where its text is still to be found
    commands: tuple[Argv, ...] = ()  # what lets the packets through
    safe: bool = False  # whether the commands may be run without asking
    of_direct: bool = False  # it stops direct TCP streams alone, and there are other paths

    @property
    def sentence(self) -> str:
        how = f": {self.rule}" if self.rule else ", by its policy" if not self.handle else ""
        return f"{self.owner} drops {self.subject} ({self.chain}{how})"

    @property
    def mend(self) -> str:
        return " && ".join(" ".join(command) for command in self.commands) or self._advice

    @property
    def problem(self) -> str:
        """Both, for `status`."""
        return f"{self.sentence}: `{self.mend}`" if self.commands else f"{self.sentence}; {self._advice}"

    @property
    def _advice(self) -> str:
        return f"look at `nft -a list chain {self.chain}`"


def is_obstacle(problem: str) -> bool:
    """Whether one of `status`'s problems is an obstacle's."""
    return _PROBLEM.match(problem) is not None


def obstacles(tables: Iterable[Table], site: Site) -> tuple[Obstacle, ...]:
    """The chains that stop packets of the tunnel for certain, each once."""
    others = [table for table in tables if not table.name.startswith(TABLE_PREFIX)]
    found: dict[object, _Stopped] = {}
    for passage in passages(site, list(dict.fromkeys(addresses(others)))):
        for stop in follow(others, passage.steps):
            commands, safe = _mend(stop, passage, site.config.interface)
            key = (stop.table.family, stop.table.name, stop.table.program, stop.base.name, commands)
            entry = found.setdefault(key, _Stopped(stop, passage, commands, safe))
            if entry.passage.subject == passage.subject:
                entry.named[passage.named] = passage.whole
    return tuple(entry.obstacle() for entry in found.values())


@dataclass(slots=True)
class _Stopped:
    """All passages that end at one chain."""

    stop: Stop
    passage: Passage
    commands: tuple[Argv, ...]
    safe: bool
    named: dict[str, str] = field(default_factory=dict)  # a part -> the whole that it is in

    def obstacle(self) -> Obstacle:
        stop = self.stop
        names = [part for part, whole in self.named.items() if part == whole or whole not in self.named]
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        rule = stop.rule
        return Obstacle(
            _owner(stop),
            self.passage.subject.format(", ".join(names[:_MAX_NAMED]) + more),
            f"{stop.table.family} {stop.table.name} {stop.chain}",
            rule.text if rule else "",
            rule.handle if rule and not rule.text else 0,
            self.commands,
            self.safe,
            self.passage.way is Direction.DIRECT,
        )


def _owner(stop: Stop) -> str:
    names = {chain.split("-")[0] for chain in stop.table.chains}
    if _is_ufw(stop):
        return "ufw"
    if "firewalld" in stop.table.name:
        return "firewalld"
    if stop.chain.startswith("LIBVIRT") or stop.table.name.startswith("libvirt"):
        return "libvirt"
    if "DOCKER" in names or _is_dockers(stop):
        return "docker"
    return f"the table {stop.table.name}"


def _is_ufw(stop: Stop) -> bool:
    return any(name.startswith(("ufw-", "ufw6-")) for name in stop.table.chains)


def _is_dockers(stop: Stop) -> bool:
    """Whether it is a rule by which Docker 28 shields a container from what comes by no bridge of its own."""
    rule = stop.rule
    return (
        stop.table.name == "raw"
        and rule is not None
        and sorted((c.field, c.negated) for c in rule.conditions if c.field != "version")
        == [("daddr", False), ("iifname", True)]
    )


def _mend(stop: Stop, passage: Passage, tunnel: str) -> tuple[tuple[Argv, ...], bool]:
    """What lets the packets through, and whether that is safe to do."""
    table, base = stop.table, stop.base
    if _is_ufw(stop) and (commands := _by_ufw(base.hook, passage, tunnel)):
        return commands, False
    if "firewalld" in table.name and passage.port:
        return (
            ("firewall-cmd", "--permanent", f"--add-port={passage.port}/tcp"),
            ("firewall-cmd", "--reload"),
        ), False
    if "firewalld" in table.name and passage.node is None and base.hook in ("prerouting", "input", "forward"):
        zone = ("firewall-cmd", "--permanent", "--zone=trusted", f"--add-interface={tunnel}")
        return (zone, ("firewall-cmd", "--reload")), False
    by_iptables = table.family in _FAMILY.values() and table.name in TABLES and base.name in HOOKS
    native = table.program == "nft" and not by_iptables
    selectors = _selectors(base.hook, passage, tunnel, native)
    if native:
        head = ("nft", "insert", "rule", table.family, table.name, base.name)
        return tuple((*head, *selector, "accept") for selector in selectors), False
    program = ("ip6tables" if table.family == "ip6" else "iptables") + (
        "-legacy" if table.program.endswith("-legacy") else ""
    )
    # Docker leaves DOCKER-USER to others; what is accepted there is still judged by our own table.
    docker = "DOCKER-USER" in table.chains and base.hook == "forward"
    shield = _is_dockers(stop)
    of_table = () if table.name == "filter" else ("-t", table.name)
    head = (program, *of_table, "-I", "DOCKER-USER" if docker else base.name)
    return tuple((*head, *selector, "-j", "ACCEPT") for selector in selectors), docker or shield


def _by_ufw(hook: str, passage: Passage, tunnel: str) -> tuple[Argv, ...]:
    node = passage.node
    if node is not None:
        to = ("proto", "tcp", "to", str(node.address), "port", str(node.port))
        return (("ufw", "allow", "out", *to),) if passage.way is Direction.NODE and hook == "output" else ()
    if passage.port:
        return (("ufw", "allow", f"{passage.port}/tcp"),)
    if hook == "forward":
        return tuple(("ufw", "route", "allow", way, "on", tunnel) for way in ("in", "out"))
    way = {"input": "in", "output": "out"}.get(hook)
    return (("ufw", "allow", way, "on", tunnel),) if way else ()


def _selectors(hook: str, passage: Passage, tunnel: str, native: bool) -> tuple[Argv, ...]:
    """The packets to let through, in the words of nft or iptables; none where the hook cannot tell them."""
    entering: Argv = ("iifname" if native else "-i", tunnel)
    leaving: Argv = ("oifname" if native else "-o", tunnel)
    node = passage.node
    if node is not None:
        outward = passage.way is Direction.NODE
        if native:
            end, number = ("daddr", "dport") if outward else ("saddr", "sport")
            return ((_FAMILY[node.address.version], end, str(node.address), "tcp", number, str(node.port)),)
        end, number = ("-d", "--dport") if outward else ("-s", "--sport")
        return ((end, str(node.address), "-p", "tcp", number, str(node.port)),)
    if passage.port:
        port = str(passage.port)
        return (("tcp", "dport", port) if native else ("-p", "tcp", "--dport", port),)
    if hook == "forward":
        return (entering, leaving)
    if passage.way in (Direction.IN, Direction.REPLY) and hook in ("ingress", "prerouting", "input"):
        return (entering,)
    if passage.way in (Direction.BACK, Direction.INTO) and hook in ("output", "postrouting", "egress"):
        return (leaving,)
    return ()
