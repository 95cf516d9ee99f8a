"""Network namespaces: make them, cable them, enter them and remove them.

Everything is built with the `ip` command and named by process id, so that several labs can run at once.
Interfaces are created inside the namespaces; nothing appears in the machine's own network.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from lab import CHECKOUT, environment

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """Building or using the lab failed. The text says what failed, with the message of the command."""


def ip(arguments: str, *, netns: str | None = None) -> str:
    """Run `ip`, in the namespace if one is named, and return its output."""
    command = ["ip", *(["-n", netns] if netns else []), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Namespace:
    """A machine of the lab. `remove` kills what runs inside, by process id, and deletes the namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip(f"netns add {name}")
        try:
            ip("link set lo up", netns=name)
            # Without duplicate address detection an IPv6 address can be used at once.
            self.sysctl("net.ipv6.conf.default.accept_dad", "0")
            self.sysctl("net.ipv6.conf.all.accept_dad", "0")
            self.etc("hosts", Path("/etc/hosts").read_text())  # its own, which a daemon writes names into
        except BaseException:
            self.remove()
            raise

    @property
    def path(self) -> Path:
        return Path("/run/netns", self.name)

    def ip(self, arguments: str) -> str:
        return ip(arguments, netns=self.name)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` inside (the process id stays the one of the first exec)."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float = 60,
        env: dict[str, str] | None = None,
        input_text: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its status is.

        A command that takes too long is ended by SIGTERM, so that it can clean up. Raises `LabError` then.
        """
        command = self.command(arguments)
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**(env or {})),
            cwd=CHECKOUT,
        ) as process:
            try:
                out, errors = process.communicate(input_text, timeout_s)
            except subprocess.TimeoutExpired:
                process.terminate()
                try:
                    out, errors = process.communicate(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, errors = process.communicate()
                raise LabError(
                    f"{' '.join(arguments)}: not done after {timeout_s} s: {out}{errors}"
                ) from None
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(command, process.returncode, out, errors)

    def must(self, *command: str, input_text: str = "", timeout_s: float = 60) -> str:
        """Run a command that must succeed; its output, stripped. Raises `LabError` with its message."""
        done = self.run(command, input_text=input_text, timeout_s=timeout_s)
        if done.returncode:
            words = (done.stdout + done.stderr).strip() or f"status {done.returncode}"
            raise LabError(f"{' '.join(command)}: {words}")
        return done.stdout.strip()

    def sh(self, script: str) -> str:
        """Run a shell script that must succeed; its output, stripped."""
        return self.must("sh", "-ec", script)

    def nft(self, commands: str) -> None:
        """Let `nft` do commands, one a line, as one transaction."""
        self.must("nft", "-f", "-", input_text=f"{commands}\n")

    def ip_batch(self, *commands: str) -> None:
        """Let one `ip` do commands, with nothing between them."""
        self.must("ip", "-batch", "-", input_text="\n".join(commands) + "\n")

    def enter(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` on a thread that is inside, and return its result. A socket it opens stays inside."""
        result: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _libc.setns(fd, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"cannot enter namespace {self.name}")
                finally:
                    os.close(fd)
                result.append(work(*arguments))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=inside, name=f"in-{self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return self.enter(lambda: socket.socket(family, kind, protocol))

    def listens(self, port: int) -> bool:
        """Whether a program accepts TCP connections at the loopback address."""
        with self.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Read a sysctl of this namespace, after writing it if a value is given."""
        path = Path("/proc/sys", name.replace(".", "/"))

        def work() -> str:
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

        return self.enter(work)

    def etc(self, name: str, text: str) -> None:
        """Set the text of /etc/NAME (resolv.conf, hosts) for commands that start in the namespace later.

        Running commands see a change of a file that existed when they started.
        """
        path = Path("/etc/netns", self.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def processes(self) -> list[int]:
        return [int(pid) for pid in ip(f"netns pids {self.name}").split()]

    def counters(self, interface: str) -> dict[str, int]:
        """`rx_bytes`, `rx_packets`, `tx_bytes` and `tx_packets`, as the kernel counts them."""

        def work() -> dict[str, int]:
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
                name, _, rest = line.partition(":")
                if name.strip() == interface:
                    fields = [int(field) for field in rest.split()]
                    names = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets")
                    return dict(zip(names, (fields[0], fields[1], fields[8], fields[9]), strict=True))
            raise LabError(f"{self.name} has no interface {interface}")

        return self.enter(work)

    def remove(self) -> None:
        if self.path.exists():
            for pid in self.processes():
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        shutil.rmtree(Path("/etc/netns", self.name), ignore_errors=True)


def cable(
    left: Namespace,
    left_name: str,
    left_addresses: Sequence[str],
    right: Namespace,
    right_name: str,
    right_addresses: Sequence[str],
) -> None:
    """Connect two namespaces with a veth pair and give both its ends their addresses ("192.0.2.1/24", …)."""
    ip(f"link add {left_name} netns {left.name} type veth peer name {right_name} netns {right.name}")
    for end, name, addresses in ((left, left_name, left_addresses), (right, right_name, right_addresses)):
        for address in addresses:
            nodad = " nodad" if ":" in address else ""
            end.ip(f"address add {address} dev {name}{nodad}")
        end.ip(f"link set {name} up")


def namespaces(undo: ExitStack, prefix: str, *names: str) -> tuple[Namespace, ...]:
    """Make namespaces called `<prefix><pid>-<name>`; `undo` will remove them."""
    made = []
    for name in names:
        namespace = Namespace(f"{prefix}{os.getpid()}-{name}")
        undo.callback(namespace.remove)
        made.append(namespace)
    return tuple(made)


def require_root(what: str) -> None:
    if os.geteuid() != 0:
        sys.exit(f"{what} builds network namespaces: run it as root (sudo {what})")
