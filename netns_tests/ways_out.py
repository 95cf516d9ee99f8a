"""A user whose only way out is X: a machine with nothing on it, its network, and what a user does there.

    traveller ── (a router, or none) ── internet ── provider ── server
                                        node 192.0.2.1             model, port 8000

`Base` is what all of them share: a node, a provider that invites, a language model behind it. A test makes
the network (a `Traveller`'s cable, routes, name servers, proxy), lets the traveller `join`, `up` and chat,
and compares the times with those on a plain network.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.chat import chat_from
from lab.netns import Namespace, cable
from lab.process import Process, until
from lab.sides import Side
from lab.traffic import serve_model
from lab.world import LAN, NODE_HOST, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, SERVER, WAN_INTERFACE, World

NAME = "node.example"  # the node's name, for travellers with a name server or a hosts file
NAMED_SEED = f"http://{NAME}:30003"
GATE, BEHIND_GATE = "10.9.9.1", "10.9.9.2"
MODEL_PORT = 8000
PROMPT = "Name three rivers of Europe."
MAX_LONGER_S = 2.0  # what `up` may take more than on a plain network


@dataclass(frozen=True, slots=True)
class Times:
    join_s: float
    up_s: float  # from the command to the session


@dataclass
class Traveller:
    """A user's machine, without any way out yet."""

    world: World
    namespace: Namespace
    side: Side
    number: int

    def plug_in(self, *, ipv6: bool = False) -> None:
        """The plain network: a cable to the internet, a default route, IPv6 if asked for."""
        nets = [f"198.51.{110 + self.number}.%d/24", *([f"2001:db8:{self.number:x}::%d/64"] if ipv6 else [])]
        cable(
            *(self.namespace, WAN_INTERFACE, [net % 2 for net in nets]),
            *(self.world.internet, f"way{self.number}", [net % 1 for net in nets]),
        )
        for net in nets:
            self.namespace.ip(f"route add default via {net.partition('/')[0] % 1}")

    def invitation(self, *options: str) -> str:
        """A new token for it; `options` are those of `invite`."""
        name = f"traveller-{self.number}"
        invited = self.world.provider_side.nconnect("invite", name, "--json", *options)
        token: str = json.loads(invited)["token"]
        return token

    def join(self, *options: str, env: dict[str, str] | None = None, seed: str | None = None) -> float:
        """Join with a new invitation, which names `seed`; returns the seconds that the command took."""
        token = self.invitation(*(() if seed is None else ("--seed-rpc", seed)))
        began = time.monotonic()
        done = self.side.try_nconnect(
            "join", token, "--identifier", f"traveller-{self.number}", *options, env=env
        )
        assert done.returncode == 0, done.stderr
        return time.monotonic() - began

    def up(self, *options: str, env: dict[str, str] | None = None) -> float:
        """Start the daemon; returns the seconds until it has a session with the provider."""
        began = time.monotonic()
        self.side.start(*options, env=env)
        self.side.wait(PROVIDER_PEER, timeout_s=30)
        return time.monotonic() - began

    def link(self) -> dict[str, Any]:
        """The `status --json` object of its link."""
        found: dict[str, Any] = self.side.status()["links"][0]
        return found

    def chat(self) -> None:
        """Stream a chat completion from the model behind the provider."""
        answer = chat_from(self.namespace, SERVER, MODEL_PORT, PROMPT, max_tokens=8)
        assert answer.tokens > 2

    def do_all(self, *join_options: str, env: dict[str, str] | None = None) -> Times:
        """What a user does: join, up, chat."""
        times = Times(self.join(*join_options, env=env), self.up(env=env))
        self.chat()
        return times


