"""Several users and several providers in one network, and everybody's own network is 192.168.1.0/24.

printer 192.168.1.10 ── alice ──┐        ┌── gpu-box ── server 192.168.1.10
printer 192.168.1.10 ── bob   ──┤        ├── attic   ── server 192.168.1.10
                        …       ├─ node ─┤   …
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.netns import LabError, Namespace, cable, namespaces
from lab.process import Process, until
from lab.sides import Node, Side
from lab.world import NODE_HOST, SEED_RPC

PROVIDERS = ("gpu-box", "attic", "cellar", "office", "lab", "garage")
USERS = ("alice", "bob", "carol", "dave", "erin")
LAN = "192.168.1.0/24"
HOST = "192.168.1.10"  # behind each provider, and each user's printer
PORT = 7000  # of the printer; of the server behind a provider: PORT + its number
MODEL_PORT = 11434  # on each provider's loopback
HOSTNAME = 'hostname "$0"; exec "$@"'


@dataclass
class Member:
    """A user or a provider, and the machine in its own network."""

    number: int
    side: Side
    host: Namespace

    @property
    def name(self) -> str:
        return self.side.name

    @property
    def space(self) -> Namespace:
        return self.side.namespace

    @property
    def port(self) -> int:
        """On which the machine in its network serves, and no other provider's machine does."""
        return PORT + self.number

    def as_its_machine(self, *command: str) -> list[str]:
        """A command that sees the member's name as the host's name."""
        return ["unshare", "--uts", "sh", "-c", HOSTNAME, self.name, *command]

    def peer(self, name: str) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = [peer for peer in self.side.status()["peers"] if peer["name"] == name]
        return found

    def seen(self, provider: Member, address: str) -> str:
        """An address behind a provider, as this user sees it."""
        for pair in self.peer(provider.name)["mapped"]:
            real, seen = ip_network(pair["real"]), ip_network(pair["seen"])
            if ip_address(address) in real:
                return str(seen[int(ip_address(address)) - int(real.network_address)])
        return address

    def offers(self) -> dict[str, dict[str, Any]]:
        """What `nconnect offers` lists, by `SERVER.PROVIDER`."""
        told = json.loads(self.side.nconnect("offers", "--json"))["offers"]
        return {f"{each['server']}.{each['provider']}": each for each in told}

    def hosts(self) -> str:
        """Its own /etc/hosts, not this machine's."""
        return Path("/etc/netns", self.space.name, "hosts").read_text()

    def resolves(self, name: str) -> bool:
        return name in self.hosts()

    def get(self, url: str) -> Any:
        return json.loads(self.space.must("curl", "-sS", "-m", "10", url))


@dataclass
class Group:
    folder: Path
    node: Node
    providers: list[Member] = field(default_factory=list)
    users: list[Member] = field(default_factory=list)
    programs: list[Process] = field(default_factory=list)

    def run_in(
        self, space: Namespace, command: Sequence[str], *, says: str, timeout_s: float = 30
    ) -> Process:
        """Start a program, and return when it has said that it is ready."""
        log = self.folder / f"program-{len(self.programs)}.log"
        process = Process(space, command, log, env={"PYTHONUNBUFFERED": "1"})
        self.programs.append(process)
        until(lambda: says in process.text(), command[2], timeout_s=timeout_s, process=process)
        return process

    def serve_model(self, provider: Member) -> Process:
        """The real one, as Ollama would be there."""
        command = [sys.executable, "-m", "lab.model_server", "127.0.0.1", str(MODEL_PORT)]
        return self.run_in(provider.space, command, says="serving", timeout_s=120)

    def serve_list(self, provider: Member, *models: str) -> Process:
        """A server that lists models and has none."""
        root = self.folder / f"www-{provider.name}"
        (root / "v1").mkdir(parents=True)
        listed = [{"id": model, "owned_by": "library"} for model in models]
        (root / "v1/models").write_text(json.dumps({"data": listed}))
        command = [sys.executable, "-m", "http.server", str(MODEL_PORT)]
        return self.run_in(
            provider.space, [*command, "--bind", "127.0.0.1", "--directory", str(root)], says="Serving"
        )

    def invite(self, provider: Member, *names: str) -> Mapping[str, str]:
        """The token of each."""
        said = json.loads(provider.side.nconnect("invite", *names, "--access", "30d", "--json"))
        made = said.get("invitations", [said])
        return {each["name"]: each["token"] for each in made}

    def init(self, provider: Member) -> None:
        """What the interview's usual answers write, and up."""
        provider.side.nconnect(
            *("init", "--identifier", provider.name, "--provide", LAN, "--seed-rpc", SEED_RPC)
        )
        provider.side.nconnect("provide", "server", "add", "ollama", f"http://127.0.0.1:{MODEL_PORT}")
        provider.side.start()

    def stop(self) -> None:
        for member in (*self.users, *self.providers):
            member.side.stop()
        self.node.stop()
        for program in self.programs:
            program.stop()

    def logs(self) -> str:
        sides = (member.side for member in (*self.users, *self.providers))
        return "\n".join([self.node.logs(), *(side.logs() for side in sides)])


@contextmanager
def group(providers: int, users: int, prefix: str = "gr") -> Iterator[Group]:
    """Machines on which nothing but the node runs, and a server in each one's own network."""
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
        folder.chmod(0o711)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        (internet,) = namespaces(undo, prefix, "net")
        internet.ip(f"address add {NODE_HOST}/32 dev lo")
        internet.sysctl("net.ipv4.ip_forward", "0")
        made = Group(folder, Node(internet, folder / "node"))
        undo.callback(made.stop)
        made.node.start()
        for number, name in enumerate((*PROVIDERS[:providers], *USERS[:users])):
            is_user = number >= providers
            space, host = namespaces(undo, prefix, name, f"{name}-lan")
            space.etc("resolv.conf", "")  # as its /etc/hosts, its own: nobody answers at port 53
            far, own = f"203.0.113.{4 * number + 1}", f"203.0.113.{4 * number + 2}"
            cable(space, "wan0", [f"{own}/30"], internet, f"m{number}", [f"{far}/30"])
            space.ip(f"route add default via {far}")
            # The user is not its network's router, the provider is.
            mine = "192.168.1.7/24" if is_user else "192.168.1.1/24"
            cable(space, "lan0", [mine], host, "eth0", [f"{HOST}/24"])
            member = Member(0 if is_user else number + 1, Side(name, space, folder / name), host)
            (made.users if is_user else made.providers).append(member)
            made.run_in(host, [sys.executable, "-m", "lab.servers", str(member.port)], says="serving")
        try:
            yield made
        except (AssertionError, LabError):
            print(made.logs())
            raise
