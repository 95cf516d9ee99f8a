"""The world that all attacks share.

user (chats) ── node (hostile) ── provider ── server (SmolLM2-135M)
attacker ── internet's machine: reaches the node, and has ten IPv4 addresses and an IPv6 /64
the peer and the stranger run on the internet's machine
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from lab.attack.commands import Hostile
from lab.netns import Namespace, cable, namespaces
from lab.process import Process, until
from lab.sides import RPC_PORT, Side
from lab.traffic import serve_model
from lab.world import PROVIDER_PEER, SERVER, World, world
from nconnect.crypto.keys import Identity

PORT = 8000
FLOOD_PORT = 9000  # UDP; nothing listens there
EVIL, EVIL_TUNNEL = "evil", "10.86.0.66"
ROGUE, ROGUE_TUNNEL = "rogue", "10.66.0.1"
LOCAL_SEED_RPC = f"http://127.0.0.1:{RPC_PORT}"
ATTACKER_ADDRESSES = tuple(f"198.18.0.{n}" for n in range(2, 12))
ATTACKER_PREFIX6 = "2001:db8:66::"  # a /64
NODE_FOR_ATTACKER, NODE_FOR_ATTACKER6 = "198.18.0.1", "2001:db8:66::1"


@dataclass
class Stage:
    """What an attack may use.

    `programs` take commands: "node", "peer", "stranger" and "provider", which are hostile, and "abuser" on
    the attacker's machine.
    """

    world: World
    attacker: Namespace
    programs: dict[str, Hostile]
    reader: Process
    evil_address: str  # NKN address of the hostile peer
    _sinks: dict[tuple[str | int, ...], Process] = field(default_factory=dict)

    def side(self, name: str) -> Side:
        return self.world.provider_side if name == "provider" else self.world.user_side

    def sink(self, machine: Namespace, mark: str, *ports: int) -> Process:
        """A program that prints what arrives there and holds `mark` (`lab.attack.sink`), started once."""
        key: tuple[str | int, ...] = (machine.name, mark, *ports)
        if key not in self._sinks:
            command = [sys.executable, "-m", "lab.attack.sink", mark, *map(str, ports)]
            made = self._sinks[key] = self.world.run_in(machine, command, "sink")
            until(lambda: "ready" in made.text(), "a sink", process=made)
        return self._sinks[key]

    def pause_s(self, since: float) -> float:
        """The chat's longest time without a token from `since` (CLOCK_MONOTONIC) until now."""
        times = [since, *(moment for moment in self.token_times() if moment > since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    def token_times(self) -> list[float]:
        """When each token of the chat came."""
        lines = self.reader.text().splitlines()
        return [float(line) for line in lines if line.replace(".", "").isdigit()]

    def rss(self) -> dict[str, int]:
        found = {}
        for name in ("user", "provider"):
            daemon = self.side(name).daemon
            assert daemon is not None
            found[name] = daemon.rss_bytes()
        return found


@contextmanager
def stage() -> Iterator[Stage]:
    """A world with a hostile node, in which the tunnel is up, the chat runs and the senders are ready."""
    with world("ncattack") as made, ExitStack() as undo:
        seeds = {name: os.urandom(32) for name in ("peer", "stranger", "provider")}

        def hostile(where: Namespace, name: str, module: str, *arguments: str) -> Hostile:
            program = Hostile(where, module, arguments, made.folder / f"{name}.log", {})
            undo.callback(program.stop)
            program.wait_ready()
            return program

        (attacker,) = namespaces(undo, "ncattack", "attacker")
        cable(
            *(attacker, "eth0", [f"{address}/24" for address in ATTACKER_ADDRESSES]),
            *(made.internet, "attacker", [f"{NODE_FOR_ATTACKER}/24", f"{NODE_FOR_ATTACKER6}/64"]),
        )
        for n in range(2, 12):
            attacker.ip(f"address add {ATTACKER_PREFIX6}{n:x}/64 dev eth0 nodad")
        made.configure()
        # Rows are about the relay, except for those that switch it on and open the way.
        config = made.user_side.config
        config.write_text(config.read_text().replace("[network]\n", '[network]\ndirect = "off"\n', 1))
        evil = f"{EVIL}.{Identity(seeds['peer']).public_key.hex()}"
        made.provider_side.nconnect(
            *("peer", "add", EVIL, evil),
            *("--allowed-ips", f"{EVIL_TUNNEL}/32"),
            *("--allow", f"{SERVER}:{PORT}/tcp,{SERVER}:{FLOOD_PORT}/udp"),
        )
        rogue = f"{ROGUE}.{Identity(seeds['provider']).public_key.hex()}"
        made.user_side.nconnect("peer", "add", ROGUE, rogue, "--allowed-ips", "10.66.0.0/24")
        # The provider remembers unknown senders for `peer pending`.
        config = made.provider_side.config
        config.write_text(
            config.read_text().replace("[interface]\n", "[interface]\naccept_pending = true\n", 1)
        )
        programs = {
            "node": hostile(made.internet, "node", "lab.attack.node"),
            "abuser": hostile(attacker, "abuser", "lab.attack.abuser"),
        }
        made.up()
        serve_model(made.server, made, SERVER, PORT)
        chat = [sys.executable, "-m", "lab.attack.chat", SERVER, str(PORT)]
        reader = made.run_in(made.user, chat, "chat")
        built = Stage(made, attacker, programs, reader, evil)
        until(lambda: len(built.token_times()) > 20, "the chat", timeout_s=30, process=reader)
        # A new session, so that the node has frames of an old one.
        made.user_side.down()
        made.user_side.start()
        made.user_side.wait(PROVIDER_PEER)
        seen = len(built.token_times())
        until(lambda: len(built.token_times()) > seen + 40, "the chat again", timeout_s=30, process=reader)
        for name, identifier, victim, address in (
            ("peer", EVIL, made.provider_side, EVIL_TUNNEL),
            ("stranger", "nobody", made.provider_side, EVIL_TUNNEL),
            ("provider", ROGUE, made.user_side, ROGUE_TUNNEL),
        ):
            programs[name] = hostile(
                made.internet, name, "lab.attack.sender", LOCAL_SEED_RPC, seeds[name].hex(), identifier,
                victim.address(), address,
            )  # fmt: skip
        programs["peer"].do("session")
        programs["provider"].do("session")
        yield built
