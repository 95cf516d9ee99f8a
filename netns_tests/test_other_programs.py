"""Other programs change the machine's network: the daemon sets again what is its own, and misses no change.

user ── node ── provider ── server

One world for all tests: each leaves it as it was. The bursts are larger than a netlink socket's buffer, so
the kernel drops messages about them and about what comes after.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.netns import Namespace, cable, namespaces
from lab.process import until
from lab.sides import RPC_PORT, Side
from lab.traffic import SERVICE, pings, reaches
from lab.world import LAN, NODE_HOST, PROVIDER_LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SERVER, World

BACK_S = 2.0  # a second is asked of a quiet machine
IP_FORWARD = "net.ipv4.ip_forward"


def said(side: Side) -> str:
    return "\n".join(side.status()["problems"])


def many_routes(namespace: Namespace, verb: str) -> None:
    routes = (f"route {verb} blackhole 172.20.{n >> 8}.{n & 255}/32" for n in range(3000))
    namespace.ip_batch(*routes)


def many_elements(namespace: Namespace) -> None:
    """Add 30,000 elements to a set of another program, in transactions of a thousand."""
    namespace.nft("add table ip other\nadd set ip other s { type ipv4_addr; }")
    for at in range(0, 30000, 1000):
        elements = ", ".join(f"172.{20 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in range(at, at + 1000))
        namespace.nft(f"add element ip other s {{ {elements} }}")


def has_route(world: World) -> bool:
    return "nc0" in world.user.ip(f"route show {LAN}")


def tables(namespace: Namespace) -> str:
    return namespace.run(["nft", "list", "tables"]).stdout


def test_a_route_of_ours_that_goes_in_a_burst_is_set_again(shared: World) -> None:
    many_routes(shared.user, "add")
    try:
        shared.user.ip(f"route del {LAN} dev nc0")
        started = time.monotonic()
        until(lambda: has_route(shared), "the route", timeout_s=10)
        assert time.monotonic() - started < BACK_S
    finally:
        many_routes(shared.user, "del")
    assert pings(shared.user, SERVER)


def test_rules_of_ours_that_go_in_a_burst_are_set_again(shared: World) -> None:
    """Without these rules a peer would reach what it may not."""
    ours = "table inet nconnect_nc0"
    many_elements(shared.provider)
    shared.provider.nft("flush ruleset")
    started = time.monotonic()
    until(lambda: ours in tables(shared.provider), "our table", timeout_s=10)
    assert time.monotonic() - started < BACK_S
    # The daemon still listens: the next loss is noticed too, without any burst.
    shared.provider.nft("delete table inet nconnect_nc0")
    started = time.monotonic()
    until(lambda: ours in tables(shared.provider), "our table again", timeout_s=10)
    assert time.monotonic() - started < BACK_S
    until(lambda: reaches(shared.user, SERVER, SERVICE), "the server")


def test_a_hundred_changes_a_second_cost_little(shared: World) -> None:
    """An armed reader with unread messages would spin the loop."""
    daemon = shared.user_side.daemon
    assert daemon is not None
    for n in range(300):
        verb = "add" if n % 2 == 0 else "del"
        if n == 100:
            started, used = time.monotonic(), daemon.cpu_s()
        shared.user.ip(f"route {verb} blackhole 172.20.0.1/32")
        time.sleep(0.007)  # the rate is what is tested; `ip` takes 3 ms
    share = (daemon.cpu_s() - used) / (time.monotonic() - started)
    assert share < 0.10, f"{share:.0%} of a core"  # 2 % on a quiet machine, 60 % with a reader that spins


def test_forwarding_that_is_switched_off_is_set_again_once_and_then_said(shared: World) -> None:
    side = shared.provider_side
    shared.provider.sysctl(IP_FORWARD, "0")
    until(lambda: reaches(shared.user, SERVER, SERVICE), "forwarding again", timeout_s=5)
    assert said(side) == ""
    shared.provider.sysctl(IP_FORWARD, "0")
    until(lambda: IP_FORWARD in said(side), "the status to say it", timeout_s=5)
    assert not reaches(shared.user, SERVER, SERVICE), "it is not a fight"
    side.nconnect("reload")
    until(lambda: said(side) == "", "the status to be content", timeout_s=5)
    assert reaches(shared.user, SERVER, SERVICE)


def skipped(side: Side) -> dict[str, str]:
    return {entry["route"]: entry["why"] for entry in side.status()["skipped_routes"]}


def test_a_foreign_blackhole_costs_its_own_prefix_only(shared: World) -> None:
    """The kernel refuses our route to the prefix, because the other one is there ("file exists")."""
    side = shared.user_side
    side.down()
    shared.user.ip(f"route add blackhole {LAN}")
    try:
        side.start()
        side.wait(PROVIDER_PEER)
        assert f"ip route del blackhole {LAN}" in skipped(side)[LAN]
        assert pings(shared.user, PROVIDER_TUNNEL)
        assert not pings(shared.user, SERVER)
    finally:
        shared.user.ip(f"route del blackhole {LAN}")
    until(lambda: pings(shared.user, SERVER), "the route once that one is gone", timeout_s=5)
    assert skipped(side) == {}
    shared.user.ip(f"route replace blackhole {LAN}")  # it replaces our route
    until(lambda: LAN in skipped(side), "the status to say it", timeout_s=5)
    shared.user.ip(f"route del blackhole {LAN}")
    until(lambda: pings(shared.user, SERVER), "the route again", timeout_s=5)


def test_a_foreign_route_into_the_tunnel_does_no_harm(shared: World) -> None:
    side = shared.user_side
    wanted = ("peer", "set", PROVIDER_PEER, "--allowed-ips")
    text = side.config.read_text()
    shared.user.ip("route add 192.168.77.0/24 dev nc0")
    try:
        side.nconnect(*wanted, f"{PROVIDER_TUNNEL}/32,{LAN},192.168.77.0/24")
        assert skipped(side) == {}
        assert said(side) == ""
    finally:
        side.config.write_text(text)
        side.nconnect("reload")
    assert "192.168.77.0/24" in shared.user.ip("route show dev nc0"), "it is theirs"
    shared.user.ip("route del 192.168.77.0/24 dev nc0")
    assert pings(shared.user, SERVER)


def test_an_interface_that_is_renamed_is_made_again(shared: World) -> None:
    """udev may do that. The rules of the firewall match the interface by name."""
    user, side = shared.user, shared.user_side
    user.ip_batch("link set nc0 down", "link set nc0 name foo", "link set foo up")
    until(lambda: "nc0" in user.ip("-br link"), "its name", timeout_s=5)
    until(lambda: pings(user, SERVER), "the tunnel", timeout_s=5)
    assert "foo" not in user.ip("-br link")
    user.ip_batch("link set nc0 down", "link set nc0 name foo", "link add nc0 type bridge")
    until(lambda: "nc0 was renamed foo" in said(side), "the status to say it", timeout_s=5)
    assert "UP" not in user.ip("-br link show foo"), "without rules nothing passes"
    user.ip("link del nc0")
    until(lambda: pings(user, SERVER), "the tunnel again", timeout_s=5)
    until(lambda: said(side) == "", "the status to be content")


def test_an_interface_that_is_moved_away_is_made_again(shared: World) -> None:
    user, side = shared.user, shared.user_side
    user.ip(f"link set nc0 netns {shared.internet.name}")
    until(lambda: "moved to another network namespace" in said(side), "the status to say it", timeout_s=5)
    shared.internet.ip(f"link set nc0 netns {user.name}")
    until(lambda: pings(user, SERVER), "the tunnel again", timeout_s=5)


def test_a_wide_network_that_appears_takes_nothing_from_the_tunnel(shared: World) -> None:
    """As Docker or a hotel may have it. The longer prefix wins, unless it would hide a neighbour."""
    user, side = shared.user, shared.user_side
    user.ip("link add docker0 type bridge")
    try:
        user.ip("link set docker0 up")
        user.ip("address add 10.3.4.5/8 dev docker0")
        user.ip("address add 192.168.48.1/20 dev docker0")
        time.sleep(1.5)  # time for the daemon to plan again: no event tells of it
        assert skipped(side) == {}
        assert pings(user, SERVER)
        assert pings(user, PROVIDER_TUNNEL)
        user.ip("neighbour replace 192.168.50.7 lladdr 02:00:00:00:00:07 dev docker0 nud reachable")
        user.ip("address add 192.168.48.2/20 dev docker0")  # a change that makes the daemon plan again
        until(lambda: "holds the neighbour 192.168.50.7" in skipped(side).get(LAN, ""), "the neighbour's way")
        assert "docker0" in user.ip("route get 192.168.50.7")
        assert pings(user, PROVIDER_TUNNEL), "the rest of the tunnel stays"
    finally:
        user.ip("link del docker0")
    until(lambda: pings(user, SERVER), "the route again", timeout_s=5)


def test_an_edit_of_the_file_is_in_force_after_reload_only(shared: World) -> None:
    """The change is in force after `reload` only. The daemon's own user cannot even open the file."""
    side = shared.user_side
    text = side.config.read_text()
    try:
        side.config.write_text(text.replace("[interface]\n", "[interface]\ninbound = true\n", 1))
        until(lambda: "in force (inbound changes)" in said(side), "the status to say it", timeout_s=20)
        assert "`nconnect reload`" in said(side)
        side.nconnect("reload")
        assert "reload" not in said(side)
        side.config.write_text("this is no configuration\n")
        until(lambda: "cannot be put in force" in said(side), "the status to say it", timeout_s=20)
        assert pings(shared.user, SERVER)
    finally:
        side.config.write_text(text)
    side.nconnect("reload")
    assert "put in force" not in said(side)


