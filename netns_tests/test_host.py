"""What the host state sets on a machine is what a real kernel enforces, and it is taken back completely.

    user                          provider                            lan
    nc0 10.86.0.2 .3 .4  <=tun=>  nc0 10.86.0.1                       eth0 192.168.50.10
        fd86::2                       fd86::1                              fd50::10
                                  eth0 192.168.50.1  ─── veth ───          192.168.1.10 (mapped)
                                       fd50::1                             192.168.60.10 (not provided)

`<=tun=>` is a thread that carries packets from one TUN device to the other, as the tunnel would.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from lab.netns import Namespace, cable, namespaces
from nconnect.errors import HostError
from nconnect.host.plan import HostPlan, plan
from nconnect.io.system import nftables, sysctl
from nconnect.io.system.host import Host
from nconnect.ip.checksum import checksum
from nconnect.model import (
    AllowRule,
    Config,
    Exposed,
    NknAddress,
    PeerConfig,
    ProvideConfig,
    ProvidedSubnet,
    Service,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SERVER, SERVER6, OWN_LAN = "192.168.50.10", "fd50::10", "192.168.50.1"
ALICE, BOB, CARL = "10.86.0.2", "10.86.0.3", "10.86.0.4"


def open_tun() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"nc0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    return fd


class Tunnel:
    """Carries packets between two TUN devices until closed."""

    def __init__(self, user: Namespace, provider: Namespace) -> None:
        self._fds = (user.enter(open_tun), provider.enter(open_tun))
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        one, other = self._fds
        while True:
            readable, _, _ = select.select([one, other, self._stop], [], [])
            if self._stop in readable:
                return
            for fd in readable:
                # A device that is down refuses writes: the packet is lost.
                with contextlib.suppress(OSError):
                    while True:
                        packet = os.read(fd, 65536)
                        with contextlib.suppress(OSError):
                            os.write(other if fd == one else one, packet)

    def close(self) -> None:
        os.write(self._stopped, b"x")
        self._thread.join()
        for fd in (*self._fds, self._stop, self._stopped):
            os.close(fd)


class Net:
    """The topology above, with servers on all machines."""

    def __init__(self, state: Path) -> None:
        self._cleanup = contextlib.ExitStack()
        try:
            self._build(state)
        except BaseException:
            self._cleanup.close()
            raise

    def _build(self, state: Path) -> None:
        self.user, self.provider, self.lan = namespaces(self._cleanup, "nch", "user", "provider", "lan")
        cable(
            *(self.provider, "eth0", ["192.168.50.1/24", "192.168.1.1/24", "192.168.60.1/24", "fd50::1/64"]),
            *(self.lan, "eth0", ["192.168.50.10/24", "192.168.1.10/24", "192.168.60.10/24", "fd50::10/64"]),
        )
        self.lan.ip("route add default via 192.168.50.1")
        self.lan.ip("route add fd86::/64 via fd50::1")
        tunnel = Tunnel(self.user, self.provider)
        self._cleanup.callback(tunnel.close)
        self.state = state / "provider" / "nc0"
        self.user_host = Host("nc0", state / "user" / "nc0")
        self.provider_host = Host("nc0", self.state)
        for port in (8000, 8001):
            self._serve(self.lan, port)
        for port in (22, 8000, 8002):
            self._serve(self.provider, port)
        self._serve(self.provider, 11434, host="127.0.0.1")
        self._serve(self.user, 22)

    def _serve(self, where: Namespace, port: int, host: str = "") -> None:
        """TCP and UDP: answer each message with the address that the server sees it come from."""

        def listen() -> tuple[socket.socket, socket.socket]:
            family = socket.AF_INET if host else socket.AF_INET6
            tcp = socket.create_server((host or "::", port), family=family, dualstack_ipv6=not host)
            udp = socket.socket(family, socket.SOCK_DGRAM)
            if not host:
                udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.bind((host or "::", port))
            return tcp, udp

        tcp, udp = where.enter(listen)
        stop, stopped = os.pipe()

        def serve() -> None:
            open_ones: dict[int, socket.socket] = {}
            sources: list[int | socket.socket]
            while True:
                sources = [stop, tcp, udp, *open_ones.values()]
                readable, _, _ = select.select(sources, [], [])
                if stop in readable:
                    break
                for ready in readable:
                    with contextlib.suppress(OSError):
                        if ready is tcp:
                            connection, _ = tcp.accept()
                            open_ones[connection.fileno()] = connection
                        elif ready is udp:
                            _, peer = udp.recvfrom(2000)
                            udp.sendto(peer[0].removeprefix("::ffff:").encode(), peer)
                        elif isinstance(ready, socket.socket):
                            number = ready.fileno()
                            try:
                                data = ready.recv(2000)
                            except OSError:
                                data = b""
                            if not data:
                                open_ones.pop(number).close()
                                continue
                            mss = ready.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
                            seen = ready.getpeername()[0].removeprefix("::ffff:")
                            ready.sendall(f"{seen} {mss}".encode())
            for connection in open_ones.values():
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()

        def end() -> None:
            os.write(stopped, b"x")
            thread.join()
            tcp.close()
            udp.close()
            os.close(stop)
            os.close(stopped)

        self._cleanup.callback(end)

    def up(self, provider: Config, user: Config) -> HostPlan:
        self.apply_user(user)
        return self.apply(provider)

    def apply(self, config: Config) -> HostPlan:
        def there() -> HostPlan:
            made = plan(config, self.provider_host.read_facts())
            self.provider_host.apply(made)
            return made

        return self.provider.enter(there)

    def apply_user(self, config: Config) -> None:
        def there() -> None:
            self.user_host.apply(plan(config, self.user_host.read_facts()))

        self.user.enter(there)

    def down(self) -> None:
        self.provider.enter(self.provider_host.remove)
        self.user.enter(self.user_host.remove)

    def close(self) -> None:
        self._cleanup.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    net = Net(tmp_path_factory.mktemp("state"))
    try:
        yield net
    finally:
        net.close()


@pytest.fixture
def net(built: Net) -> Iterator[Net]:
    try:
        yield built
    finally:
        built.down()


def connect(where: Namespace, host: str, port: int, source: str | None = None) -> socket.socket:
    def there() -> socket.socket:
        return socket.create_connection((host, port), 3, (source, 0) if source else None)

    return where.enter(there)


def tcp(net: Net, host: str, port: int, source: str | None = None) -> str:
    """The answer of the server: the address and the MSS that it sees. Raises `OSError`."""
    with connect(net.user, host, port, source) as connection:
        connection.sendall(b"?")
        return connection.recv(2000).decode()


def udp(net: Net, host: str, port: int, source: str | None = None) -> str:
    def there() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if source:
            made.bind((source, 0))
        made.settimeout(3)
        made.connect((host, port))
        return made

    with net.user.enter(there) as made:
        made.send(b"?")
        return made.recv(2000).decode()


def pings(where: Namespace, host: str, source: str | None = None) -> bool:
    bound = f"-I {source}" if source else ""
    line = f"ping -n -c 1 -W 1 {bound} {host} >/dev/null && echo yes || echo no"
    return where.sh(line).strip() == "yes"


def refused_at_once(net: Net, host: str, port: int, source: str | None = None) -> None:
    """TCP gets a reset and UDP an ICMP error. (A silent drop would be a TimeoutError.)"""
    with pytest.raises(ConnectionRefusedError):
        tcp(net, host, port, source)
    with pytest.raises(OSError, match=r"No route to host|Permission denied"):
        udp(net, host, port, source)


def peer(name: str, key: int, *prefixes: str, allow: tuple[AllowRule, ...] | None = None) -> PeerConfig:
    return PeerConfig(name, NknAddress(name, bytes([key]) * 32), tuple(map(ip_network, prefixes)), allow)


def same(prefix: str) -> ProvidedSubnet:
    return ProvidedSubnet(ip_network(prefix), ip_network(prefix))


def rule(prefix: str, port: int | None = None, protocol: str | None = None) -> AllowRule:
    return AllowRule(ip_network(prefix), None if port is None else (port, port), protocol)


PROVIDER = Config(
    interface="nc0",
    seed=bytes(32),
    identifier="provider",
    address=(ip_interface("10.86.0.1/24"), ip_interface("fd86::1/64")),
    provide=ProvideConfig(
        subnets=(same("192.168.50.0/24"), same("fd50::/64")), services=(Service((8000, 8000), "tcp"),)
    ),
    peers=(
        peer("alice", 1, "10.86.0.2/32", "fd86::2/128"),
        peer("bob", 2, "10.86.0.3/32", allow=(rule(f"{SERVER}/32", 8000, "tcp"),)),
        peer("carl", 3, "10.86.0.4/32", allow=()),
    ),
)
USER = Config(
    interface="nc0",
    seed=bytes(32),
    identifier="user",
    address=tuple(
        map(ip_interface, ("10.86.0.2/24", "10.86.0.3/24", "10.86.0.4/24", "10.86.0.77/24", "fd86::2/64"))
    ),
    peers=(
        peer(
            "provider", 9, "10.86.0.1/32", "fd86::1/128", "192.168.50.0/24", "fd50::/64", "192.168.60.0/24",
            "10.99.1.0/24",
        ),
    ),
)  # fmt: skip


def allowing(name: str, allow: tuple[AllowRule, ...] | None, config: Config = PROVIDER) -> Config:
    return replace(
        config, peers=tuple(replace(p, allow=allow) if p.name == name else p for p in config.peers)
    )


def test_a_peer_reaches_what_is_provided_and_is_masqueraded(net: Net) -> None:
    net.up(PROVIDER, USER)
    assert tcp(net, SERVER, 8000, ALICE).split()[0] == OWN_LAN
    assert udp(net, SERVER, 8000, ALICE) == OWN_LAN
    assert tcp(net, SERVER6, 8001).split()[0] == "fd50::1"
    assert udp(net, SERVER6, 8000) == "fd50::1"
    assert pings(net.user, SERVER, ALICE)
    assert pings(net.user, SERVER6)


def test_without_masquerade_the_server_sees_the_peer(net: Net) -> None:
    net.up(replace(PROVIDER, provide=replace(PROVIDER.provide, masquerade=False)), USER)
    assert tcp(net, SERVER, 8000, ALICE).split()[0] == ALICE
    assert tcp(net, SERVER6, 8000).split()[0] == "fd86::2"


def test_a_network_that_is_not_provided_is_refused_at_once(net: Net) -> None:
    net.up(PROVIDER, USER)
    refused_at_once(net, "192.168.60.10", 8000, ALICE)
    assert not pings(net.user, "192.168.60.10", ALICE)
    assert net.provider.enter(net.provider_host.refused_counts)["alice"]["refused"] >= 2


@pytest.mark.parametrize("own", ["10.86.0.1", OWN_LAN])
def test_of_the_provider_itself_only_services_and_ping_are_reached(net: Net, own: str) -> None:
    net.up(PROVIDER, USER)
    assert tcp(net, own, 8000, ALICE).split()[0] == ALICE
    assert pings(net.user, own, ALICE)
    refused_at_once(net, own, 22, ALICE)
    with pytest.raises(OSError, match="No route to host"):
        udp(net, own, 8000, ALICE)  # the service is TCP


def test_of_the_providers_ipv6_addresses_only_services_and_ping_are_reached(net: Net) -> None:
    net.up(PROVIDER, USER)
    for own in ("fd86::1", "fd50::1"):
        assert pings(net.user, own)
        assert tcp(net, own, 8000)
        refused_at_once(net, own, 22)


def test_allow_lets_pass_exactly_what_it_names(net: Net) -> None:
    net.up(PROVIDER, USER)
    assert tcp(net, SERVER, 8000, BOB)
    refused_at_once(net, SERVER, 8001, BOB)
    with pytest.raises(OSError, match="No route to host"):
        udp(net, SERVER, 8000, BOB)
    refused_at_once(net, OWN_LAN, 8000, BOB)  # a service, but not in the list of this peer
    assert not pings(net.user, SERVER, BOB)
    assert pings(net.user, "10.86.0.1", BOB)
    counts = net.provider.enter(net.provider_host.refused_counts)
    assert counts["bob"]["refused"] >= 5
    assert counts["alice"] == {"refused": 0, "flow_limit": 0, "opened": 0}


def test_an_empty_allow_lets_nothing_pass(net: Net) -> None:
    net.up(PROVIDER, USER)
    for host in (SERVER, "10.86.0.1", OWN_LAN):
        refused_at_once(net, host, 8000, CARL)


def test_allow_may_name_the_providers_own_address_but_a_wide_prefix_does_not(net: Net) -> None:
    net.up(allowing("bob", (rule("10.86.0.1/32", 22, "tcp"), rule("192.168.50.0/24"))), USER)
    assert tcp(net, "10.86.0.1", 22, BOB)
    refused_at_once(net, OWN_LAN, 22, BOB)
    assert tcp(net, OWN_LAN, 8000, BOB)
    assert tcp(net, SERVER, 8001, BOB)


def test_a_source_that_is_no_peers_is_dropped(net: Net) -> None:
    net.up(PROVIDER, USER)
    assert not pings(net.user, "10.86.0.1", "10.86.0.77")
    assert not pings(net.user, SERVER, "10.86.0.77")


def test_one_peer_does_not_reach_another(net: Net) -> None:
    wide = (peer("provider", 9, "10.86.0.0/24"),)
    net.up(PROVIDER, replace(USER, address=(ip_interface("10.86.0.2/32"),), peers=wide))
    # Not tried with UDP: an ICMP redirect of the kernel uses up the rate limit of the ICMP error.
    with pytest.raises(ConnectionRefusedError):
        tcp(net, BOB, 22, ALICE)
    assert not pings(net.user, BOB, ALICE)


def test_the_user_accepts_nothing_new(net: Net) -> None:
    net.up(PROVIDER, USER)
    with pytest.raises(ConnectionRefusedError):
        connect(net.provider, ALICE, 22)
    assert not pings(net.provider, ALICE)
    with pytest.raises(ConnectionRefusedError):
        connect(net.lan, ALICE, 22)  # the provider refuses it already


def test_inbound_opens_the_user_to_the_provider(net: Net) -> None:
    net.up(PROVIDER, replace(USER, inbound=True))
    connect(net.provider, ALICE, 22).close()
    assert pings(net.provider, ALICE)


def test_a_revoked_flow_ends_at_once_and_others_live(net: Net) -> None:
    net.up(PROVIDER, USER)
    with connect(net.user, SERVER, 8000, BOB) as bob, connect(net.user, SERVER, 8000, ALICE) as alice:
        for connection in (alice, bob):
            connection.sendall(b"?")
            assert connection.recv(2000)
        now = allowing("bob", (rule(f"{SERVER}/32", 8001, "tcp"),))
        net.apply(now)
        assert net.provider.enter(net.provider_host.end_refused, now)
        listed = net.provider.sh("conntrack -L -f ipv4 -p tcp 2>/dev/null")
        to_server = [line for line in listed.splitlines() if "ESTABLISHED" in line and "dport=8000" in line]
        assert any(f"src={ALICE}" in line for line in to_server)
        assert not any(f"src={BOB}" in line for line in to_server)
        bob.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            bob.recv(2000)
        alice.sendall(b"?")
        assert alice.recv(2000)
    assert tcp(net, SERVER, 8001, BOB)


def test_a_revoked_flow_to_a_service_is_not_revived_by_what_the_server_sends(net: Net) -> None:
    named = (rule("10.86.0.1/32", 8002, "tcp"),)
    net.up(allowing("bob", named), USER)
    with connect(net.user, "10.86.0.1", 8002, BOB) as bob:
        bob.sendall(b"?")
        assert bob.recv(2000)
        net.apply(allowing("bob", ()))
        assert net.provider.enter(net.provider_host.flush_conntrack, PROVIDER.peers[1].allowed_ips)
        bob.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            bob.recv(2000)


@pytest.mark.parametrize("mtu", [None, 1400])
def test_segments_fit_the_path(net: Net, mtu: int | None) -> None:
    net.up(replace(PROVIDER, provide=replace(PROVIDER.provide, mtu=mtu)), USER)
    path = 1500 if mtu is None else mtu
    for host, headers in ((SERVER, 40), (SERVER6, 60)):
        seen = int(tcp(net, host, 8000).split()[1])
        assert path - headers - 12 <= seen <= path - headers  # less 12 for timestamps


def test_a_mapped_subnet_is_reached_under_its_other_prefix(net: Net) -> None:
    mapped = ProvidedSubnet(ip_network("192.168.1.0/24"), ip_network("10.99.1.0/24"))
    config = replace(PROVIDER, provide=replace(PROVIDER.provide, subnets=(mapped,)))
    net.up(allowing("bob", (rule("10.99.1.10/32", 8000, "tcp"),), config), USER)
    assert tcp(net, "10.99.1.10", 8000, ALICE).split()[0] in (OWN_LAN, "192.168.1.1", "192.168.60.1")
    assert udp(net, "10.99.1.10", 8001, ALICE)
    assert pings(net.user, "10.99.1.10", ALICE)
    assert pings(net.user, "10.99.1.1", ALICE)  # the provider's own, mapped too
    assert tcp(net, "10.99.1.10", 8000, BOB)
    # TCP only: an ICMP error quotes the packet with the real address, which the user's kernel does not know.
    for host, port, source in (("10.99.1.1", 22, ALICE), ("10.99.1.10", 8001, BOB)):
        with pytest.raises(ConnectionRefusedError):
            tcp(net, host, port, source)
    refused_at_once(net, SERVER, 8000, ALICE)


def test_an_exposed_loopback_server_is_reached_through_the_tunnel_only(net: Net) -> None:
    provide = replace(PROVIDER.provide, expose=(Exposed("127.0.0.1", 11434),))
    net.up(replace(PROVIDER, provide=provide), USER)
    assert tcp(net, "10.86.0.1", 11434, ALICE)
    refused_at_once(net, OWN_LAN, 11434, ALICE)
    with pytest.raises(ConnectionRefusedError):
        tcp(net, "10.86.0.1", 11434, BOB)
    with pytest.raises(ConnectionRefusedError):
        connect(net.lan, OWN_LAN, 11434)
    net.apply(replace(allowing("bob", (rule("10.86.0.1/32", 11434, "tcp"),)), provide=provide))
    assert tcp(net, "10.86.0.1", 11434, BOB)


def test_a_packet_for_loopback_itself_goes_nowhere(net: Net) -> None:
    """`expose` lets the kernel accept loopback addresses from the tunnel, so the rules must drop them."""
    provide = replace(PROVIDER.provide, expose=(Exposed("127.0.0.1", 11434),))
    net.up(replace(PROVIDER, provide=provide), USER)

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 11435))
        made.settimeout(1)
        return made

    with net.provider.enter(listen) as listening:
        send_raw(net.user, ALICE, "127.0.0.1", 11435)
        with pytest.raises(TimeoutError):
            listening.recv(100)
        net.provider.sh("nft delete table inet nconnect_nc0")
        send_raw(net.user, ALICE, "127.0.0.1", 11435)
        assert listening.recv(100) == b"?", "without the rules the same packet arrives"


def send_raw(where: Namespace, source: str, destination: str, port: int) -> None:
    """Put a datagram on the tunnel's interface, whatever the routes say."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    udp = struct.pack(">HHHH", 40000, port, 9, 0) + b"?"
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    head = head[:10] + struct.pack(">H", checksum(head + ends))

    def there() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
            raw.sendto(head + ends + udp, ("nc0", 0x0800))

    where.enter(there)


