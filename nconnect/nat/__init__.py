"""What the network does to this device's addresses, found out by asking. Pure machines.

Glossary: a **mapping** is what a NAT keeps for a socket behind it: the address and port that others see (the
**reflexive** address). A NAT is **easy** when a socket has one mapping for all destinations
(endpoint-independent, RFC 4787 section 4.1): what a server sees is where a peer can send to. It is **hard**
when each destination has its own, so that nobody can tell the next one.

- `stun.StunProbe`: asks STUN servers from one socket: easy, hard, or is UDP blocked? Which address?
- `port_mapping.PortMapper`: keeps one port open at the router, by PCP or NAT-PMP, and in its IPv6 firewall by
  PCP; `upnp_mapping.UpnpMapper` and `upnp_holes.UpnpHoles` by UPnP.

Direct paths feed `StunProbe` from their data sockets: a mapping belongs to the socket that asked.

Every answer is a stranger's. STUN: it must have the question's transaction id and come from where that went.
Ports: only the router of the default route is asked, for one port; what does not fit the question, or names
an address that nobody has outside, changes nothing and is said in one line. Decision 0029 has the reasons.
Specifications: RFC 8489 (STUN), 6887 (PCP), 6886 (NAT-PMP), UPnP's WANIPConnection:1,
WANIPv6FirewallControl:1.
"""
