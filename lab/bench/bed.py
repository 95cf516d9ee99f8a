"""The machines of the bench.

    user ─────── wan0 ─────── internet (node) ─────── wan0 ─────── provider
    198.51.100.2              192.0.2.1                            203.0.113.2
      └───────── direct0 ──────────────────────────── direct0 ─────────┘
    10.99.0.1, fd99::1                                10.99.0.2, fd99::2

Tunnels that need no node use the direct cable, which is one hop less than ours.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.netns import Namespace, cable, namespaces
from lab.process import Process, until
from lab.servers import self_signed
from lab.world import to_the_internet

PREFIX = "ncbench"
USER_DIRECT, USER_DIRECT6 = "10.99.0.1", "fd99::1"
PROVIDER_DIRECT, PROVIDER_DIRECT6 = "10.99.0.2", "fd99::2"
IPERF_PORT = 5201
CHAT_PORT = 8000
ECHO_PORT = 5301
TOKEN_PORT = 5302  # lab.bench.tokens
FLOOD_PORT = 5303  # lab.bench.flood
QUIC_PORT = 4433
GSO_MAX_SEGS = 65535  # the kernel's own value for a veth


def iperf(host: str, *options: str) -> list[str]:
    """The command line of a client of the provider's iperf3."""
    return ["iperf3", "-c", host, "-p", str(IPERF_PORT), *options]


@dataclass
class Bed:
    """Three machines, with servers on the provider that the cases use."""

    folder: Path
    user: Namespace
    internet: Namespace
    provider: Namespace
    servers: list[Process] = field(default_factory=list)

    def serve(self, arguments: Sequence[str], name: str) -> Process:
        process = Process(self.provider, arguments, self.folder / f"{name}.log")
        self.servers.append(process)
        return process

    def serve_iperf(self) -> None:
        process = self.serve(["iperf3", "-s", "-p", str(IPERF_PORT), "--forceflush"], "iperf3")
        until(lambda: "listening" in process.text(), "iperf3", process=process)

    def serve_echo(self) -> None:
        process = self.serve([sys.executable, "-m", "lab.servers", str(ECHO_PORT)], "echo")
        until(lambda: "serving" in process.text(), "the echo server", process=process)

    def serve_tokens(self) -> None:
        process = self.serve([sys.executable, "-m", "lab.bench.tokens", "serve", str(TOKEN_PORT)], "tokens")
        until(lambda: "serving" in process.text(), "the token server", process=process)

    def serve_quic(self) -> None:
        certificate = self_signed(self.folder / "quic.pem")
        command = [sys.executable, "-m", "lab.quic", "serve", str(QUIC_PORT), str(certificate)]
        process = self.serve(command, "quic")
        until(lambda: "serving" in process.text(), "the QUIC server", process=process)

    def serve_model(self) -> None:
        command = [sys.executable, "-m", "lab.model_server", "0.0.0.0", str(CHAT_PORT)]
        process = self.serve(command, "model")
        until(lambda: "serving" in process.text(), "the model", timeout_s=60, process=process)

    @contextmanager
    def without_cable(self) -> Iterator[None]:
        """Leave no way between user and provider but a relay on the internet, until the block ends."""
        self.user.ip("link set direct0 down")
        try:
            yield
        finally:
            self.user.ip("link set direct0 up")
            self.user.ip(f"address replace {USER_DIRECT6}/64 dev direct0 nodad")  # it went with the link

    @contextmanager
    def segments_only(self) -> Iterator[None]:
        """Let the cable carry single segments, which GRO does not join, until the block ends."""
        for end in (self.user, self.provider):
            end.ip("link set direct0 gso_max_segs 1")
        try:
            yield
        finally:
            for end in (self.user, self.provider):
                end.ip(f"link set direct0 gso_max_segs {GSO_MAX_SEGS}")

    def stop(self) -> None:
        for process in self.servers:
            process.stop()


@contextmanager
def bed() -> Iterator[Bed]:
    """Build the machines; end all processes and remove all of it when the block ends, however it ends."""
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        user, internet, provider = namespaces(undo, PREFIX, "user", "internet", "provider")
        to_the_internet(user, internet, provider)
        cable(
            *(user, "direct0", [f"{USER_DIRECT}/24", f"{USER_DIRECT6}/64"]),
            *(provider, "direct0", [f"{PROVIDER_DIRECT}/24", f"{PROVIDER_DIRECT6}/64"]),
        )
        made = Bed(folder, user, internet, provider)
        undo.callback(made.stop)
        yield made
