"""iroh: a QUIC stream between two programs of its own bindings, through its relay and directly."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lab.bench.bed import Bed
from lab.bench.contenders.base import TCP_ONLY, Running, ping_values
from lab.bench.contenders.built import cache_folder, python_package, rust_program
from lab.netns import LabError
from lab.process import Process, until
from lab.world import NODE_HOST

VERSION = "1.2.0"  # of the bindings
RELAY_VERSION = "1.4.1"
BINDINGS = cache_folder() / f"iroh-{VERSION}"
RELAY = cache_folder() / f"iroh-relay-{RELAY_VERSION}"
RELAY_PORT = 3340
_number = itertools.count()


class Iroh:
    """The ends are the senders and receivers themselves: there is no TUN and no TCP."""

    def __init__(self, way: str) -> None:
        self.way = way  # relay or direct
        self.name = f"iroh-{way}"
        self.version = f"{VERSION}, iroh-relay {RELAY_VERSION}"
        by = "directly" if way == "direct" else "through iroh-relay, plain HTTP"
        self.about = f"a QUIC stream of iroh's Python bindings {by}"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY - {"start"}

    def missing(self) -> str | None:
        return python_package(BINDINGS, VERSION, "iroh") or rust_program(
            RELAY, RELAY_VERSION, "iroh-relay", "--features", "server"
        )

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"iroh-{next(_number)}"
        folder.mkdir()
        program = [sys.executable, "-m", "lab.bench.iroh_stream"]
        environment = {"PYTHONPATH": str(BINDINGS)}
        with ExitStack() as undo:
            if self.way == "relay":
                undo.enter_context(bed.without_cable())
            command = [str(RELAY / "bin" / "iroh-relay"), "--dev"]
            relay = Process(bed.internet, command, folder / "relay.log")
            undo.callback(relay.stop)
            until(lambda: bed.internet.listens(RELAY_PORT), "the relay", process=relay)
            url = f"http://{NODE_HOST}:{RELAY_PORT}"
            server = Process(bed.provider, [*program, "serve", url], folder / "server.log", env=environment)
            undo.callback(server.stop)
            until(lambda: server.text().endswith("}\n"), "iroh", process=server)
            address = server.text().splitlines()[-1]

            def ask(what: str, seconds: float) -> dict[str, Any]:
                worked = relay.cpu_s() + server.cpu_s()
                command = [*program, "ask", address, self.way, what, str(seconds)]
                done = bed.user.run(command, env=environment)
                if done.returncode:
                    raise LabError(f"iroh, {what}: {done.stderr.strip()}\n{server.tail()}")
                found: dict[str, Any] = json.loads(done.stdout)
                found["cpu_s"] += relay.cpu_s() + server.cpu_s() - worked
                return found

            def stream(way: str, seconds: float) -> dict[str, float]:
                found = ask(way, seconds)
                return {
                    f"tcp_{way}": found["bytes"] * 8 / found["seconds"] / 1e9,
                    f"cpu_{way}": found["cpu_s"] * 1e9 / found["all_bytes"],
                }

            yield Running(
                bed,
                "",
                "",
                (),
                None,
                own={
                    "ping": lambda seconds: ping_values(ask("ping", seconds)["trips"]),
                    "tcp-up": lambda seconds: stream("up", seconds),
                    "tcp-down": lambda seconds: stream("down", seconds),
                },
            )
