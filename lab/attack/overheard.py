"""The packets on a cable: what somebody on the way may see, and what arrives at a victim."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.netns import Namespace
from lab.tap import Sniffer

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
MAX_PACKETS = 100_000


@dataclass(frozen=True, slots=True)
class Seen:
    """An IPv4 packet. Ports are 0 where there are none; `size` has the IP header in it."""

    protocol: int
    source: str
    source_port: int
    to: str
    port: int
    size: int
    payload: bytes

    @classmethod
    def parse(cls, packet: bytes) -> Seen | None:
        """None for what is no whole IPv4 packet."""
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return None
        at, size = (packet[0] & 15) * 4, int.from_bytes(packet[2:4])
        packet, protocol = packet[:size], packet[9]
        source_port = port = 0
        least = {TCP: 20, UDP: 8}.get(protocol)
        if least and not int.from_bytes(packet[6:8]) & 0x1FFF and len(packet) >= at + least:
            source_port, port = struct.unpack_from(">HH", packet, at)
            at += 8 if protocol == UDP else (packet[at + 12] >> 4) * 4
        source, to = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        return cls(protocol, source, source_port, to, port, size, packet[at:])


class Overheard(Sniffer):
    """Keeps the packets that are `wanted`, both ways, while a `with` block runs."""

    def __init__(self, namespace: Namespace, interface: str, wanted: Callable[[Seen], bool]) -> None:
        super().__init__(namespace, interface, kind=socket.SOCK_DGRAM)
        self.packets: list[Seen] = []
        self._wanted = wanted

    def seen(self, packet: bytes, address: Any) -> None:
        found = Seen.parse(packet)
        if found is not None and len(self.packets) < MAX_PACKETS and self._wanted(found):
            self.packets.append(found)
