"""What a namespace's kernel holds, as text: taken before and after, to show that nothing was left behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lab.netns import Namespace

_COMMANDS = (
    "ip -o link show",
    "ip -o address show",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -4 rule show",
    "ip -6 rule show",
    "nft --stateless list ruleset",  # without counts, which change with each packet
)
_TOKENS = re.compile(r"\bburst \d+ packets")  # of a peer's flow limit: set anew after each count of its flows
_SYSCTLS = ("forwarding", "accept_ra", "rp_filter", "disable_ipv6", "accept_redirects", "send_redirects")


def snapshot(namespace: Namespace) -> frozenset[str]:
    """Interfaces, addresses, routes, rules, firewall and the sysctls of forwarding, one line each."""
    lines = set(namespace.enter(_sysctls))
    for command in _COMMANDS:
        done = namespace.run(command.split())
        context = ""
        for raw in done.stdout.splitlines():
            line = _TOKENS.sub("burst", " ".join(raw.split()))
            if raw.startswith("table "):
                context = line
            if line:
                lines.add(f"{command.split()[0]} {context}: {line}" if context else line)
    return frozenset(lines)


def differences(before: frozenset[str], after: frozenset[str]) -> list[str]:
    """What is there that was not, and what is missing; empty when nothing was left behind."""
    return [f"left: {line}" for line in sorted(after - before)] + [
        f"missing: {line}" for line in sorted(before - after)
    ]


def _sysctls() -> list[str]:
    found = [f"ip_forward = {Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"]
    for family in ("ipv4", "ipv6"):
        folder = Path(f"/proc/sys/net/{family}/conf")
        for interface in sorted(os.listdir(folder)):
            for name in _SYSCTLS:
                path = folder / interface / name
                if path.exists():
                    found.append(f"{family}.{interface}.{name} = {path.read_text().strip()}")
    return found
