"""Which pairs of networks get a direct path, how soon, and by which address.

    device ── NAT of a kind ── internet (node) ── NAT of a kind ── device

docs/reliability.md has the table (`--nat-table FILE` writes it). There is a daemon behind each kind of NAT,
and a second one where two of a kind are worth a look. Each pair has not spoken before; the time is from the
first ping to `status` saying that the path is up, the handshake included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import combinations

import pytest

from lab.nat import Kind, Site, serve_mappings
from lab.process import until
from nconnect.tunnel.paths.direct import reasons
from netns_tests import nat_table
from netns_tests.direct import DIRECT, Device, World, here, pinging, start

pytestmark = pytest.mark.slow

UP_S = 1.0  # the must, for easy NATs; of the median of these pairs, since other tests may take the processors
FOUND_S = 20.0
EASY = ("none", "full cone", "address restricted", "port restricted", "double NAT")
# name: (kinds, how many sites, IPv6)
SITES: dict[str, tuple[tuple[Kind, ...], int, bool]] = {
    "none": ((Kind.NONE,), 1, False),
    "full cone": ((Kind.FULL_CONE,), 2, False),
    "address restricted": ((Kind.ADDRESS,), 2, False),
    "port restricted": ((Kind.PORT,), 2, False),
    "double NAT": ((Kind.PORT, Kind.PORT), 1, False),
    "open router": ((Kind.PORT_OPEN,), 2, False),
    "symmetric": ((Kind.SYMMETRIC,), 2, False),
    "symmetric, IPv6": ((Kind.SYMMETRIC,), 2, True),
    "symmetric, mapped": ((Kind.SYMMETRIC,), 1, False),
    "UDP blocked": ((Kind.BLOCKED,), 1, False),
}
NEVER = {  # neither side can tell where to send; with UDP blocked TCP is left, to who can be reached
    *((name, "symmetric") for name in ("port restricted", "double NAT", "open router", "symmetric")),
    *((name, "symmetric, IPv6") for name in ("port restricted", "double NAT", "open router", "symmetric")),
    *((name, "UDP blocked") for name in SITES if name not in ("none", "symmetric, mapped")),
}


class Matrix:
    def __init__(self, undo: ExitStack, world: World) -> None:
        self.sites: dict[Device, Site] = {}
        self.of: dict[str, list[Device]] = {}
        for name, (kinds, number, ipv6) in SITES.items():
            for n in range(number):
                site = world.lab.site(*kinds, ipv6=ipv6)
                device = world.device(f"{name.replace(' ', '').replace(',', '')}{n}", site)
                self.of.setdefault(name, []).append(device)
                self.sites[device] = site
        (mapped,) = self.of["symmetric, mapped"]
        folder = mapped.side.folder
        mapper = serve_mappings(self.sites[mapped], world.lab, folder, pcp=True, upnp=False)
        undo.callback(mapper.stop)
        for device in self.sites:
            device.configure(*(peer for peer in self.sites if peer is not device), provides=True)
        start(*self.sites)
        until(lambda: here(mapped)["mapped"], "the port to be mapped")

    def pairs(self) -> Iterator[tuple[str, str, Device, Device]]:
        """Each two kinds once, and two of a kind where there are two."""
        for name, devices in self.of.items():
            if len(devices) > 1:
                yield name, name, devices[0], devices[1]
        for one, other in combinations(self.of, 2):
            yield one, other, self.of[one][0], self.of[other][0]

    def address(self, device: Device, peer: Device) -> str:
        """Of which kind the address of the peer is that this device sends to."""
        remote = str(device.direct(peer)["remote"])
        host = remote.rpartition(":")[0].strip("[]")
        site = self.sites[peer]
        if host in (*site.addresses, *site.addresses6):
            return "own"
        if remote in here(peer)["mapped"]:
            return "mapped"
        if remote in here(peer)["public"]:
            return "reflexive"
        return "peer-reflexive" if device.direct(peer)["kind"] == "udp" else "dialled from there"


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with ExitStack() as undo:
        yield Matrix(undo, World(undo, tmp_path_factory.mktemp("matrix"), "ncmat"))


@pytest.mark.timeout(400)
def test_every_pair_of_networks(matrix: Matrix) -> None:
    """Those that find a path one after another, for the times; then the others at once."""
    easy: list[float] = []
    for one, other, device, peer in matrix.pairs():
        if (one, other) not in NEVER:
            with pinging(device, peer, every_s=0.05):
                began = time.monotonic()
                until(
                    lambda device=device, peer=peer: device.direct(peer)["state"] == "up",
                    f"a path from {one} to {other}",
                    timeout_s=FOUND_S,
                )
                took_s = time.monotonic() - began
                found = device.direct(peer)
                assert found["path"] == DIRECT
                nat_table.up(one, other, str(found["kind"]), matrix.address(device, peer), took_s)
            if one in EASY and other in EASY:
                easy.append(took_s)
    assert sorted(easy)[len(easy) // 2] <= UP_S
    never = [pair for pair in matrix.pairs() if pair[:2] in NEVER]
    with ExitStack() as pings:
        for _, _, device, peer in never:
            pings.enter_context(pinging(device, peer, every_s=0.2))
        for one, other, device, peer in never:
            until(
                lambda device=device, peer=peer: device.direct(peer)["state"] == "failed",
                f"no path from {one} to {other}",
                timeout_s=FOUND_S,
            )
            nat_table.failed(one, other, str(device.direct(peer)["why"]))
    for one, other, device, peer in never:
        assert device.direct(peer)["path"] == "node"
        assert device.reaches(peer), f"{other} is not reached from {one}"
    assert {nat_table.table[one, other].address for one, other, _, _ in never} <= {
        reasons.HARD, reasons.HARD_HERE, reasons.HARD_THERE, reasons.BLOCKED, reasons.PEER_BLOCKED
    }  # fmt: skip
