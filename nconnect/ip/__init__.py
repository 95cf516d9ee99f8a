"""IP packets as views over buffers: fields, checksums, and segmentation offload. Pure.

Functions take memoryviews (format "B") and neither keep nor copy them unless they say so. Two gates come
first, and what passes them can be read by every other function here without an error:
`packet.is_well_formed` (this is exactly one packet) and, for records from a peer, `offload.check` (the
virtio-net header is true of that packet).

    out   TUN --record--> daemon.driver      gro.Run: equal datagrams that were read at once become one record
              --> tunnel.send_queue          packet.flow_hash: which flow; offload.cut: what is too long for
                                             the path; offload.split: what the peer's kernel does not take

    in    opened batch --> tunnel.receiver    packet.is_well_formed, is_forbidden_source,
                                              icmp.quoted_destination, offload.check
              --> TUN: the kernel cuts super-packets and completes checksums

    packet     fields of IPv4 and IPv6; flow hash; ECN mark          RFC 791, 8200, 3168
    icmp       the packet that an ICMP error quotes                  RFC 792, 4443
    checksum   the Internet checksum as one integer division         RFC 1071
    offload    the virtio-net header, its check; split, cut          virtio 1.2, section 5.1.6
    gro        joins datagrams that a program sent one by one        as UDP_SEGMENT's inverse (decision 0013)
    nat64      IPv4 addresses inside IPv6 ones                       RFC 6052, 7050

- **packet**: an IPv4 or IPv6 packet from its version nibble on.
- **record**: what a TUN device with IFF_VNET_HDR reads and writes: a virtio-net header of 10 bytes and
  one packet.
- **super-packet**: a packet that stands for several segments of one flow (GSO). Its record says how to
  cut it.
- **partial checksum**: the transport checksum field holds the sum of the pseudo-header only, and whoever puts
  the packet on a wire adds the rest.

Departures from a kernel's implementation: `hdr_len` is never trusted (Linux writes the length of a buffer's
linear part there); a UDP checksum of 0 goes out as 0xffff; nothing is reassembled, so fragments have no
transport header here; IPv6 extension headers are followed up to a fixed number.

To support another offload: its GSO type in `offload.check` and its pieces in `_SuperPacket`, a `Feature` in
`nconnect.wire.tunnel` with its row in `nconnect.tunnel.paths.path`, the flag in
`nconnect.io.system.tun`.
"""
