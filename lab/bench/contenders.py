"""The tunnels that are measured: how each starts on a bed, where the provider is then, and how it ends."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from lab.bench.bed import CHAT_PORT, IPERF_PORT, PROVIDER_DIRECT, PROVIDER_DIRECT6, USER_DIRECT, Bed
from lab.netns import LabError, Namespace, ip
from lab.ping import first_reply
from lab.process import Process, until
from lab.sides import Node, Side
from lab.world import PROVIDER_PEER, SEED_RPC, USER_PEER

START_TIMEOUT_S = 20


@dataclass(frozen=True)
class Running:
    """A contender that is up."""

    bed: Bed
    host: str  # the provider's address through it
    host6: str
    processes: tuple[Process, ...]  # all that the tunnel consists of, a node included
    start_s: float | None  # from the user's command to the first answered ping


class Contender(Protocol):
    """A tunnel that the bench can start."""

    name: str
    about: str

    def missing(self) -> str | None:
        """Why it cannot be measured on this machine, if so."""

    def running(self, bed: Bed) -> AbstractContextManager[Running]:
        """Start it, and stop it when the block ends."""


class Raw:
    name = "veth"
    about = "the cable itself, no tunnel"

    def missing(self) -> str | None:
        return None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        yield Running(bed, PROVIDER_DIRECT, PROVIDER_DIRECT6, (), None)


class WireguardGo:
    """Debian's wireguard-go (2022), user and provider directly connected."""

    name = "wireguard-go"
    about = "Debian's wireguard-go, direct, without a node"
    _number = itertools.count()

    def missing(self) -> str | None:
        absent = [name for name in ("wireguard-go", "wg") if shutil.which(name) is None]
        return f"{' and '.join(absent)} not installed (scripts/setup --dev)" if absent else None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        keys = {end: self._key(bed.user) for end in ("user", "provider")}
        number = next(self._number)
        with ExitStack() as undo:
            processes: list[Process] = []
            started = 0.0
            for end, namespace, peer, endpoint, tail in (
                ("provider", bed.provider, "user", USER_DIRECT, 1),
                ("user", bed.user, "provider", PROVIDER_DIRECT, 2),
            ):
                started = time.monotonic()
                # Its control sockets stand in one folder of the machine: the names must differ.
                device = f"wg{end[0]}{os.getpid() % 100000}x{number}"
                log = bed.folder / f"wireguard-{end}-{number}.log"
                process = Process(
                    namespace,
                    ["wireguard-go", device],
                    log,
                    env={"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"},
                )
                undo.callback(process.stop)
                processes.append(process)
                socket = f"/var/run/wireguard/{device}.sock"
                until(partial(os.path.exists, socket), "wireguard-go", process=process)
                key = bed.folder / f"{device}.key"
                key.write_text(keys[end][0])
                self._run(
                    namespace,
                    *(
                        "wg",
                        "set",
                        device,
                        "private-key",
                        str(key),
                        "listen-port",
                        "51820",
                        "peer",
                        keys[peer][1],
                    ),
                    *("endpoint", f"{endpoint}:51820", "allowed-ips", "10.98.0.0/24,fd98::/64"),
                )
                ip(f"address add 10.98.0.{tail}/24 dev {device}", netns=namespace.name)
                ip(f"address add fd98::{tail}/64 dev {device} nodad", netns=namespace.name)
                ip(f"link set {device} up", netns=namespace.name)
            answered = first_reply(bed.user, "10.98.0.1", timeout_s=START_TIMEOUT_S)
            yield Running(bed, "10.98.0.1", "fd98::1", tuple(processes), answered - started)

    def _key(self, namespace: Namespace) -> tuple[str, str]:
        private = self._run(namespace, "wg", "genkey")
        return private, self._run(namespace, "wg", "pubkey", text=private)

    def _run(self, namespace: Namespace, *command: str, text: str = "") -> str:
        done = namespace.run(command, input_text=text)
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()


class Nconnect:
    """The shipped daemon with every check on, through our node."""

    _number = itertools.count()

    def __init__(self, cipher: str, name: str) -> None:
        self.cipher = cipher
        self.name = name
        self.about = f"nconnect through its node, {cipher}"

    def missing(self) -> str | None:
        return None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"nconnect-{next(self._number)}"
        node = Node(bed.internet, folder / "node", options=["--verify-signatures"])
        provider = Side("provider", bed.provider, folder / "provider")
        user = Side("user", bed.user, folder / "user")
        with ExitStack() as undo:
            for part in (node, provider, user):
                undo.callback(part.stop)
            services = f"{IPERF_PORT}/tcp,{IPERF_PORT}/udp,{CHAT_PORT}/tcp"
            for side, address, name, more in (
                (provider, "10.86.0.1/24,fd86::1/64", PROVIDER_PEER, ["--service", services]),
                (user, "10.86.0.2/24,fd86::2/64", USER_PEER, []),
            ):
                side.nconnect(
                    "init", "--identifier", name, "--address", address, "--seed-rpc", SEED_RPC, *more
                )
                text = side.config.read_text()
                side.config.write_text(
                    text.replace("[interface]\n", f'[interface]\ncipher = "{self.cipher}"\n', 1)
                )
            provider.nconnect(
                "peer", "add", USER_PEER, user.address(), "--allowed-ips", "10.86.0.2/32,fd86::2/128"
            )
            user.nconnect(
                "peer", "add", PROVIDER_PEER, provider.address(), "--allowed-ips", "10.86.0.1/32,fd86::1/128"
            )
            processes = [node.start(), provider.start()]
            provider.wait()
            started = time.monotonic()
            processes.append(user.start())
            try:
                answered = first_reply(bed.user, "10.86.0.1", timeout_s=START_TIMEOUT_S)
            except LabError as error:
                raise LabError(f"{error}\n{node.logs()}\n{provider.logs()}\n{user.logs()}") from None
            yield Running(bed, "10.86.0.1", "fd86::1", tuple(processes), answered - started)
            user.down()
            provider.down()


CONTENDERS: tuple[Contender, ...] = (
    Raw(),
    WireguardGo(),
    Nconnect("aes256gcm", "nconnect"),
    Nconnect("chacha20poly1305", "nconnect-chacha20"),
)
BASELINE = "wireguard-go"
