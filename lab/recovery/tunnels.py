"""The tunnels that get the faults: each on the lab's world, from user to provider.

nconnect goes through the node. The others need a way from the user to the provider's address and port, so
for them the internet forwards; user and provider then see one another as two hosts with public addresses do.
"""

from __future__ import annotations

import shutil
from typing import Protocol

from lab.bench.contenders import nebula, wireguard
from lab.ping import first_reply
from lab.process import Process
from lab.traffic import SERVICE
from lab.world import PROVIDER_PEER, PROVIDER_TUNNEL, World

START_TIMEOUT_S = 20.0
PROVIDER_HOST = "203.0.113.2"
ENDS = ("user", "provider")


class Tunnel(Protocol):
    """One tunnel on a world."""

    name: str
    host: str  # the provider, through it
    has_node: bool

    def __init__(self, world: World) -> None: ...

    def prepare(self) -> None:
        """Keys and configurations."""

    def start(self, end: str) -> None:
        """Start one end, and return when it works as far as one end can."""

    def process(self, end: str) -> Process: ...

    def device(self, end: str) -> str:
        """The name of an end's interface."""


class Nconnect:
    name, host, has_node = "nconnect", PROVIDER_TUNNEL, True

    def __init__(self, world: World) -> None:
        self._world = world

    def prepare(self) -> None:
        self._world.configure(services=[f"{SERVICE}/tcp", f"{SERVICE}/udp"])
        self._world.node.start()

    def start(self, end: str) -> None:
        side = self._world.user_side if end == "user" else self._world.provider_side
        side.start("--keep-trying")
        side.wait()

    def process(self, end: str) -> Process:
        side = self._world.user_side if end == "user" else self._world.provider_side
        assert side.daemon is not None
        return side.daemon

    def device(self, end: str) -> str:
        return "nc0"


class _Direct:
    """What goes from the user to the provider without a node."""

    has_node = False

    def __init__(self, world: World) -> None:
        self._world = world
        self._running: dict[str, Process] = {}

    def _prepare(self) -> None:
        self._world.internet.sysctl("net.ipv4.ip_forward", "1")

    def _started(self, end: str, process: Process) -> None:
        self._running[end] = process
        self._world.programs.append(process)  # it ends with the world

    def process(self, end: str) -> Process:
        return self._running[end]


class WireguardGo(_Direct):
    name, host = "wireguard-go", "10.98.0.1"

    def prepare(self) -> None:
        self._prepare()
        self._keys = {}
        for end in ENDS:
            private = self._world.user.must("wg", "genkey")
            self._keys[end] = private, self._world.user.must("wg", "pubkey", input_text=private)

    def start(self, end: str) -> None:
        is_user = end == "user"
        peer = "provider" if is_user else "user"
        way = f"endpoint {PROVIDER_HOST}:51820 persistent-keepalive 25" if is_user else ""
        namespace = self._world.user if is_user else self._world.provider
        key, peer_key = self._keys[end][0], self._keys[peer][1]
        tail = 2 if is_user else 1
        folder = self._world.folder
        self._started(
            end, wireguard.start_end("wireguard-go", namespace, folder, f"{end}0", key, peer_key, tail, way)
        )

    def device(self, end: str) -> str:
        return wireguard.device_name(f"{end}0")


class Nebula(_Direct):
    name, host = "nebula", nebula.PROVIDER

    def prepare(self) -> None:
        self._prepare()
        nebula.make_certificates(self._world.user, self._world.folder)

    def start(self, end: str) -> None:
        namespace = self._world.user if end == "user" else self._world.provider
        self._started(end, nebula.start_end(namespace, self._world.folder, end, PROVIDER_HOST))

    def device(self, end: str) -> str:
        return nebula.device_name(end)


TUNNELS: tuple[type[Tunnel], ...] = (Nconnect, WireguardGo, Nebula)


def missing(name: str) -> str:
    """Why a tunnel cannot be had on this machine; "" when it can."""
    programs = {"wireguard-go": ("wireguard-go", "wg"), "nebula": ("nebula", "nebula-cert")}.get(name, ())
    absent = [program for program in programs if shutil.which(program) is None]
    return f"{' and '.join(absent)} not installed (scripts/setup --dev)" if absent else ""


def bring_up(tunnel: Tunnel, world: World) -> None:
    """Both ends, until a ping passes."""
    tunnel.prepare()
    for end in ("provider", "user"):
        tunnel.start(end)
    first_reply(world.user, tunnel.host, timeout_s=START_TIMEOUT_S)
    if isinstance(tunnel, Nconnect):
        world.user_side.wait(PROVIDER_PEER)
