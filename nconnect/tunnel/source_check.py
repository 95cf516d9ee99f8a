"""What a peer's packets must be before they reach the TUN. Pure."""

from __future__ import annotations

from nconnect.errors import DropReason
from nconnect.ip import icmp, offload, packet
from nconnect.tunnel.allowed_ips import AllowedIps
from nconnect.tunnel.paths.path import needed_feature
from nconnect.tunnel.peer import Peer
from nconnect.wire.tunnel import VIRTIO_HEADER_BYTES, Feature

_ALL = Feature.ALL  # an enum's member costs a look-up in its class


def check_sources(
    peer: Peer, packets: list[memoryview], routes: AllowedIps[Peer], features: Feature
) -> list[memoryview]:
    """The packets that this peer may send: well-formed, with its own source, with a sane header.

    An ICMP error must be about a packet that went to this peer: the kernel would apply it to whichever
    connection it quotes, another peer's or one outside of the tunnel too.
    """
    cached = routes.source_cache.get
    finished = offload.FINISHED
    never_errors = icmp.NEVER_ERRORS
    takes_all = features == _ALL
    good = 0
    for record in packets:
        view = record[VIRTIO_HEADER_BYTES:]
        if not packet.is_well_formed(view):
            peer.drops[DropReason.BAD_PACKET] += 1
            continue
        if view[0] < 0x60:
            address = bytes(view[12:16])
            may_be_error = view[9] == packet.PROTOCOL_ICMP
        else:
            address = bytes(view[8:24])
            may_be_error = view[6] not in never_errors
        if cached(address) is not peer and routes.source_owner(address) is not peer:
            peer.drops[DropReason.SPOOFED_SOURCE] += 1
            continue
        if may_be_error and _is_foreign_error(view, peer, routes):
            peer.drops[DropReason.FOREIGN_ERROR] += 1
            continue
        if not (bytes(record[:VIRTIO_HEADER_BYTES]) in finished or offload.check(record)) or (
            not takes_all and needed_feature(record) & ~features
        ):
            peer.drops[DropReason.BAD_OFFLOAD_HEADER] += 1
            continue
        packets[good] = record
        good += 1
        peer.traffic.rx_bytes += len(view)
    del packets[good:]
    peer.traffic.rx_packets += good
    return packets


def _is_foreign_error(view: memoryview, peer: Peer, routes: AllowedIps[Peer]) -> bool:
    """Whether this is an ICMP error, and not plainly about a packet that went to this peer."""
    address = icmp.quoted_destination(view)
    return address is not None and (address == icmp.UNREADABLE or routes.longest_match(address) is not peer)
