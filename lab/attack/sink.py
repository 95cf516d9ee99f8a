"""`python -m lab.attack.sink MARK [PORT…]`: prints what arrives on this machine and holds MARK.

Without ports it reads all frames of all interfaces: a line with the interface, "in" or "out", and
"udp PORT", "fragment" or the IP protocol's number. With ports only what UDP sockets get counts.
"""

from __future__ import annotations

import select
import socket
import sys

ETH_P_ALL = 3
PACKET_OUTGOING = 4


def main() -> None:
    mark = sys.argv[1].encode()
    ports = [int(port) for port in sys.argv[2:]]
    sockets = {}
    for port in ports:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("0.0.0.0", port))
        sockets[opened.fileno()] = (opened, port)
    if not ports:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        sockets[opened.fileno()] = (opened, 0)
    poll = select.poll()
    for fd in sockets:
        poll.register(fd, select.POLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            opened, port = sockets[fd]
            data, source = opened.recvfrom(65535)
            if mark in data:
                way = "out" if not port and source[2] == PACKET_OUTGOING else "in"
                words = f"udp {port}" if port else f"{source[0]} {way} {_kind(data)}"
                print(f"{words} {data[data.index(mark) :][:60].decode(errors='replace')}", flush=True)


def _kind(packet: bytes) -> str:
    if packet[0] >> 4 != 4:
        return "ipv6" if packet[0] >> 4 == 6 else "frame"
    at = (packet[0] & 15) * 4
    first = not int.from_bytes(packet[6:8]) & 0x1FFF
    if packet[9] == socket.IPPROTO_UDP:
        if not first:
            return "fragment"
        return f"udp {int.from_bytes(packet[at + 2 : at + 4])}"
    return f"ip {packet[9]}"


if __name__ == "__main__":
    main()
