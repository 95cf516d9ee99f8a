"""One user and several providers, who have never heard of each other: same networks, same addresses.

                         ┌── provider 1 ── server 192.168.1.10
    printer ── user ── node ── provider 2 ── server 192.168.1.10
    192.168.1.10         └── …

Each provider's tunnel network is 10.86.0.0/24, each offers 192.168.1.0/24, as the user's own
network is.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.netns import LabError, Namespace, cable, namespaces
from lab.process import Process, until
from lab.sides import Node, Side
from lab.world import NODE_HOST, SEED_RPC

LAN = "192.168.1.0/24"
SERVER = "192.168.1.10"  # behind each provider, and the user's printer
PRINTER_PORT = 7000
TUNNEL, TUNNEL6 = "10.86.0", "fd86::"


@dataclass
class Friend:
    """A provider and what is behind it."""

    number: int
    side: Side
    server: Namespace

    @property
    def name(self) -> str:
        return f"box-{self.number}"

    @property
    def port(self) -> int:
        """That only this one's server listens on."""
        return PRINTER_PORT + self.number


@dataclass
class Friends:
    folder: Path
    user: Namespace
    printer: Namespace
    node: Node
    side: Side  # the user's
    providers: list[Friend]
    programs: list[Process] = field(default_factory=list)

    def invite(self, friend: Friend, name: str = "laptop") -> str:
        said = json.loads(friend.side.nconnect("invite", name, "--json"))
        token: str = said["token"]
        return token

    def join(self, friend: Friend, *options: str) -> str:
        return self.side.nconnect("join", self.invite(friend), *options)

    def peer(self, name: str) -> dict[str, Any]:
        (found,) = [peer for peer in self.side.status()["peers"] if peer["name"] == name]
        return found

    def seen(self, friend: Friend, address: str) -> str:
        """An address behind a provider, as the user sees it."""
        for pair in self.peer(friend.name)["mapped"]:
            real, seen = ip_network(pair["real"]), ip_network(pair["seen"])
            if ip_address(address) in real:
                return str(seen[int(ip_address(address)) - int(real.network_address)])
        return address

    def stop(self) -> None:
        for side in (self.side, *(friend.side for friend in self.providers)):
            side.stop()
        self.node.stop()
        for program in self.programs:
            program.stop()

    def logs(self) -> str:
        sides = (self.side, *(friend.side for friend in self.providers))
        return "\n".join([self.node.logs(), *(side.logs() for side in sides)])

    def serve(self, namespace: Namespace, port: int) -> None:
        command = [sys.executable, "-m", "lab.servers", str(port)]
        log = self.folder / f"servers-{len(self.programs)}.log"
        process = Process(namespace, command, log, env={})
        self.programs.append(process)
        until(lambda: "serving" in process.text(), "the servers", process=process)


@contextmanager
def friends(count: int, prefix: str = "fr") -> Iterator[Friends]:
    """`count` providers that are up, and a user who has joined none of them."""
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
        folder.chmod(0o711)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        names = [name for n in range(1, count + 1) for name in (f"p{n}", f"h{n}")]
        user, internet, printer, *others = namespaces(undo, prefix, "user", "net", "printer", *names)
        cable(user, "wan0", ["198.51.100.2/24"], internet, "user", ["198.51.100.1/24"])
        user.ip("route add default via 198.51.100.1")
        internet.ip(f"address add {NODE_HOST}/32 dev lo")
        cable(user, "home0", ["192.168.1.7/24"], printer, "eth0", [f"{SERVER}/24"])
        made = Friends(
            folder, user, printer, Node(internet, folder / "node"), Side("user", user, folder / "user"), []
        )
        undo.callback(made.stop)
        made.node.start()
        made.serve(printer, PRINTER_PORT)
        for n in range(1, count + 1):
            provider, server = others[2 * n - 2 : 2 * n]
            cable(
                *(provider, "wan0", [f"203.0.113.{4 * n + 2}/30"]),
                *(internet, f"p{n}", [f"203.0.113.{4 * n + 1}/30"]),
            )
            provider.ip(f"route add default via 203.0.113.{4 * n + 1}")
            cable(provider, "lan0", ["192.168.1.1/24"], server, "eth0", [f"{SERVER}/24"])
            friend = Friend(n, Side(f"p{n}", provider, folder / f"p{n}"), server)
            made.providers.append(friend)
            made.serve(server, friend.port)
            friend.side.nconnect(
                *("init", "--identifier", friend.name, "--address", f"{TUNNEL}.1/24,{TUNNEL6}1/64"),
                *("--provide", LAN, "--service", "7000-7099/tcp", "--seed-rpc", SEED_RPC),
            )
            friend.side.start()
            made.serve(provider, 7099)
        for friend in made.providers:
            friend.side.wait()
        try:
            yield made
        except (AssertionError, LabError):
            print(made.logs())
            raise
