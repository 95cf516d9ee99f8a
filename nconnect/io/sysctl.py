"""Kernel settings under /proc/sys, named by their path below it (`net/ipv4/ip_forward`)."""

from __future__ import annotations

from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.errors import reason

ROOT = Path("/proc/sys")


def read(name: str) -> str | None:
    """The value, or None when this kernel does not have (or does not show) the setting."""
    try:
        return (ROOT / name).read_text().strip()
    except OSError:
        return None


def write(name: str, value: str) -> None:
    """Set it; `HostError` names the setting and what to do."""
    try:
        (ROOT / name).write_text(value)
    except OSError as error:
        raise HostError(
            f"cannot set {name.replace('/', '.')} to {value}: {reason(error)}"
            " (run as root; in a container, set it on the host)"
        ) from error


def is_network(name: str) -> bool:
    """Whether it is a plain name of a setting of the network's, and no way out of /proc/sys."""
    return name.startswith(("net/ipv4/", "net/ipv6/")) and ".." not in name.split("/")


def interfaces_with(name: str) -> list[str]:
    """The IPv6 settings called `name`, one for each interface."""
    conf = ROOT / "net/ipv6/conf"
    return sorted(str(path.relative_to(ROOT)) for path in conf.glob(f"*/{name}"))
