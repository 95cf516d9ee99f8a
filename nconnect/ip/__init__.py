"""IP packets as views over buffers: fields, checksums, and segmentation offload.

Glossary. *packet*: an IPv4 or IPv6 packet from its version nibble on. *record*: what a TUN device with
IFF_VNET_HDR reads and writes, a virtio-net header of 10 bytes and then one packet. *super-packet*: a packet
that stands for several segments of one flow (GSO); its record says how it is to be cut. *partial
checksum*: the transport checksum field holds the sum of the pseudo-header only, and whoever puts the packet
on a wire adds the rest.

Functions take memoryviews (format "B") and neither keep nor copy them unless they say so.
"""
