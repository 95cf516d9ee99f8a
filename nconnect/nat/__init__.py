"""What the network does to this device's addresses, found out by asking. Pure machines.

Glossary: a **mapping** is what a NAT keeps for a socket behind it: the address and port that others see (the
**reflexive** address). A NAT is **easy** when a socket has one mapping for all destinations
(endpoint-independent, RFC 4787 section 4.1): what a server sees is where a peer can send to. It is **hard**
when each destination has its own, so that nobody can tell the next one.

- `stun.StunProbe`: asks STUN servers from one socket: easy, hard, or is UDP blocked? Which address?
- `port_mapping.PortMapper`: keeps one port open at the router, by PCP or NAT-PMP; `upnp_mapping.UpnpMapper`
  by UPnP.

The direct path feeds these machines from its data socket: a mapping belongs to the socket that asked.
"""