@dataclass
class Base:
    """The world that all travellers share. `plain`: the times on a plain network."""

    world: World
    plain: Times
    travellers: int = 0

    @contextmanager
    def traveller(self) -> Iterator[Traveller]:
        """A new machine; when the block ends, its daemon and the machine are gone."""
        self.travellers += 1
        with ExitStack() as undo:
            name = f"{self.world.user.name.rpartition('-')[0]}-way{self.travellers}"
            namespace = Namespace(name)
            undo.callback(namespace.remove)
            side = Side(f"way{self.travellers}", namespace, self.world.folder / f"way{self.travellers}")
            undo.callback(side.stop)
            yield Traveller(self.world, namespace, side, self.travellers)

    @contextmanager
    def router(self, traveller: Traveller, inside: Sequence[str]) -> Iterator[Namespace]:
        """A machine between a traveller and the internet: IPv4 there, `inside` on the traveller's side.

        It forwards nothing yet, and the traveller's end of its cable has no address.
        """
        router = Namespace(f"{traveller.namespace.name}r")
        try:
            net = f"198.51.{110 + traveller.number}"
            internet = self.world.internet
            cable(router, WAN_INTERFACE, [f"{net}.2/24"], internet, f"way{traveller.number}", [f"{net}.1/24"])
            router.ip(f"route add default via {net}.1")
            cable(router, "lan0", inside, traveller.namespace, WAN_INTERFACE, [])
            yield router
        finally:
            router.remove()

    @contextmanager
    def gate(self) -> Iterator[tuple[Traveller, Namespace]]:
        """A traveller whose only neighbour is a machine that forwards nothing, and knows the node's name."""
        with self.traveller() as user, self.router(user, [f"{GATE}/24"]) as router:
            user.namespace.ip(f"address add {BEHIND_GATE}/24 dev {WAN_INTERFACE}")
            user.namespace.etc("resolv.conf", "")
            router.etc("hosts", f"{NODE_HOST} {NAME}\n")
            yield user, router

    def serve(self, user: Traveller, router: Namespace, command: Sequence[str], port: int) -> None:
        """Run a program in the router until it listens for the user."""
        program = self.world.run_in(router, command, f"{Path(command[0]).name}-{port}")

        def listens() -> bool:
            with user.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                return probe.connect_ex((GATE, port)) == 0

        until(listens, f"{command[0]} to listen", process=program)

    def not_much_longer(self, times: Times) -> None:
        assert times.up_s < self.plain.up_s + MAX_LONGER_S, f"{times}, and plainly {self.plain}"
        assert times.join_s < self.plain.join_s + MAX_LONGER_S, f"{times}, and plainly {self.plain}"


@contextmanager
def base(world: World) -> Iterator[Base]:
    """Node, provider and model, and one traveller on a plain network whose times are taken."""
    world.node.start()
    world.provider_side.nconnect(
        *("init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24"),
        *("--provide", LAN, "--seed-rpc", SEED_RPC),
    )
    world.provider_side.start()
    world.provider_side.wait()
    serve_model(world.server, world, SERVER, MODEL_PORT)
    made = Base(world, Times(0, 0))
    with made.traveller() as plain:
        plain.plug_in()
        made.plain = plain.do_all()
    yield made


def name_server(
    world: World, namespace: Namespace, listen: str, names: dict[str, Sequence[str]], *options: str
) -> Process:
    """Start the lab's name server in a namespace that has the address `listen`."""
    texts = [f"{name}={address}" for name, addresses in names.items() for address in addresses]
    command = [sys.executable, "-m", "lab.name_server", listen, *texts, *options]
    process = world.run_in(namespace, command, "names")
    until(lambda: "serving" in process.text(), "the name server", process=process)
    return process


def use_name_servers(namespace: Namespace, *servers: str) -> None:
    namespace.etc("resolv.conf", "".join(f"nameserver {server}\n" for server in servers))


def let_all_pass(namespace: Namespace) -> None:
    """Undo every `swallow`."""
    namespace.run(["nft", "delete table inet swallow"])


def swallow(namespace: Namespace, rule: str) -> None:
    """Let a machine silently drop what arrives and matches an nft rule ("ip daddr 192.0.2.9")."""
    namespace.nft(f"""
        add table inet swallow
        add chain inet swallow in {{ type filter hook prerouting priority -300; }}
        add rule inet swallow in {rule} drop
    """)


@contextmanager
def nat64(world: World, router: Namespace, prefix: str) -> Iterator[None]:
    """Let a router translate packets for `prefix` (a /96) to IPv4, and send them with its own address.

    Debian's tayga translates, one IPv4 address of its pool for each IPv6 address; masquerading does the rest.
    """
    folder = world.folder / router.name
    folder.mkdir()
    config = folder / "tayga.conf"
    config.write_text(
        "tun-device nat64\nipv4-addr 192.168.255.1\nipv6-addr 2001:db8:ffff::1\n"
        f"prefix {prefix}\ndynamic-pool 192.168.255.0/24\ndata-dir {folder}\n"
    )
    router.must("tayga", "--mktun", "-c", str(config))
    router.ip("link set nat64 up")
    router.ip("address add 192.168.255.2/32 dev nat64")
    router.ip("route add 192.168.255.0/24 dev nat64")
    router.ip(f"-6 route add {prefix} dev nat64")
    router.sysctl("net.ipv4.ip_forward", "1")
    router.sysctl("net.ipv6.conf.all.forwarding", "1")
    masquerade(router)
    process = world.run_in(router, ["tayga", "--nodetach", "-c", str(config)], "tayga")
    try:
        yield
    finally:
        process.stop()


def masquerade(router: Namespace) -> None:
    """Let a router forward to the internet with its own address (masquerade)."""
    router.nft(f"""
        add table ip out
        add chain ip out post {{ type nat hook postrouting priority 100; }}
        add rule ip out post oifname {WAN_INTERFACE} masquerade
    """)