def machine(where: Namespace) -> dict[str, Any]:
    """All settings of a machine that a host state could change."""
    rules = json.loads(where.sh("nft -j list ruleset"))["nftables"][1:]
    return {
        "addresses": where.sh("ip -o addr show | sed 's/^[0-9]*: //'"),
        "routes": where.sh("ip route show table all; ip -6 route show table all | grep -v 'table local'"),
        "rules": where.sh("ip rule; ip -6 rule"),
        "nft": rules,
        "sysctls": where.sh(
            "sysctl -a 2>/dev/null | grep -v nc0"
            " | grep -E 'forwarding|ip_forward|accept_ra |rp_filter|localnet'"
        ),
    }


def test_nothing_is_left_and_nothing_foreign_is_touched(net: Net) -> None:
    net.provider.sh(
        "nft add table inet mine; nft add chain inet mine c '{ type filter hook forward priority 10; }';"
        "nft add rule inet mine c counter; nft add table inet nconnect_other; nft add table ip nconnect_nc0;"
        "ip route add 198.51.100.0/24 dev eth0 proto 110; ip addr add 198.51.100.7/32 dev lo;"
        "ip addr add 198.51.100.8/32 dev nc0"
    )
    try:
        before = machine(net.provider)
        net.up(PROVIDER, USER)
        assert machine(net.provider) != before
        assert sysctl_of(net, "net/ipv4/ip_forward") == "1"
        net.apply(PROVIDER)
        net.down()
        assert "198.51.100.8/32" in net.provider.sh("ip addr show nc0")
        after = machine(net.provider)
        assert strip(after) == strip(before)
        net.down()  # again is harmless
        assert strip(machine(net.provider)) == strip(before)
    finally:
        net.provider.sh(
            "nft delete table inet mine; nft delete table inet nconnect_other;"
            "nft delete table ip nconnect_nc0;"
            "ip route del 198.51.100.0/24; ip addr del 198.51.100.7/32 dev lo;"
            "ip addr del 198.51.100.8/32 dev nc0"
        )


