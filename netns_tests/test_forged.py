"""Packets that a provider, a neighbour on the uplink or another peer has forged do no harm.

user ── wan0 ── internet (node) ── provider ── server
                neighbour, and evil, a second peer of the provider's

The provider gives the user a prefix that the user skips, because it holds the gateway 198.51.100.1 of wan0.
The attackers run real daemons and put their own packets on the interfaces. Reverse path filters are off, as
many distributions have them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from scapy.all import ICMP, IP, TCP, UDP, ICMPv6DestUnreach, IPv6, Raw
from scapy.packet import Packet

from lab.netns import Namespace
from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, reaches, serve, udp_echo
from lab.world import (
    LAN,
    LAN6,
    NODE_HOST,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    PROVIDER_TUNNEL6,
    SEED_RPC,
    SERVER,
    SERVER6,
    USER_PEER,
    USER_TUNNEL,
    USER_TUNNEL6,
    WAN_INTERFACE,
    World,
    world,
)
from netns_tests.forging import inject, mac_of
from netns_tests.topology import provided

GATEWAY, OWN = "198.51.100.1", "198.51.100.2"
GATEWAY6, OWN6 = "fd98::1", "fd98::2"
EVIL = "10.86.0.3"
FORGED = b"forged"
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


@dataclass
class Stage:
    world: World
    evil: Side


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with world("ncforge") as made:
        made.user.ip(f"address add {OWN6}/64 dev {WAN_INTERFACE} nodad")
        made.internet.ip(f"address add {GATEWAY6}/64 dev user nodad")
        for name in ("all", "default", WAN_INTERFACE):
            made.user.sysctl(f"net.ipv4.conf.{name}.rp_filter", "0")
        evil = Side("evil", made.internet, made.folder / "evil", interface="nc1")
        with provided(made):
            # A provider may name any prefix; the user's machine routes only what is safe.
            made.user_side.nconnect(
                *("peer", "set", PROVIDER_PEER, "--allowed-ips"),
                f"{PROVIDER_TUNNEL}/32,{PROVIDER_TUNNEL6}/128,{LAN},{LAN6},{EVIL}/32,"
                f"{GATEWAY}/32,198.51.100.0/24,fd98::/64",
            )
            made.provider_side.nconnect(
                *("peer", "set", USER_PEER, "--allowed-ips"),
                f"{USER_TUNNEL}/32,{USER_TUNNEL6}/128,{OWN}/32,{OWN6}/128",
            )
            evil.nconnect("init", "--identifier", "evil", "--address", f"{EVIL}/32", "--seed-rpc", SEED_RPC)
            evil.nconnect(
                *("peer", "add", PROVIDER_PEER, made.provider_side.address()),
                *("--allowed-ips", f"{LAN},{USER_TUNNEL}/32"),
            )
            made.provider_side.nconnect(
                "peer", "add", "evil", evil.address(), "--allowed-ips", f"{EVIL}/32", "--allow", "none"
            )
            evil.start()
            evil.wait(PROVIDER_PEER)
            serve(made.internet, made, SERVICE)
            until(lambda: reaches(made.user, GATEWAY, SERVICE), "the server of the user's own network")
            yield Stage(made, evil)
            evil.stop()


@contextmanager
def flow(user: Namespace, host: str, port: int = SERVICE, source: str = "") -> Iterator[socket.socket]:
    """A UDP flow that was answered once, so that conntrack lets further answers pass."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with user.socket(family, socket.SOCK_DGRAM) as client:
        if source:
            client.bind((source, 0))
        client.settimeout(5)
        client.connect((host, port))
        client.send(b"asked")
        assert client.recv(100) == b"asked"
        yield client


def unharmed(stage: Stage, client: socket.socket) -> None:
    """No datagram and no error has arrived on the flow, and it goes on. Raises what the kernel reports.

    Packets of one peer arrive in order: a forged one that was sent before is there when this one is answered.
    """
    assert udp_echo(stage.world.user, SERVER, SERVICE, b"later") == b"later"
    client.send(b"again")
    assert client.recv(100) == b"again"


def ip(source: str, destination: str) -> Packet:
    return (IPv6 if ":" in source else IP)(src=source, dst=destination)


def unreachable(source: str, destination: str, quoted: Packet) -> Packet:
    """A port-unreachable about `quoted`."""
    error = ICMPv6DestUnreach(code=4) if ":" in source else ICMP(type=3, code=3)
    return ip(source, destination) / error / quoted


def counted(side: Side, reason: str, act: Callable[[], None]) -> None:
    """Assert that `side` counts what `act` does under `reason`."""
    before = side.drops(reason)
    act()
    until(lambda: side.drops(reason) > before, f"{side.name} to count {reason}")


# A hostile provider


@VERSIONS
def test_packets_from_a_skipped_prefix_are_dropped(stage: Stage, version: int) -> None:
    """The provider forges an answer of the user's own gateway (C4)."""
    made = stage.world
    gateway, own = (GATEWAY, OWN) if version == 4 else (GATEWAY6, OWN6)
    with flow(made.user, gateway) as client:
        forged = ip(gateway, own) / UDP(sport=SERVICE, dport=client.getsockname()[1]) / Raw(FORGED)
        counted(made.user_side, "refused", partial(inject, made.provider, "nc0", forged))
        unharmed(stage, client)


