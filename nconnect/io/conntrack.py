"""The connections that the kernel remembers, through `conntrack` (Debian: conntrack)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

from nconnect.host.judge import Flow
from nconnect.host.plan import Address
from nconnect.model import Prefix

_TIMEOUT_S = 10.0  # guessed
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_FAMILIES = {4: "ipv4", 6: "ipv6"}
_NAMES = {"ipv6-icmp": "icmp", "icmpv6": "icmp"}


def forget(prefixes: Iterable[Prefix], keep: Callable[[Flow], bool] | None = None) -> bool:
    """Delete the connections from and to these addresses; False when `conntrack` is not installed.

    With `keep`, of those that the addresses opened only the ones for which it is false; the others stay.
    """
    program = shutil.which("conntrack") or shutil.which("conntrack", path=_PATH)
    if program is None:
        return False
    if keep is None:
        for prefix in prefixes:
            for end in ("--orig-src", "--orig-dst"):
                _run([program, "-D", "-f", _FAMILIES[prefix.version], end, str(prefix)])
        return True
    held = tuple(prefixes)
    for version in sorted({prefix.version for prefix in held}):
        concerned: dict[Address, bool] = {}  # by source: a peer has few addresses and many connections
        for flow in parse(_run([program, "-L", "-f", _FAMILIES[version]])):
            if flow.source not in concerned:
                concerned[flow.source] = any(p.version == version and flow.source in p for p in held)
            if concerned[flow.source] and not keep(flow):
                _run([program, "-D", "-f", _FAMILIES[version], *_selection(flow)])
    return True


def parse(listing: str) -> Iterator[Flow]:
    """The flows of `conntrack -L`; the first of two equal fields is the original direction's."""
    for line in listing.splitlines():
        words = line.split()
        fields: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if equals:
                fields.setdefault(name, value)
        try:
            yield Flow(
                _NAMES.get(words[0], words[0]),
                ip_address(fields["src"]),
                ip_address(fields["dst"]),
                int(fields["sport"]) if "sport" in fields else None,
                int(fields["dport"]) if "dport" in fields else None,
            )
        except (LookupError, ValueError):
            continue  # not a connection


def _selection(flow: Flow) -> list[str]:
    selected = ["--orig-src", str(flow.source), "--orig-dst", str(flow.destination)]
    protocol = "icmpv6" if flow.protocol == "icmp" and flow.source.version == 6 else flow.protocol
    selected += ["-p", protocol]
    if flow.source_port is not None and flow.port is not None:
        selected += ["--sport", str(flow.source_port), "--dport", str(flow.port)]
    return selected


def _run(command: list[str]) -> str:
    # Exit status 1 also says that there was nothing to delete.
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    return done.stdout