def strip(state: dict[str, Any]) -> dict[str, Any]:
    """Without the addresses of the TUN device, which stays in these tests."""
    return state | {"addresses": "\n".join(x for x in state["addresses"].splitlines() if "nc0" not in x)}


def sysctl_of(net: Net, name: str) -> str | None:
    return net.provider.enter(sysctl.read, name)


def test_what_a_killed_daemon_left_is_taken_back_by_name_alone(net: Net) -> None:
    before = machine(net.provider)
    net.up(PROVIDER, USER)
    fresh = Host("nc0", net.state)  # as another process would, by name and folder
    net.provider.enter(fresh.remove)
    assert strip(machine(net.provider)) == strip(before)


def test_a_second_daemon_after_a_killed_one_still_restores_the_first_value(net: Net) -> None:
    net.up(PROVIDER, USER)
    fresh = Host("nc0", net.state)

    def again() -> None:
        fresh.apply(plan(PROVIDER, fresh.read_facts()))

    net.provider.enter(again)
    assert tcp(net, SERVER, 8000, ALICE)
    net.provider.enter(fresh.remove)
    assert sysctl_of(net, "net/ipv4/ip_forward") == "0"
    assert sysctl_of(net, "net/ipv6/conf/all/forwarding") == "0"
    assert sysctl_of(net, "net/ipv6/conf/eth0/accept_ra") == "1"


