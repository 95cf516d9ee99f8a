"""What a peer's packets must be before they reach the TUN, and what a TUN must take for a record. Pure."""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.ip import offload, packet
from nconnect.tunnel.allowed_ips import AllowedIps
from nconnect.tunnel.peer import Peer
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, Feature

Buffer = bytes | bytearray | memoryview

_ALL = Feature.ALL  # an enum's member costs a look-up in its class


def admitted(
    peer: Peer, packets: list[memoryview], routes: AllowedIps[Peer], features: Feature
) -> list[memoryview]:
    """The packets that this peer may send: well-formed, with its own source, with a sane header."""
    cached = routes.source_cache.get
    finished = offload.FINISHED
    takes_all = features == _ALL
    good = 0
    for record in packets:
        view = record[VIRTIO_HEADER_BYTES:]
        if not packet.is_well_formed(view):
            peer.drops[DropReason.BAD_PACKET] += 1
            continue
        address = bytes(view[12:16]) if view[0] < 0x60 else bytes(view[8:24])
        if cached(address) is not peer and routes.source_owner(address) is not peer:
            peer.drops[DropReason.SPOOFED_SOURCE] += 1
            continue
        if not (bytes(record[:VIRTIO_HEADER_BYTES]) in finished or offload.check(record)) or (
            not takes_all and needed_feature(record) & ~features
        ):
            peer.drops[DropReason.BAD_OFFLOAD_HEADER] += 1
            continue
        packets[good] = record
        good += 1
        peer.rx_bytes += len(view)
    del packets[good:]
    peer.rx_packets += good
    return packets


def needed_feature(record: Buffer) -> Feature:
    """What a TUN must take for this record to be written as it is."""
    if not record[0] & offload.NEEDS_CSUM and not record[1]:
        return Feature(0)
    return _FEATURE_OF_GSO.get(record[1] & ~offload.GSO_ECN, Feature.ALL)


_FEATURE_OF_GSO = {
    offload.GSO_NONE: Feature.CHECKSUM,
    offload.GSO_TCPV4: Feature.CHECKSUM | Feature.TSO4,
    offload.GSO_TCPV6: Feature.CHECKSUM | Feature.TSO6,
    offload.GSO_UDP_L4: Feature.CHECKSUM | Feature.USO,
}
