"""Over NKN's own node: our tunnel, NKN's own tunnel, and bare messages.

Each is given a node of its own, the same program started anew, as the rounds go by.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lab import official
from lab.bench.bed import ECHO_PORT, IPERF_PORT, Bed
from lab.bench.contenders.base import (
    TCP_ONLY,
    Running,
    answers,
    ping_over_tcp,
    ping_values,
    tcp_round_trips,
    to_echo,
)
from lab.bench.contenders.nconnect import Nconnect
from lab.netns import LabError
from lab.process import Process, until
from lab.sides import Node
from lab.world import NODE_HOST, SEED_RPC
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress

LOGIN_TIMEOUT_S = 20
PING_INTERVAL_S = 0.005
SIZES = tuple(kib << 10 for kib in (16, 32, 64, 128, 256, 512))
_number = itertools.count()


def _missing(*programs: str) -> str | None:
    absent = official.missing(*programs)
    return f"{' and '.join(absent)} not built (scripts/setup --dev)" if absent else None


class NconnectOverNknd(Nconnect):
    """nconnect with one link, because several links at one node are used as one."""

    def __init__(self) -> None:
        super().__init__("aes256gcm", "nknd-nconnect")
        self.about = "nconnect through the official node nknd, one link, every message signed"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY | {"udp-50", "quic-down", "memory"}

    def missing(self) -> str | None:
        return _missing("nknd", "nknc")

    def node(self, bed: Bed, number: int) -> Node:
        return official.OfficialNode(bed.internet, bed.folder / f"nknd-{number}", NODE_HOST)


class NknTunnel:
    """The official TCP tunnel, with its default options: one for iperf3, and one for round trips."""

    name = "nknd-nkn-tunnel"
    about = "the official nkn-tunnel through the official node nknd, default options"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY

    def missing(self) -> str | None:
        return _missing("nknd", "nknc", "nkn-tunnel")

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"nkn-tunnel-{next(_number)}"
        node = official.OfficialNode(bed.internet, folder / "node", NODE_HOST)
        with ExitStack() as undo:
            undo.callback(node.stop)
            processes = [node.start()]

            def start(end: str, port: int, *options: str) -> Process:
                namespace = bed.user if end == "user" else bed.provider
                command = [official.program("nkn-tunnel"), "-rpc", SEED_RPC, *options]
                process = Process(namespace, command, folder / f"{end}-{port}.log")
                undo.callback(process.stop)
                processes.append(process)
                return process

            started = time.monotonic()
            for port in (IPERF_PORT, ECHO_PORT):
                seed = os.urandom(32)
                address = str(NknAddress("", Identity(seed).public_key))
                start("provider", port, "-from", "nkn", "-to", f"127.0.0.1:{port}", "-s", seed.hex())
                start("user", port, "-from", f"127.0.0.1:{port}", "-to", address)
            connect = to_echo("127.0.0.1")
            try:
                answered = answers(lambda: bool(tcp_round_trips(bed, connect, 1)), self.name)
            except LabError as error:
                tails = "\n".join(process.tail() for process in processes)
                raise LabError(f"{error}\n{tails}") from None
            yield Running(
                bed,
                "127.0.0.1",
                "",
                tuple(processes),
                answered - started,
                own={"ping": lambda seconds: ping_over_tcp(bed, connect, seconds)},
                closes_early=True,
            )


class BareMessages:
    """Two clients of `nconnect.nkn`; one stream is the best of several message sizes."""

    name = "nknd-messages"
    about = "bare messages between two nconnect.nkn clients through the official node nknd, one link"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY

    def missing(self) -> str | None:
        return _missing("nknd", "nknc")

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"messages-{next(_number)}"
        node = official.OfficialNode(bed.internet, folder / "node", NODE_HOST)
        with ExitStack() as undo:
            undo.callback(node.stop)
            node.start()
            command = [sys.executable, "-m", "lab.bench.bare", "serve", SEED_RPC]
            server = Process(bed.provider, command, folder / "server.log")
            undo.callback(server.stop)
            until(
                lambda: server.text().endswith("\n"), "its login", timeout_s=LOGIN_TIMEOUT_S, process=server
            )
            address = server.text().split()[-1]

            def ask(what: str, first: int, second: float) -> dict[str, Any]:
                command = [sys.executable, "-m", "lab.bench.bare", "ask", SEED_RPC, address]
                done = bed.user.run([*command, what, str(first), str(second)])
                if done.returncode:
                    raise LabError(f"messages, {what} {first}: {done.stderr.strip()}\n{server.tail()}")
                found: dict[str, Any] = json.loads(done.stdout)
                return found

            def best(way: str, seconds: float) -> dict[str, float]:
                rates = {}
                for size in SIZES:
                    found = ask(way, size, seconds)
                    rates[size] = found["bytes"] * 8 / found["seconds"] / 1e9 if found["seconds"] else 0.0
                size = max(rates, key=lambda size: rates[size])
                return {f"tcp_{way}": rates[size], f"message_{way}": size / 1024}

            def ping(seconds: float) -> dict[str, float]:
                return ping_values(ask("ping", int(seconds / PING_INTERVAL_S), PING_INTERVAL_S)["trips"])

            yield Running(
                bed,
                "",
                "",
                (),
                None,
                own={
                    "ping": ping,
                    "tcp-up": lambda seconds: best("up", seconds),
                    "tcp-down": lambda seconds: best("down", seconds),
                },
            )
