"""Two providers with the same addresses, and a user whose own network has them too: all three are reached.

user ────────┐
lan 192.168.50.77        internet (node) ─┬─ provider ── server 192.168.50.10, seen as 10.99.50.10
                                          └─ other ──── server2 192.168.50.10, seen as 10.98.50.10
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from lab.netns import Namespace, cable
from lab.netns import namespaces as namespaces_of
from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, connect, download, expected_download, reaches, serve, whoami
from lab.world import LAN, PROVIDER_PEER, SEED_RPC, SERVER, USER_PEER, WAN_INTERFACE, World
from netns_tests.topology import provided

OTHER_PEER = "other"


@contextmanager
def other_machines(world: World) -> Iterator[tuple[Side, Namespace]]:
    """A second provider's machine, and a server whose address is the first one's."""
    with ExitStack() as undo:
        other, server = namespaces_of(undo, "ncother", "prov", "server")
        cable(other, WAN_INTERFACE, ["203.0.114.2/24"], world.internet, "other", ["203.0.114.1/24"])
        cable(other, "lan0", ["192.168.50.2/24"], server, "eth0", [f"{SERVER}/24"])
        other.ip("route add default via 203.0.114.1")
        side = Side("other", other, world.folder / "other")
        undo.callback(side.stop)
        yield side, server


@contextmanager
def other_provider(world: World) -> Iterator[Side]:
    """The second provider, up, with the user as its peer."""
    with other_machines(world) as (side, server):
        serve(server, world, SERVICE)
        side.nconnect(
            *("init", "--identifier", OTHER_PEER, "--address", "10.87.0.1/24"),
            *("--provide", f"{LAN}=10.98.50.0/24", "--seed-rpc", SEED_RPC),
        )
        side.nconnect("peer", "add", USER_PEER, world.user_side.address(), "--allowed-ips", "10.86.0.2/32")
        side.start()
        side.wait()
        yield side


def both_at_once(user: Namespace) -> None:
    """Download from both servers at the same time, and check every byte."""
    size = 64 << 20

    def move(host: str) -> str:
        with connect(user, host, SERVICE, timeout_s=60) as connection:
            return download(connection, size)

    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(move, ("10.99.50.10", "10.98.50.10")))
    assert digests == [expected_download(size)] * 2


def test_both_providers_and_the_users_own_lan_work(fresh: World) -> None:
    user, side = fresh.user, fresh.user_side
    user.ip("link add lan0 type veth peer name lan1")
    user.ip("link set lan1 up")
    user.ip("address add 192.168.50.77/24 dev lan0")
    user.ip("link set lan0 up")
    with provided(fresh), other_provider(fresh) as other:
        # The route would cut the user off from its own network: it is skipped with a message.
        (skipped,) = [s for s in side.status()["skipped_routes"] if s["route"] == LAN]
        line = f'subnets = ["{LAN}=10.99.50.0/24"]'
        assert line in skipped["why"]
        assert "lan0" in user.ip(f"route get {SERVER}")

        # What the message proposes works.
        text = fresh.provider_side.config.read_text()
        fresh.provider_side.config.write_text(text.replace(f'"{LAN}"', f'"{LAN}=10.99.50.0/24"'))
        assert fresh.provider_side.daemon is not None
        fresh.provider_side.daemon.signal(1)
        side.nconnect("peer", "set", PROVIDER_PEER, "--allowed-ips", "10.86.0.1/32,10.99.50.0/24")
        side.nconnect(
            *("peer", "add", OTHER_PEER, other.address()),
            *("--allowed-ips", "10.87.0.1/32,10.98.50.0/24"),
        )
        side.wait(OTHER_PEER)
        until(lambda: reaches(user, "10.99.50.10", SERVICE), "the first provider's server")
        until(lambda: reaches(user, "10.98.50.10", SERVICE), "the second provider's server")
        assert whoami(user, "10.99.50.10", SERVICE) == "192.168.50.1"
        assert whoami(user, "10.98.50.10", SERVICE) == "192.168.50.2"
        assert "lan0" in user.ip(f"route get {SERVER}")
        both_at_once(user)
        assert not [s for s in side.status()["skipped_routes"] if s["route"].startswith("10.9")]
        # Each server is reached under its own address only.
        assert not reaches(user, "10.98.50.10", SERVICE + 1)
