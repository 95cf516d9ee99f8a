"""Packets of every shape, from a peer into the provider's networks and from a provider into a user's device.

Each holds a mark. Programs on all machines look for it; one that is allowed goes last, so that all before it
have passed the tunnel when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lab.attack.attack import Attack, Result
from lab.attack.packets import MORE_FRAGMENTS, UDP, ipv4, source_route, udp
from lab.attack.stage import EVIL_TUNNEL, FLOOD_PORT, ROGUE_TUNNEL, Stage
from lab.process import until
from lab.world import PROVIDER_LAN, PROVIDER_TUNNEL, SERVER, USER_TUNNEL

MARK = "mark-of-the-attacker"
FORBIDDEN_PORT = 9001
GATEWAY = "203.0.113.1"  # the internet's machine, as the provider sees it
OUTSIDE = "8.8.8.8"
CONTAINER, CONTAINER_GATEWAY = "172.20.0.2", "172.20.0.1"
LOOSE, STRICT = 131, 137
# To the port that is allowed, the rest of such a datagram, and the server's own errors about it.
EXPECTED = (f" in udp {FLOOD_PORT} ", " in fragment ", " out ip 1 ")


def _from_peer(name: str, make: Callable[[str], Iterable[bytes]]) -> Callable[[Stage], Result]:
    """`make` gives the packets, for a text that each has to hold."""

    def run(stage: Stage) -> Result:
        made = stage.world
        sinks = {
            "the server": stage.sink(made.server, MARK),
            "the server's socket": stage.sink(made.server, MARK, FORBIDDEN_PORT),
            "the internet": stage.sink(made.internet, MARK),
            "the user": stage.sink(made.user, MARK, FORBIDDEN_PORT),
            "the provider": stage.sink(made.provider, MARK, FORBIDDEN_PORT),
        }
        text = f"{MARK} {name}"
        packets = [
            *make(text),
            ipv4(EVIL_TUNNEL, SERVER, UDP, udp(40000, FLOOD_PORT, f"{text} last".encode())),
        ]
        stage.programs["peer"].do("seal", *(packet.hex() for packet in packets))
        until(lambda: f"{text} last" in sinks["the server"].text(), "the packet that is allowed")
        arrived = {
            (where, line)
            for where, sink in sinks.items()
            for line in sink.text().splitlines()
            if text in line and not any(word in line for word in EXPECTED)
        }
        words = ", ".join(f"{where} got {line}" for where, line in sorted(arrived))
        return Result(words, f"none of {len(packets) - 1} arrived")

    return run


def _datagram(destination: str, text: str, port: int = FORBIDDEN_PORT, *, options: bytes = b"") -> bytes:
    return ipv4(EVIL_TUNNEL, destination, UDP, udp(40001, port, text.encode()), options=options)


def _not_allowed(text: str) -> Iterable[bytes]:
    for host in (SERVER, PROVIDER_TUNNEL, PROVIDER_LAN, USER_TUNNEL, GATEWAY, OUTSIDE, "203.0.113.2"):
        yield _datagram(host, text)


def _loopback(text: str) -> Iterable[bytes]:
    for host in ("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.0.0.1"):
        yield _datagram(host, text)


def _broadcast(text: str) -> Iterable[bytes]:
    for host in ("255.255.255.255", "10.86.0.255", "192.168.50.255", "224.0.0.1", "239.255.255.250"):
        yield _datagram(host, text)


def _source_routes(text: str) -> Iterable[bytes]:
    for kind in (LOOSE, STRICT):
        for first, then in ((PROVIDER_TUNNEL, SERVER), (SERVER, GATEWAY), (PROVIDER_TUNNEL, GATEWAY)):
            yield _datagram(first, text, options=source_route(kind, then))


def _fragments(text: str) -> Iterable[bytes]:
    """A first fragment to the port that is allowed; a second one that writes another port over it."""
    good, bad = (udp(40002, port, text.encode().ljust(64)) for port in (FLOOD_PORT, FORBIDDEN_PORT))
    for pieces in (
        ((good[:16], MORE_FRAGMENTS), (bad[:16], MORE_FRAGMENTS), (bad[16:], 2)),
        ((good[:8], MORE_FRAGMENTS), (bad, 0), (good[8:], 1)),
        ((bad[:8], MORE_FRAGMENTS), (bad[8:], 1)),
        ((bad, 1),),
    ):
        for body, fragment in pieces:
            yield ipv4(EVIL_TUNNEL, SERVER, UDP, body, fragment=fragment)


def _protocols(text: str) -> Iterable[bytes]:
    """ICMP echo, IPv4 in IPv4, GRE, ESP, SCTP, UDP-Lite and one that does not exist."""
    inner = ipv4(EVIL_TUNNEL, SERVER, UDP, udp(40003, FLOOD_PORT, text.encode()))
    for protocol in (1, 4, 47, 50, 132, 136, 253):
        body = bytes(8) + text.encode() if protocol != 4 else inner
        for host in (SERVER, GATEWAY, USER_TUNNEL):
            yield ipv4(EVIL_TUNNEL, host, protocol, body)


def _into_the_user(stage: Stage) -> Result:
    """A provider's packets to the user's own addresses, and through it to what is behind it."""
    user = stage.world.user
    forwarded = user.sysctl("net.ipv4.ip_forward")
    user.sysctl("net.ipv4.ip_forward", "1")
    user.ip("link add behind type veth peer name behind1")
    try:
        user.ip(f"address add {CONTAINER_GATEWAY}/24 dev behind")
        user.ip("link set behind up")
        user.ip("link set behind1 up")
        user.ip(f"neighbour add {CONTAINER} lladdr 02:00:00:00:00:02 dev behind")
        sockets, frames = stage.sink(user, MARK, FORBIDDEN_PORT), stage.sink(user, MARK)
        outside = stage.sink(stage.world.internet, MARK)
        before = stage.world.user_side.drops("refused")
        hosts = (USER_TUNNEL, "198.51.100.2", "127.0.0.1", CONTAINER, CONTAINER_GATEWAY, OUTSIDE)
        text = f"{MARK} inbound".encode()
        packets = [ipv4(ROGUE_TUNNEL, host, UDP, udp(53, FORBIDDEN_PORT, text)) for host in hosts]
        stage.programs["provider"].do("seal", *(packet.hex() for packet in packets))
        until(lambda: "nc0 in udp" in frames.text(), "one to come out of the tunnel")
        passed = [
            line for line in frames.text().splitlines() if "inbound" in line and not line.startswith("nc0")
        ]
        found = sockets.text().splitlines()[1:] + passed + outside.text().splitlines()[1:]
        refused = stage.world.user_side.drops("refused") - before
        return Result(", ".join(found), f"none of {len(packets)} arrived, {refused} refused")
    finally:
        user.ip("link del behind")
        user.sysctl("net.ipv4.ip_forward", forwarded)


def _peer(name: str, what: str, make: Callable[[str], Iterable[bytes]]) -> Attack:
    return Attack("peer", name, what, _from_peer(name, make))


ROWS: tuple[Attack, ...] = (
    _peer("other_destinations", "datagrams to all that it may not reach", _not_allowed),
    _peer("loopback_destination", "datagrams to the provider's loopback", _loopback),
    _peer("broadcast_destination", "broadcast and multicast destinations", _broadcast),
    _peer("source_routes", "loose and strict source routes", _source_routes),
    _peer("overlapping_fragments", "fragments that write another port over the first", _fragments),
    _peer("other_protocols", "ICMP, IP in IP, GRE, ESP, SCTP to all networks", _protocols),
    Attack("provider", "into_the_user", "datagrams to a user's device and behind it", _into_the_user),
)