def reaches_node(namespace: Namespace) -> bool:
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((NODE_HOST, RPC_PORT)) == 0


def neighbour_reaches(shared: World) -> bool:
    """Whether a machine on the provider's uplink reaches the subnet with a route through the provider."""
    return reaches(shared.internet, SERVER, SERVICE)


@pytest.fixture
def neighbour(shared: World) -> Iterator[World]:
    """Give the other machine of the uplink a route to the subnet, and the server one back."""
    shared.internet.ip(f"route add {LAN} via 203.0.113.2")
    shared.server.ip(f"route add 203.0.113.0/24 via {PROVIDER_LAN}")
    yield shared
    shared.internet.ip(f"route del {LAN}")
    shared.server.ip("route del 203.0.113.0/24")


def test_a_neighbour_is_not_forwarded_because_we_switched_forwarding_on(neighbour: World) -> None:
    side = neighbour.provider_side
    assert neighbour.provider.sysctl(IP_FORWARD) == "1"
    assert not neighbour_reaches(neighbour)
    assert reaches(neighbour.user, SERVER, SERVICE), "peers are"
    until(lambda: "did not forward" in said(side), "the status to name what was stopped", timeout_s=5)
    # The rules of a killed daemon stay. The next one replaces them, and knows who switched forwarding on.
    assert side.daemon is not None
    side.daemon.kill()
    side.stop()
    side.start()
    side.wait()
    assert not neighbour_reaches(neighbour)
    until(lambda: reaches(neighbour.user, SERVER, SERVICE), "the peer's way", timeout_s=15)
    side.down()
    assert neighbour.provider.sysctl(IP_FORWARD) == "0"
    try:
        neighbour.provider.sysctl(IP_FORWARD, "1")
        assert neighbour_reaches(neighbour), "the control: a router forwards"
        side.start()
        side.wait()
        assert neighbour_reaches(neighbour), "and still is one while we run"
        assert said(side) == ""
        side.down()
    finally:
        neighbour.provider.sysctl(IP_FORWARD, "0")
        side.start()
        side.wait()
    until(lambda: reaches(neighbour.user, SERVER, SERVICE), "the peer's way", timeout_s=15)


