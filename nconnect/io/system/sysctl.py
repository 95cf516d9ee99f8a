"""Kernel settings under /proc/sys, named by their path below it (`net/ipv4/ip_forward`)."""

from __future__ import annotations

import errno
import os
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
        settable = for_new_devices(name).replace("/", ".")
        advice = f"start this container with --sysctl {settable}={value}"
        if error.errno != errno.EROFS:
            advice = f"run as root; if that is a container, {advice}"
        raise HostError(
            f"cannot set {name.replace('/', '.')} to {value}: {reason(error)} ({advice})"
        ) from error


def is_read_only() -> bool:
    """Whether no setting of the network may be changed from in here, as in most containers."""
    try:
        os.close(os.open(ROOT / "net/ipv4/ip_forward", os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return False


def for_new_devices(name: str) -> str:
    """The setting that a device takes over when it is made: ours does not exist when a container starts."""
    words = name.split("/")
    if words[:1] + words[2:3] == ["net", "conf"] and words[3] not in ("all", "default"):
        words[3] = "default"
    return "/".join(words)


def is_network(name: str) -> bool:
    """Whether it is a plain name of a setting of the network's, and no way out of /proc/sys."""
    return name.startswith(("net/ipv4/", "net/ipv6/")) and ".." not in name.split("/")


def interfaces_with(name: str) -> list[str]:
    """The IPv6 settings called `name`, one for each interface."""
    conf = ROOT / "net/ipv6/conf"
    return sorted(str(path.relative_to(ROOT)) for path in conf.glob(f"*/{name}"))
