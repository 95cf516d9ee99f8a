"""The world of the demo and of the namespace tests: a user, a provider, and between them nothing but a node.

    user ──────────── internet ──────────── provider ──────────── server
    198.51.100.2      192.0.2.1 (node)      203.0.113.2           192.168.50.10
                      198.51.100.1          lan 192.168.50.1      fd50::10
                      203.0.113.1               fd50::1           (no default route)

    tunnel: user 10.86.0.2, fd86::2            provider 10.86.0.1, fd86::1

The internet does not forward: user and provider reach the node and not one another, as two devices behind NAT
do. The server knows its own subnet only, so it can be reached from the provider and from nowhere else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.netns import LabError, Namespace, cable, namespaces
from lab.official import OfficialNode
from lab.process import Process
from lab.sides import RPC_PORT, Node, Side

NODE_HOST = "192.0.2.1"
SEED_RPC = f"http://{NODE_HOST}:{RPC_PORT}"
LAN = "192.168.50.0/24"
LAN6 = "fd50::/64"
LAN_INTERFACE = "lan0"
WAN_INTERFACE = "wan0"
SERVER = "192.168.50.10"
SERVER6 = "fd50::10"
PROVIDER_LAN = "192.168.50.1"
USER_TUNNEL, USER_TUNNEL6 = "10.86.0.2", "fd86::2"
PROVIDER_TUNNEL, PROVIDER_TUNNEL6 = "10.86.0.1", "fd86::1"
USER_PEER = "laptop"
PROVIDER_PEER = "gpu-box"


@dataclass
class World:
    """The four machines; `node` and the two sides exist but are not started."""

    folder: Path
    user: Namespace
    internet: Namespace
    provider: Namespace
    server: Namespace
    node: Node
    user_side: Side
    provider_side: Side
    programs: list[Process] = field(default_factory=list)

    def configure(self, *, services: Sequence[str] = (), cipher: str | None = None) -> None:
        """Write both configurations.

        The first time they are made with `nconnect init`, `address` and `peer add`. Later worlds of this
        process get copies, with the same keys.
        """
        made = _configurations.get((*services, cipher))
        sides = (self.provider_side, self.user_side)
        if made is None:
            self._make_configurations(services, cipher)
            _configurations[*services, cipher] = tuple(side.config.read_text() for side in sides)
            return
        for side, text in zip(sides, made, strict=True):
            side.config.touch(0o600)
            side.config.write_text(text)

    def _make_configurations(self, services: Sequence[str], cipher: str | None) -> None:
        self.provider_side.nconnect(
            "init",
            *("--identifier", PROVIDER_PEER),
            *("--address", f"{PROVIDER_TUNNEL}/24,{PROVIDER_TUNNEL6}/64"),
            *("--provide", f"{LAN},{LAN6}"),
            *(("--service", ",".join(services)) if services else ()),
            *("--seed-rpc", SEED_RPC),
        )
        self.user_side.nconnect(
            "init",
            *("--identifier", USER_PEER),
            *("--address", f"{USER_TUNNEL}/24,{USER_TUNNEL6}/64"),
            *("--seed-rpc", SEED_RPC),
        )
        if cipher:
            for side in (self.provider_side, self.user_side):
                text = side.config.read_text()
                side.config.write_text(
                    text.replace("[interface]\n", f'[interface]\ncipher = "{cipher}"\n', 1)
                )
        self.provider_side.nconnect(
            *("peer", "add", USER_PEER, self.user_side.address()),
            *("--allowed-ips", f"{USER_TUNNEL}/32,{USER_TUNNEL6}/128"),
        )
        self.user_side.nconnect(
            *("peer", "add", PROVIDER_PEER, self.provider_side.address()),
            *("--allowed-ips", f"{PROVIDER_TUNNEL}/32,{PROVIDER_TUNNEL6}/128,{LAN},{LAN6}"),
        )

    def up(self) -> None:
        """Start both daemons, and return when they have a session. A failure shows all logs."""
        try:
            self.provider_side.start()
            self.provider_side.wait()
            self.user_side.start()
            self.user_side.wait(PROVIDER_PEER)
        except LabError as error:
            raise LabError(f"{error}\n{self.logs()}") from None

    def run_in(self, namespace: Namespace, arguments: Sequence[str], name: str) -> Process:
        """Start a program that ends with the world, if not before. Its run folder is in `folder`."""
        log = self.folder / f"{len(self.programs)}-{name}.log"
        process = Process(namespace, arguments, log, env={"NCONNECT_RUN_DIR": str(self.folder / "run")})
        self.programs.append(process)
        return process

    def stop(self) -> None:
        for stop in (self.user_side.stop, self.provider_side.stop, self.node.stop):
            stop()
        for program in self.programs:
            program.stop()

    def logs(self) -> str:
        logs = [part.logs() for part in (self.node, self.provider_side, self.user_side)]
        return "\n".join(logs + [program.tail() for program in self.programs])


# The configurations of provider and user, by what `World.configure` was asked for.
_configurations: dict[tuple[str | None, ...], tuple[str, ...]] = {}


def to_the_internet(user: Namespace, internet: Namespace, provider: Namespace) -> None:
    """A cable and a default route for both sides, and the node's address."""
    cable(user, WAN_INTERFACE, ["198.51.100.2/24"], internet, "user", ["198.51.100.1/24"])
    cable(provider, WAN_INTERFACE, ["203.0.113.2/24"], internet, "provider", ["203.0.113.1/24"])
    user.ip("route add default via 198.51.100.1")
    provider.ip("route add default via 203.0.113.1")
    internet.ip(f"address add {NODE_HOST}/32 dev lo")


@contextmanager
def world(
    prefix: str = "nc",
    *,
    capture: bool = False,
    node_options: Sequence[str] = ("--verify-signatures",),
    official: bool = False,
    keep: bool = False,
) -> Iterator[World]:
    """Build the machines; when the block ends, however it ends, end all processes and remove all of it.

    `official`: with NKN's own node instead of ours, which knows neither `capture` nor `node_options`. `keep`
    leaves it standing after a block that ends well.
    """
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
        folder.chmod(0o711)  # so that the daemons' user can enter their folders
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        names = ("user", "internet", "provider", "server")
        user, internet, provider, server = namespaces(undo, prefix, *names)
        to_the_internet(user, internet, provider)
        cable(
            *(provider, LAN_INTERFACE, [f"{PROVIDER_LAN}/24", "fd50::1/64"]),
            *(server, "eth0", [f"{SERVER}/24", f"{SERVER6}/64"]),
        )
        internet.sysctl("net.ipv4.ip_forward", "0")
        made = World(
            folder,
            user,
            internet,
            provider,
            server,
            OfficialNode(internet, folder / "node", NODE_HOST)
            if official
            else Node(internet, folder / "node", capture=capture, options=node_options),
            Side("user", user, folder / "user"),
            Side("provider", provider, folder / "provider"),
        )
        undo.callback(made.stop)
        yield made
        if keep:
            undo.pop_all()