def test_a_setting_that_was_on_before_stays_on(net: Net) -> None:
    net.provider.sh("sysctl -q net.ipv4.ip_forward=1")
    try:
        net.up(PROVIDER, USER)
        net.down()
        assert sysctl_of(net, "net/ipv4/ip_forward") == "1"
    finally:
        net.provider.sh("sysctl -q net.ipv4.ip_forward=0")


def test_forwarding_stays_while_another_nconnect_runs_which_then_restores_it(net: Net) -> None:
    other = Host("nc1", net.state.parent / "nc1")
    net.provider.sh("ip tuntap add nc1 mode tun")
    config = replace(PROVIDER, interface="nc1", address=(ip_interface("10.87.0.1/24"),))

    def there() -> None:
        other.apply(plan(config, other.read_facts()))

    try:
        net.up(PROVIDER, USER)
        net.provider.enter(there)
        assert net.provider.enter(net.provider_host.read_facts).other_tunnels == ("nc1",)
        net.provider.enter(net.provider_host.remove)
        assert sysctl_of(net, "net/ipv4/ip_forward") == "1"
        assert net.provider.enter(nftables.tables).keys() == {"nconnect_nc1"}
        # In this test the device nc0 is still there; a daemon's would be gone.
        net.provider.sh("ip link set nc0 name gone0")
        net.provider.enter(other.remove)
        assert sysctl_of(net, "net/ipv4/ip_forward") == "0"
        assert sysctl_of(net, "net/ipv6/conf/all/forwarding") == "0"
    finally:
        net.provider.sh("ip link set gone0 name nc0 2>/dev/null || true; ip tuntap del nc1 mode tun")


