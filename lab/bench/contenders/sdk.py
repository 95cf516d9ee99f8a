"""The official JavaScript SDK's session (NCP), through our node: which is what NKN offers for streams."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lab import CHECKOUT
from lab.bench.bed import Bed
from lab.bench.contenders.base import TCP_ONLY, Running
from lab.netns import LabError
from lab.ping import quantile
from lab.process import Process, until
from lab.sides import Node
from lab.world import SEED_RPC

SCRIPT = Path(__file__).with_name("session.mjs")
ASK_PORT = 9000
LOGIN_TIMEOUT_S = 20
_number = itertools.count()


class SdkSession:
    name = "nkn-sdk"
    about = "the official JavaScript SDK's session through our node"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY | {"memory"}

    def missing(self) -> str | None:
        if shutil.which("node") is None:
            return "Node.js is not installed (scripts/setup --dev)"
        return None if (_modules() / "nkn-sdk").is_dir() else "nkn-sdk is not installed (scripts/setup --dev)"

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"sdk-{next(_number)}"
        node = Node(bed.internet, folder / "node")
        environment = {"NCONNECT_NKN_SDK": str(_modules())}
        with ExitStack() as undo:
            undo.callback(node.stop)
            processes = [node.start()]
            command = ["node", str(SCRIPT)]
            server = Process(
                bed.provider, [*command, "serve", SEED_RPC], folder / "server.log", env=environment
            )
            undo.callback(server.stop)
            until(
                lambda: server.text().endswith("\n"), "its login", timeout_s=LOGIN_TIMEOUT_S, process=server
            )
            address = server.text().split()[-1]
            started = time.monotonic()
            asking = [*command, "ask", SEED_RPC, address, str(ASK_PORT)]
            client = Process(bed.user, asking, folder / "client.log", env=environment)
            undo.callback(client.stop)
            until(
                lambda: client.text().endswith("\n"), "its login", timeout_s=LOGIN_TIMEOUT_S, process=client
            )
            _ask(bed, "ping", 0.001)
            yield Running(
                bed,
                "",
                "",
                (*processes, server, client),
                time.monotonic() - started,
                daemons=(client, server),
                own={
                    "ping": lambda seconds: _round_trips(bed, seconds),
                    "tcp-up": lambda seconds: {"tcp_up": _rate(bed, "up", seconds)},
                    "tcp-down": lambda seconds: {"tcp_down": _rate(bed, "down", seconds)},
                },
            )


def _modules() -> Path:
    return Path(os.environ.get("NCONNECT_NKN_SDK") or CHECKOUT / "node_modules").resolve()


def _rate(bed: Bed, what: str, seconds: float) -> float:
    found = _ask(bed, what, seconds)
    return float(found["bytes"]) * 8 / float(found["seconds"]) / 1e9


def _round_trips(bed: Bed, seconds: float) -> dict[str, float]:
    trips = sorted(_ask(bed, "ping", seconds)["trips"])
    return {"ping_p50": quantile(trips, 0.5), "ping_p99": quantile(trips, 0.99)}


def _ask(bed: Bed, what: str, seconds: float) -> dict[str, Any]:
    url = f"http://127.0.0.1:{ASK_PORT}/{what}?seconds={seconds}"

    def work() -> Any:
        try:
            with urllib.request.urlopen(url, timeout=seconds + 20) as response:
                return json.load(response)
        except OSError as error:
            raise LabError(f"nkn-sdk, {what}: {error}") from None

    found = bed.user.enter(work)
    if not isinstance(found, dict) or "error" in found:
        raise LabError(f"nkn-sdk, {what}: {found}")
    return found
