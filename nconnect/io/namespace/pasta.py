"""The ordinary network of commands in the namespace: pasta(1) of passt, a program of its own, if it is there.

pasta has an interface in the namespace, and opens a connection of the machine's own network for each one that
leaves by it. It is given an address that no network has (192.0.0.0/29, RFC 7335), so that no route of the
tunnel's is another one's, and maps nothing to the machine's loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from nconnect.io.net import name_servers

MISSING = (
    "commands of `nconnect run` reach the tunnel and nothing else: install passt (its program pasta) for"
    " their ordinary network"
)
PROGRAM_VARIABLE = "NCONNECT_PASTA"  # where it is, if it is not in $PATH
INTERFACE = "machine0"
_ADDRESS, _PREFIX_LENGTH, _GATEWAY = "192.0.0.2", "29", "192.0.0.1"
_START_S, _LOOK_S = 5.0, 0.01
_CLOSED = ("-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw")


class Pasta:
    """The running program. `problem` is a sentence for `status`: why there is none."""

    def __init__(self, process: subprocess.Popen[bytes] | None, problem: str) -> None:
        self._process = process
        self._problem = problem

    @property
    def pid(self) -> int:
        """0 when there is none."""
        return 0 if self._process is None else self._process.pid

    @property
    def problem(self) -> str:
        if self._process is not None and self._process.poll() is not None:
            return "pasta has ended, so commands of `nconnect run` reach the tunnel and nothing else"
        return self._problem

    @staticmethod
    def resolver() -> str:
        """What resolv.conf says in the namespace: pasta answers there, and asks the machine's resolver."""
        searched = name_servers.search_line()
        return f"nameserver {_GATEWAY}\n{searched}"

    @classmethod
    def start(cls, pid: int) -> Pasta:
        """For the namespaces of the process `pid`, which lets itself be joined. Blocks until it is there."""
        program = shutil.which(os.environ.get(PROGRAM_VARIABLE) or "pasta")
        if program is None:
            return cls(None, MISSING)
        command = [program, "--foreground", "--quiet", "--config-net", "--ns-ifname", INTERFACE]
        command += ["--address", _ADDRESS, "--netmask", _PREFIX_LENGTH, "--gateway", _GATEWAY]
        command += ["--dns-forward", _GATEWAY, *_CLOSED]
        command += ["--userns", f"/proc/{pid}/ns/user", "--netns", f"/proc/{pid}/ns/net"]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            return cls(None, f"pasta cannot be run ({error.strerror}): {MISSING}")
        return cls._watched(process, pid)

    @classmethod
    def _watched(cls, process: subprocess.Popen[bytes], pid: int) -> Pasta:
        """Once its interface has a route, or with what it said as it ended."""
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            if _has_route(pid):
                return cls(process, "")
            time.sleep(_LOOK_S)
        if process.poll() is None:
            process.terminate()
        said = process.communicate()[1].decode(errors="replace").strip().splitlines()
        why = next((line for line in reversed(said) if "syslog" not in line), "it does not say why")
        return cls(None, f"pasta ended ({why}): commands of `nconnect run` reach the tunnel and nothing else")

    def close(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.terminate()
            self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()


def _has_route(pid: int) -> bool:
    """Whether the namespace of a process has a default route by pasta's interface (proc(5), net/route)."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:]:
            name, destination, *_ = line.split()
            if name == INTERFACE and destination == "00000000":
                return True
    return False