def test_applying_again_changes_nothing_and_repairs_what_is_gone(net: Net) -> None:
    made = net.up(PROVIDER, replace(USER))
    before = machine(net.provider)
    net.apply(PROVIDER)
    assert machine(net.provider) == before
    assert net.provider.enter(net.provider_host.missing, made) == []
    for damage in (
        "nft delete table inet nconnect_nc0",
        "nft flush chain inet nconnect_nc0 judge_across",
        "ip addr del 10.86.0.1/24 dev nc0",
        "ip link set nc0 down",
        "sysctl -q net.ipv4.ip_forward=0",
    ):
        net.provider.sh(damage)
        assert net.provider.enter(net.provider_host.missing, made), damage
        net.apply(PROVIDER)
        assert net.provider.enter(net.provider_host.missing, made) == [], damage
        assert tcp(net, SERVER, 8000, ALICE)


def test_a_failure_leaves_nothing_half_done(net: Net) -> None:
    before = machine(net.provider)
    with pytest.raises(HostError, match="MTU 70000") as refused:
        net.apply(replace(PROVIDER, mtu=70000))
    assert "\n" not in str(refused.value)
    assert strip(machine(net.provider)) == strip(before)
    net.up(PROVIDER, USER)
    good = machine(net.provider)
    with pytest.raises(HostError, match="MTU 70000"):
        net.apply(replace(PROVIDER, mtu=70000, peers=PROVIDER.peers[:1]))
    assert drop_handles(machine(net.provider)) == drop_handles(good)
    assert tcp(net, SERVER, 8000, BOB)


