"""Which of this machine's addresses peers may be told, and which routes lead into a tunnel."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from nconnect.host.facts import LocalRoute
from nconnect.io.system import local_network
from nconnect.io.system.netlink import LinkAddress, NetworkInterface
from nconnect.model import Endpoint
from nconnect.tunnel.paths.direct.candidates import may_probe, own_candidates
from nconnect.wire.direct import CandidateKind
from tests.io.system.test_monitor import in_a_namespace, ip

LINKS = [
    NetworkInterface(1, "lo", 65536, True, ""),
    NetworkInterface(2, "eth0", 1500, True, ""),
    NetworkInterface(3, "docker0", 1500, True, "bridge"),
    NetworkInterface(4, "nc0", 65535, True, "tun"),
    NetworkInterface(5, "office", 1420, True, "wireguard"),
    NetworkInterface(6, "eth1", 9000, False, ""),
]
ADDRESSES = [
    LinkAddress(1, ip_interface("127.0.0.1/8")),
    LinkAddress(3, ip_interface("172.17.0.1/16")),
    LinkAddress(2, ip_interface("192.168.1.5/24")),
    LinkAddress(2, ip_interface("2001:db8:1::5/64")),
    LinkAddress(2, ip_interface("2001:db8:1::bad/64"), is_unusable=True),
    LinkAddress(2, ip_interface("fe80::5/64")),
    LinkAddress(4, ip_interface("10.86.0.2/24")),
    LinkAddress(5, ip_interface("10.9.0.2/24")),
    LinkAddress(6, ip_interface("192.0.2.9/24")),
]
ROUTES = [
    LocalRoute(ip_network("0.0.0.0/0"), "eth0", ip_address("192.168.1.1")),
    LocalRoute(ip_network("192.168.1.0/24"), "eth0"),
    LocalRoute(ip_network("10.86.0.0/24"), "nc0"),
    LocalRoute(ip_network("203.0.113.0/24"), "nc0"),
    LocalRoute(ip_network("10.9.0.0/24"), "office"),
    LocalRoute(ip_network("198.51.100.0/24"), "", kind="blackhole"),
]


def test_own_addresses_are_told_but_those_of_tunnels_loopback_and_what_is_deprecated() -> None:
    network, largest = local_network.of(LINKS, ADDRESSES, ROUTES, "nc0")
    told = own_candidates(network, 5000)
    assert [str(candidate.endpoint.address) for candidate in told] == [
        "2001:db8:1::5",
        "192.168.1.5",
        "172.17.0.1",  # of a bridge: last
    ]
    assert {candidate.kind for candidate in told} == {CandidateKind.HOST}
    assert largest == 1472  # a tunnel's larger MTU does not count


def test_nothing_is_sent_into_a_tunnel_or_nowhere() -> None:
    network, _ = local_network.of(LINKS, ADDRESSES, ROUTES, "nc0")

    def may(address: str) -> bool:
        return may_probe(network, Endpoint(ip_address(address), 5000))

    assert may("192.168.1.9")
    assert may("192.0.2.1")
    assert not may("203.0.113.1")  # ours
    assert not may("10.9.0.9")  # another program's
    assert not may("198.51.100.1")


def test_the_way_out_may_be_another_programs_tunnel_but_not_ours() -> None:
    for name, way_out in (("office", True), ("nc0", False)):
        routes = [LocalRoute(ip_network("0.0.0.0/0"), name)]
        network, _ = local_network.of(LINKS, ADDRESSES, routes, "nc0")
        assert may_probe(network, Endpoint(ip_address("192.0.2.1"), 5000)) is way_out


def test_the_kernel_is_read() -> None:
    def work() -> None:
        for line in (
            "link add eth0 mtu 9000 type veth peer name far mtu 9000",
            "link set far up",
            "link set eth0 up",
            "addr add 192.0.2.5/24 dev eth0",
            "-6 addr add 2001:db8::5/64 dev eth0 nodad",
            "-6 addr add 2001:db8::6/64 dev eth0 nodad preferred_lft 0",
            "route add default via 192.0.2.1",
        ):
            ip(line)
        network, largest = local_network.read("nc0")
        told = [str(candidate.endpoint.address) for candidate in own_candidates(network, 5000)]
        assert told == ["2001:db8::5", "192.0.2.5"]
        assert largest == 8972
        assert network.route_to(ip_address("198.51.100.1")) is not None

    in_a_namespace(work)


def test_rules_that_choose_another_table_are_followed() -> None:
    """Also when the main table says otherwise; a change of them is another network."""

    def work() -> None:
        for line in (
            "link add eth0 type veth peer name far",
            "link add nc0 type veth peer name nowhere",
            "link set nowhere up",
            "link set far up",
            "link set eth0 up",
            "link set nc0 up",
            "addr add 192.0.2.5/24 dev eth0",
            "addr add 10.86.0.2/24 dev nc0",
            "route add default via 192.0.2.1",
        ):
            ip(line)

        def may(address: str) -> bool:
            return may_probe(network, Endpoint(ip_address(address), 5000))

        network, _ = local_network.read("nc0")
        assert network.leaves is None
        assert not network.policy
        plain = network
        for line in (
            "route add default dev nc0 table 100",
            "route add 203.0.113.0/24 via 192.0.2.1 dev eth0 table 100",
            "rule add to 198.51.100.0/24 lookup 100",
            "rule add to 203.0.113.0/24 lookup 100",
            "rule add to 192.88.99.0/24 prohibit",
            "rule add from 192.0.2.99 lookup 100",
        ):
            ip(line)
        network, _ = local_network.read("nc0")
        assert network != plain
        assert network.whereabouts == plain.whereabouts
        assert not may("198.51.100.1")
        assert may("203.0.113.1")
        assert not may("192.88.99.1")
        assert may("9.9.9.9")
        again, _ = local_network.read("nc0")
        assert again == network
        ip("route del default dev nc0 table 100")
        again, _ = local_network.read("nc0")
        assert again != network
        # A default route in another table alone is a way out too.
        ip("route del default")
        ip("route add default via 192.0.2.1 dev eth0 table 100")
        ip("rule add to 9.9.9.0/24 lookup 100")
        network, _ = local_network.read("nc0")
        assert may("9.9.9.9")
        assert not may("8.8.8.8")

    in_a_namespace(work)