def test_docker_that_begins_to_forward_after_us_keeps_working(shared: World) -> None:
    """A bridge, a container and rules as Docker makes them when forwarding is on already."""
    provider, side = shared.provider, shared.provider_side
    with ExitStack() as undo:
        (container,) = namespaces(undo, "ncothers", "container")
        provider.ip("link add docker0 type bridge")
        try:
            cable(provider, "veth1", [], container, "eth0", ["172.17.0.2/16"])
            for words in ("link set veth1 master docker0", "address add 172.17.0.1/16 dev docker0",
                          "link set docker0 up"):  # fmt: skip
                provider.ip(words)
            container.ip("route add default via 172.17.0.1")
            for rule in (
                "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
                "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
            ):
                provider.must("iptables-nft", *rule.split())
            until(lambda: reaches_node(container), "the container's way out", timeout_s=5)
            side.down()
            assert provider.sysctl(IP_FORWARD) == "1", "it is Docker's now"
            assert reaches_node(container)
            side.start()
            side.wait()
            assert reaches_node(container)
        finally:
            provider.run(["iptables-nft", "-F"])
            provider.run(["iptables-nft", "-t", "nat", "-F"])
            provider.ip("link del docker0")
    side.down()
    assert provider.sysctl(IP_FORWARD) == "0"
    side.start()
    side.wait()
    until(lambda: reaches(shared.user, SERVER, SERVICE), "the peer's way", timeout_s=15)
