"""Packets and records for tests, made by scapy (which is the oracle for lengths and checksums)."""

from __future__ import annotations

import random
from collections.abc import Iterable

from scapy.all import IP, TCP, UDP, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, Raw
from scapy.packet import Packet

from nconnect.ip import offload

SYN, FIN, PSH, ACK, ECE, CWR = 0x02, 0x01, 0x08, 0x10, 0x40, 0x80


def ipv4(payload: Packet, **fields: object) -> bytes:
    return bytes(IP(**{"src": "10.86.0.2", "dst": "192.168.50.10", **fields}) / payload)


def ipv6(payload: Packet, **fields: object) -> bytes:
    return bytes(IPv6(**{"src": "fd86::2", "dst": "fd50::10", **fields}) / payload)


def view(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


def plain(packet: bytes) -> memoryview:
    """A record of a finished packet."""
    return view(offload.PLAIN + packet)


def partial(packet: bytes, *, gso_type: int = offload.GSO_NONE, gso_size: int = 0) -> memoryview:
    """A record as the kernel makes it: the checksum field holds the pseudo-header's sum."""
    data = bytearray(packet)
    parsed = (IP if data[0] >> 4 == 4 else IPv6)(packet)
    is_tcp = TCP in parsed
    start = len(packet) - len(bytes(parsed[TCP if is_tcp else UDP]))
    at = start + (16 if is_tcp else 6)
    addresses = data[12:20] if data[0] >> 4 == 4 else data[8:40]
    total = sum(addresses[0::2]) * 256 + sum(addresses[1::2]) + (6 if is_tcp else 17) + len(packet) - start
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[at : at + 2] = total.to_bytes(2, "big")
    header_bytes = start + ((data[start + 12] >> 4) * 4 if is_tcp else 8)
    header = offload.HEADER.pack(
        offload.NEEDS_CSUM, gso_type, header_bytes if gso_type else 0, gso_size, start, at - start
    )
    return view(header + data)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def tcp_super(
    size: int, mss: int, *, version: int = 4, flags: int = PSH | ACK, options: int = 3, **fields: object
) -> memoryview:
    """A TCP super-packet with `size` bytes of payload."""
    segment = TCP(
        sport=40000,
        dport=8000,
        seq=fields.pop("seq", 0xFFFFF000),
        ack=7,
        flags=flags,
        options=[("NOP", None)] * (4 * options),
    )
    packet = (ipv4 if version == 4 else ipv6)(segment / Raw(noise(size)), **fields)
    gso_type = offload.GSO_TCPV4 if version == 4 else offload.GSO_TCPV6
    if flags & CWR:
        gso_type |= offload.GSO_ECN
    return partial(packet, gso_type=gso_type, gso_size=mss)


def udp_super(size: int, segment: int, *, version: int = 4) -> memoryview:
    packet = (ipv4 if version == 4 else ipv6)(UDP(sport=40000, dport=53) / Raw(noise(size)))
    return partial(packet, gso_type=offload.GSO_UDP_L4, gso_size=segment)


def datagram(
    payload: bytes = b"hello",
    *,
    version: int = 4,
    sport: int = 40000,
    number: int = 0,
    gso_size: int = 0,
    **fields: object,
) -> memoryview:
    """A record of a datagram as Linux sends it: never fragmented, its checksum left to be completed."""
    gso_type = offload.GSO_UDP_L4 if gso_size else offload.GSO_NONE
    udp = UDP(sport=sport, dport=53) / Raw(payload)
    own = {} if version == 6 else {"flags": "DF", "id": 7 + number}
    packet = (ipv6 if version == 6 else ipv4)(udp, **{**own, **fields})
    return partial(packet, gso_type=gso_type, gso_size=gso_size)


def apart(records: Iterable[bytes | memoryview]) -> list[bytes]:
    """The finished packets that the records stand for, in order, as plain records."""
    return [piece for record in records for piece in offload.split(memoryview(record))]


def parse(packet: bytes) -> Packet:
    return (IP if packet[0] >> 4 == 4 else IPv6)(packet)


def assert_finished(packet: bytes) -> Packet:
    """Lengths and checksums are what scapy would have written; give the parsed packet."""
    parsed = parse(packet)
    again = parse(packet)
    for layer in (IP, TCP, UDP):
        if layer in again:
            del again[layer].chksum
    for layer in (IP, UDP):
        if layer in again:
            del again[layer].len
    if IPv6 in again:
        del again[IPv6].plen
    assert bytes(again) == packet, f"{parsed!r} should be {parse(bytes(again))!r}"
    return parsed


__all__ = [
    "ACK", "CWR", "ECE", "FIN", "IP", "PSH", "SYN", "TCP", "UDP", "ICMPv6EchoRequest", "IPv6",
    "IPv6ExtHdrDestOpt", "IPv6ExtHdrHopByHop", "Raw", "assert_finished", "ipv4", "ipv6", "noise", "parse",
    "partial", "plain", "tcp_super", "udp_super", "view",
]  # fmt: skip
