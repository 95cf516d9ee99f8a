"""Packets that no honest kernel sends, put on an interface as they are."""

from __future__ import annotations

import socket

from scapy.packet import Packet

from lab.netns import Namespace

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD


def inject(namespace: Namespace, interface: str, packet: Packet, *, mac: str = "") -> None:
    """Send a packet from `interface`, past routes and firewall. `mac`: the next hop's, if it has one."""
    data = bytes(packet)
    kind = _ETH_P_IP if data[0] >> 4 == 4 else _ETH_P_IPV6
    with namespace.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        raw.sendto(data, (interface, kind, 0, 0, bytes.fromhex(mac.replace(":", ""))))


def mac_of(namespace: Namespace, interface: str) -> str:
    words = namespace.ip(f"link show dev {interface}").split()
    return words[words.index("link/ether") + 1]
