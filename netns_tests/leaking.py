"""Senders of every kind that may leak, and a listener that sees what leaks.

`Senders` send to the peers' prefixes as fast as a loop turns, from the user's machine and from a container
behind it. `Listener` counts what leaves the machine for them by anything but a TUN device or loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Any

from lab.netns import Namespace
from lab.tap import Sniffer

PREFIXES = tuple(map(ip_network, ("192.168.50.0/24", "10.86.0.1/32", "fd50::/64", "fd86::1/128")))
TARGETS = ("192.168.50.10", "192.168.50.200", "10.86.0.1", "fd50::10")
PORT = 7000
MARKED_PORT = 7007  # another program's rules mark what goes there
MARK = 7
PAUSE_S = 0.004  # between two rounds
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
PACKET_OUTGOING, ARPHRD_LOOPBACK, ARPHRD_NONE = 4, 772, 0xFFFE
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
ND_TYPES = (133, 135, 136)


class Listener(Sniffer):
    """Packets that leave by an interface which is neither the tunnel nor loopback, for `PREFIXES`."""

    def __init__(self, namespace: Namespace) -> None:
        self.leaks: Counter[str] = Counter()  # by a description: interface, protocol, destination
        self.packets = 0  # that left at all: the control that the listener hears
        super().__init__(namespace, kind=socket.SOCK_DGRAM)

    def seen(self, packet: bytes, address: Any) -> None:
        interface, protocol, direction, hardware, _ = address
        if direction != PACKET_OUTGOING or hardware in (ARPHRD_LOOPBACK, ARPHRD_NONE):
            return
        self.packets += 1
        if found := leaked(protocol, packet):
            self.leaks[f"{interface}: {found}"] += 1


def leaked(protocol: int, packet: bytes) -> str:
    """A description of a packet for the peers' prefixes; "" for others, and for what is excepted."""
    if protocol == ETH_P_IP and len(packet) >= 20:
        kind, destination = packet[9], ip_address(packet[16:20])
        payload = packet[(packet[0] & 0x0F) * 4 :]
    elif protocol == ETH_P_IPV6 and len(packet) >= 40:
        kind, destination, payload = packet[6], ip_address(packet[24:40]), packet[40:]
        if kind == 58 and payload[:1] and payload[0] in ND_TYPES and packet[7] == 255:
            return ""
    else:
        return ""
    if not any(p.version == destination.version and destination in p for p in PREFIXES):
        return ""
    ports = struct.unpack("!HH", payload[:4]) if kind in (6, 17) and len(payload) >= 4 else ()
    if ports == (68, 67):
        return ""
    return f"{PROTOCOLS.get(kind, kind)} to {destination} {ports}"


class Senders:
    """Every way for a local program, or a container, to send something to the peers' prefixes."""

    def __init__(self, user: Namespace, container: Namespace, devices: tuple[str, ...]) -> None:
        self.rounds = 0
        self.kinds: Counter[str] = Counter()  # what was tried, with or without success
        self._devices = itertools.cycle(devices)
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=where.enter, args=(self._loop(work),), daemon=True)
            for where, work in ((user, self._here), (container, self._behind))
        ]

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _loop(self, work: Callable[[str], None]) -> Callable[[], None]:
        def run() -> None:
            with contextlib.ExitStack() as made:
                # Flows that began while the tunnel was up, so that conntrack knows them.
                flows = {
                    target: made.enter_context(socket.socket(_family(target), socket.SOCK_DGRAM))
                    for target in TARGETS
                }
                for target in itertools.cycle(TARGETS):
                    if self._ending.wait(PAUSE_S):
                        return
                    with contextlib.suppress(OSError):
                        flows[target].sendto(b"of a running flow", (target, PORT))
                    work(target)
                    self.rounds += 1

        return run

    def _here(self, target: str) -> None:
        for way in (self._plain, self._marked, self._by_rule, self._bound, self._tcp, self._ping, self._raw):
            self.kinds[way.__name__] += 1
            with contextlib.suppress(OSError):
                way(target)

    def _behind(self, target: str) -> None:
        for way in (self._plain, self._tcp, self._ping):
            self.kinds[f"container{way.__name__}"] += 1
            with contextlib.suppress(OSError):
                way(target)

    def _plain(self, target: str) -> None:
        with socket.socket(_family(target), socket.SOCK_DGRAM) as sock:
            sock.sendto(b"plain", (target, PORT))

    def _marked(self, target: str) -> None:
        """Marked by the program itself, so that another routing table serves it."""
        with socket.socket(_family(target), socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            sock.sendto(b"marked", (target, PORT))

    def _by_rule(self, target: str) -> None:
        """Marked by another program's firewall, after the kernel chose a first route."""
        with socket.socket(_family(target), socket.SOCK_DGRAM) as sock:
            sock.sendto(b"marked by a rule", (target, MARKED_PORT))

    def _bound(self, target: str) -> None:
        with socket.socket(_family(target), socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, next(self._devices).encode())
            sock.sendto(b"bound", (target, PORT))

    def _tcp(self, target: str) -> None:
        with socket.socket(_family(target), socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.connect_ex((target, PORT))

    def _ping(self, target: str) -> None:
        six = ":" in target
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        with socket.socket(_family(target), socket.SOCK_RAW, protocol) as sock:
            echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 1, 1)
            sock.sendto(echo if six else _with_sum(echo), (target, 0))

    def _raw(self, target: str) -> None:
        if ":" in target:
            return
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            header = struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes(4), socket.inet_aton(target)
            )
            sock.sendto(header + struct.pack("!HHHH", PORT, PORT, 8, 0), (target, 0))


def _family(target: str) -> int:
    return socket.AF_INET6 if ":" in target else socket.AF_INET


def _with_sum(echo: bytes) -> bytes:
    total = sum(struct.unpack("!4H", echo))
    return echo[:2] + struct.pack("!H", 0xFFFF - (total & 0xFFFF) - (total >> 16)) + echo[4:]
