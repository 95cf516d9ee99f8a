"""Daemons at the sites of `lab.nat`, for the tests of direct paths."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.nat import NODE_HOSTS, NatLab, Site
from lab.netns import Namespace
from lab.process import Process, until
from lab.sides import RPC_PORT, Node, Side
from nconnect.config.edit import add_peer, new_file
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress

FOUND_S = 15  # with daemons that have just started, on a loaded machine
DIRECT = "direct"


class Device:
    """One daemon at a site, 10.86.0.NUMBER in the tunnel."""

    def __init__(self, name: str, number: int, machine: Namespace, folder: Path) -> None:
        self.name = name
        self.ip = f"10.86.0.{number}"
        self.machine = machine
        self.seed = bytes([number]) * 32
        self.address = str(NknAddress(name, Identity(self.seed).public_key))
        self.side = Side(name, machine, folder)

    def configure(
        self, *peers: Device, provides: bool = False, direct: str = "on", services: Sequence[str] = ("9/tcp",)
    ) -> None:
        text = new_file(
            seed=self.seed,
            identifier=self.name,
            address=[f"{self.ip}/24"],
            seed_rpc=[f"http://{NODE_HOSTS[0]}:{RPC_PORT}"],
            services=services if provides else (),
        )
        text = text.replace("[network]\n", f'[network]\ndirect = "{direct}"\n')
        for peer in peers:
            text = add_peer(text, name=peer.name, address=peer.address, allowed_ips=[f"{peer.ip}/32"])
        self.side.config.write_text(text)
        self.side.config.chmod(0o600)

    def direct(self, peer: Device) -> dict[str, object]:
        """The `direct` object of a peer, with its `path`."""
        found = next(each for each in self.side.status()["peers"] if each["name"] == peer.name)
        return {**found["direct"], "path": found["path"]}

    def reaches(self, peer: Device) -> bool:
        return self.machine.run(["ping", "-n", "-c", "1", "-W", "2", peer.ip]).returncode == 0

    def settles(self, peer: Device, state: str) -> dict[str, object]:
        """With traffic to the peer, what `status` says once the direct path is in this state."""

        def is_so() -> bool:
            self.reaches(peer)
            return self.direct(peer)["state"] == state

        until(is_so, f"{self.name}'s path to {peer.name}: {state}", timeout_s=FOUND_S)
        return self.direct(peer)

    def listens_on_udp(self) -> bool:
        return bool(self.machine.must("ss", "-Hlnup"))


class World:
    def __init__(self, undo: ExitStack, folder: Path, prefix: str = "ncdir") -> None:
        self.lab = NatLab(undo, prefix)
        self.node = Node(self.lab.internet, folder / "node", options=["--listen", "::"])
        undo.callback(self.node.stop)
        self.node.start()
        self._undo, self._folder, self._devices = undo, folder, 0

    def device(self, name: str, site: Site, host: int = 0) -> Device:
        self._devices += 1
        found = Device(name, self._devices, site.hosts[host], self._folder / name)
        self._undo.callback(found.side.stop)
        return found


def start(*devices: Device, env: dict[str, str] | None = None) -> None:
    for device in devices:
        device.side.start(env=env)
    for device in devices:
        device.side.wait()


def here(device: Device) -> dict[str, Any]:
    """What the device has for direct paths."""
    found: dict[str, Any] = device.side.status()["direct"]
    return found


def kinds(device: Device, peer: Device, kind: str, *, timeout_s: float = FOUND_S) -> None:
    """Until the path to this peer, which has traffic, is of this kind."""

    def is_so() -> bool:
        device.reaches(peer)
        return device.direct(peer)["kind"] == kind

    until(is_so, f"{device.name}'s path to {peer.name} by {kind}", timeout_s=timeout_s)


@contextmanager
def pinging(device: Device, peer: Device, *, every_s: float = 0.1) -> Iterator[Process]:
    """Ping this often meanwhile."""
    command = ["ping", "-n", "-D", "-i", str(every_s), peer.ip]
    log = device.side.folder / f"ping-{time.monotonic_ns()}.txt"
    process = Process(device.machine, command, log)
    try:
        yield process
    finally:
        process.stop()


def replies(pings: Process) -> list[float]:
    """When each answer came."""
    return [float(at) for at in re.findall(r"^\[([\d.]+)\] \d+ bytes from", pings.text(), re.MULTILINE)]


def lost(pings: Process) -> list[int]:
    """Numbers of requests that were not answered, before the last one that was."""
    seen = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+) ", pings.text())}
    return sorted(set(range(1, max(seen, default=0) + 1)) - seen)


def longest_pause(times: list[float]) -> float:
    return max(after - before for before, after in pairwise(times))