def drop_handles(state: dict[str, Any]) -> dict[str, Any]:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in ("handle", "packets", "bytes")}
        return [without(v) for v in value] if isinstance(value, list) else value

    rules = sorted(json.dumps(without(entry), sort_keys=True) for entry in state["nft"])
    return state | {"nft": rules}


def test_adding_a_peer_does_not_reload_the_table(net: Net) -> None:
    net.up(replace(PROVIDER, peers=PROVIDER.peers[:1]), USER)
    table = net.provider.enter(nftables.tables)
    with pytest.raises(OSError, match="timed out"):
        tcp(net, SERVER, 8000, BOB)  # not a peer yet: dropped
    net.apply(PROVIDER)
    assert net.provider.enter(nftables.tables) == table
    assert tcp(net, SERVER, 8000, BOB)
    net.apply(replace(PROVIDER, peers=PROVIDER.peers[:1]))
    listed = net.provider.sh("nft list table inet nconnect_nc0")
    assert "across_" not in listed
    assert BOB not in listed


def test_a_route_into_the_machines_own_network_is_skipped(net: Net) -> None:
    greedy = replace(PROVIDER, peers=(peer("eve", 5, "10.86.0.9/32", "192.168.60.0/24", "172.30.0.0/16"),))
    made = net.apply(greedy)
    (skipped,) = made.skipped_routes
    assert str(skipped.route) == "192.168.60.0/24"
    assert skipped.why.startswith("it equals the network of eth0; ")
    assert '["192.168.60.0/24=10.99.60.0/24"]' in skipped.why
    assert "172.30.0.0/16 dev nc0" in net.provider.sh("ip route")
    assert "192.168.60.0/24 dev nc0" not in net.provider.sh("ip route")


def test_a_missing_nft_is_one_clear_line(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError, match="apt install nftables"):
        net.apply(PROVIDER)
    monkeypatch.undo()
    assert sysctl_of(net, "net/ipv4/ip_forward") == "0"


def test_a_missing_interface_is_one_clear_line(net: Net, tmp_path: Path) -> None:
    host = Host("absent0", tmp_path / "absent0")
    config = replace(PROVIDER, interface="absent0")
    with pytest.raises(HostError, match="there is no interface absent0"):
        net.provider.enter(lambda: host.apply(plan(config, host.read_facts())))
    net.provider.enter(host.remove)
    assert not (tmp_path / "absent0" / "host.json").exists()