def test_a_reset_from_the_tunnel_ends_no_connection_outside_of_it(stage: Stage) -> None:
    made = stage.world
    with made.user.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((GATEWAY, SERVICE))
        client.sendall(b"echo\n")
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        port = client.getsockname()[1]

        def reset() -> None:
            for number in range(
                0, 1 << 32, 1 << 28
            ):  # the kernel answers a wrong sequence number with a challenge ACK
                segment = TCP(sport=SERVICE, dport=port, flags="R", seq=number)
                inject(made.provider, "nc0", ip(GATEWAY, OWN) / segment)

        counted(made.user_side, "refused", reset)
        client.sendall(b"2")
        assert client.recv(1) == b"2"


@VERSIONS
def test_an_error_from_the_tunnel_ends_no_flow_to_a_skipped_prefix(stage: Stage, version: int) -> None:
    """The error quotes a packet to a prefix that the provider offered and the user skips."""
    made = stage.world
    gateway, own = (GATEWAY, OWN) if version == 4 else (GATEWAY6, OWN6)
    sender, to = (PROVIDER_TUNNEL, USER_TUNNEL) if version == 4 else (PROVIDER_TUNNEL6, USER_TUNNEL6)
    with flow(made.user, gateway) as client:
        quoted = ip(own, gateway) / UDP(sport=client.getsockname()[1], dport=SERVICE) / Raw(b"asked")
        inject(
            made.provider, "nc0", unreachable(sender, to, quoted)
        )  # conntrack calls it invalid: not counted
        forged = unreachable(sender, own, quoted)
        counted(made.user_side, "refused", partial(inject, made.provider, "nc0", forged))
        unharmed(stage, client)


def test_an_error_from_the_tunnel_ends_no_flow_outside_of_it(stage: Stage) -> None:
    """The quoted packet went to the node, 192.0.2.1, which is outside of all prefixes."""
    made = stage.world
    with (
        made.internet.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        made.user.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for end in (far, client):
            end.settimeout(5)
        far.bind((NODE_HOST, 0))
        client.connect(far.getsockname())
        client.send(b"asked")
        _, where = far.recvfrom(100)
        quoted = ip(OWN, NODE_HOST) / UDP(sport=where[1], dport=far.getsockname()[1]) / Raw(b"asked")
        forged = unreachable(PROVIDER_TUNNEL, OWN, quoted)
        counted(made.user_side, "foreign_error", partial(inject, made.provider, "nc0", forged))
        assert udp_echo(made.user, SERVER, SERVICE, b"later") == b"later"
        far.sendto(b"again", where)
        assert client.recv(100) == b"again"


def test_answers_are_accepted_for_the_tunnel_s_addresses_only(stage: Stage) -> None:
    """A program that is bound to another interface's address can send into the tunnel and gets no answer."""
    made = stage.world
    with made.user.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((OWN, 0))
        client.connect(("192.168.50.99", SERVICE))
        client.send(b"asked")
        forged = ip("192.168.50.99", OWN) / UDP(sport=SERVICE, dport=client.getsockname()[1]) / Raw(FORGED)
        counted(made.user_side, "refused", partial(inject, made.provider, "nc0", forged))
        assert udp_echo(made.user, SERVER, SERVICE, b"later") == b"later"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)


# A hostile neighbour on the user's uplink


@VERSIONS
def test_a_neighbour_does_not_speak_into_the_tunnel_s_flows(stage: Stage, version: int) -> None:
    made = stage.world
    server, own = (SERVER, USER_TUNNEL) if version == 4 else (SERVER6, USER_TUNNEL6)
    with flow(made.user, server) as client:
        forged = ip(server, own) / UDP(sport=SERVICE, dport=client.getsockname()[1]) / Raw(FORGED)
        inject(made.internet, "user", forged, mac=mac_of(made.user, WAN_INTERFACE))
        assert udp_echo(made.user, GATEWAY, SERVICE, b"later") == b"later", "the forged one is there by now"
        unharmed(stage, client)


# A hostile peer


@pytest.mark.parametrize("to", ["the peer", "the server"])
def test_a_peer_does_not_end_another_s_flow(stage: Stage, to: str) -> None:
    """By an error that quotes the other peer's packet, or the answer to it (C5)."""
    made = stage.world
    with flow(made.user, SERVER) as client:
        port = client.getsockname()[1]
        asked = ip(USER_TUNNEL, SERVER) / UDP(sport=port, dport=SERVICE) / Raw(b"asked")
        answered = ip(SERVER, USER_TUNNEL) / UDP(sport=SERVICE, dport=port) / Raw(b"asked")
        forged = (
            unreachable(EVIL, USER_TUNNEL, asked) if to == "the peer" else unreachable(EVIL, SERVER, answered)
        )
        counted(made.provider_side, "foreign_error", partial(inject, made.internet, "nc1", forged))
        unharmed(stage, client)


@VERSIONS
def test_an_honest_error_still_arrives(stage: Stage, version: int) -> None:
    """The control: the user's kernel refuses a datagram, and the program on the server gets the error."""
    made = stage.world
    server, host = (SERVER, SERVER) if version == 4 else (SERVER6, SERVER6)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with made.server.socket(family, socket.SOCK_DGRAM) as answering:
        answering.bind((host, 0))
        answering.settimeout(5)
        with made.user.socket(family, socket.SOCK_DGRAM) as client:
            client.connect((server, answering.getsockname()[1]))
            client.send(b"asked")
            _, where = answering.recvfrom(100)
        answering.connect(where)
        answering.send(b"to a port that is closed")
        with pytest.raises(ConnectionRefusedError):
            answering.recv(100)


@VERSIONS
def test_the_user_gets_the_server_s_refusal(stage: Stage, version: int) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with stage.world.user.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((SERVER if version == 4 else SERVER6, 9))
        client.send(b"nobody is there")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
