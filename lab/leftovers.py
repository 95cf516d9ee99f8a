"""Finds what a lab left on the machine, and removes labs that were kept."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from lab.netns import ip


def machine() -> frozenset[str]:
    """The machine's own interfaces, routes and firewall tables, one line each."""
    lines: set[str] = set()
    for command in ("ip -o link show", "ip route show", "ip -6 route show", "nft list tables"):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        lines.update(f"{command}: {line.strip()}" for line in done.stdout.splitlines())
    return frozenset(lines)


def of_lab(marker: str) -> list[str]:
    """Namespaces, processes and folders that hold `marker`, the name that all parts of one lab share."""
    found = [f"namespace {name}" for name in namespaces_named(marker)]
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue  # it has just ended
            if marker.encode() in words:
                found.append(f"process {folder.name}")
    return found + [f"folder {path}" for path in Path(tempfile.gettempdir()).glob(f"{marker}*")]


def namespaces_named(start: str) -> list[str]:
    return [line.split()[0] for line in ip("netns list").splitlines() if line.startswith(start)]


def remove_kept(prefix: str) -> list[str]:
    """End and remove the labs called `<prefix><pid>` whose process has gone; return what was removed."""
    removed = []
    for name in namespaces_named(prefix):
        match = re.fullmatch(rf"{re.escape(prefix)}(\d+)-\w+", name)
        if match and not Path("/proc", match[1]).exists():
            for pid in (int(word) for word in ip(f"netns pids {name}").split()):
                _end(pid)
            ip(f"netns del {name}")
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
            removed.append(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        match = re.match(rf"{re.escape(prefix)}(\d+)-", folder.name)
        if match and not Path("/proc", match[1]).exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(str(folder))
    return removed


def _end(pid: int) -> None:
    """SIGTERM, then SIGKILL after five seconds."""
    try:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while Path("/proc", str(pid)).exists():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline += 5
            time.sleep(0.02)
    except ProcessLookupError:
        pass
