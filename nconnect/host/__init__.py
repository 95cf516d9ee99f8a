"""What the tunnel sets on its machine: addresses, routes, sysctls, the firewall. Decided here, without
touching it. Pure.

    nconnect.io.system.host.read_facts            model.Config
                  |                                    |
                  v                                    v
            facts.HostFacts --------------------> plan.plan ---> plan.HostPlan
                                                    |              InterfaceState, skipped routes, warnings
              routes, bypass, overlap: which        |
              prefixes may go into the tunnel       +-- nft.ruleset --> ruleset.Ruleset (one table)
              closing: what fail_closed shuts              closing, forwarding, flow_limits add chains
              forwarding: what others may not forward
                                                    |
    what is there now: diff.Reading --> diff.diff --+--> ordered operations, each with its undo
                                                           |
                                                           v
                                          nconnect.io.system.host applies them, or undoes them on an error

    judge      the rules' decisions for one connection: which ones a change must end (conntrack)
    policy     which rule and route are behind a kernel's answer (for `nconnect.doctor.routing`)
    hosts_block  our lines in a hosts file, and what else is in it (for `nconnect.io.system.hosts_file`)
    intervals, expressions   address ranges without overlap; the JSON of nft's expressions

The way of a packet through our table (`nft` has it in full): prerouting drops what has no peer's source
or would be answered elsewhere; input (to this machine) and forward (through it) take replies to what this
side opened, and send everything else to the chain of the peer that has the source address, which accepts
what the peer may reach or refuses and counts it. Nothing is accepted because it was accepted before: each
packet of the opener is judged, so a revoked right ends at the next packet (decision 0023).

Rules that hold everywhere: add before you delete (but for host routes past the tunnel, of which the kernel
takes one for each address), the firewall first and forwarding last, so that nothing
is open for a moment; a plan never cuts the machine off from its own networks (a route that would is
skipped, with the reason); what belongs to others is neither changed nor removed; applied to its own
result, the diff is empty.

Specifications: netfilter's hooks and priorities (linux/netfilter_ipv4.h), libnftables-json(5),
rtnetlink(7), policy routing (ip-rule(8)), sysctls (kernel: ip-sysctl), RFC 1812 forwarding, RFC 1918 and
4193 private ranges. Decisions 0007 (one table), 0021, 0022 (closed by prefix), 0023 (what may come in),
0025 (sharing a machine).

- **facts**: what the kernel says now. **reading**: what of ours is there now.
- **plan**: the **host state** that a configuration asks for in view of the facts, and what it leaves out.
- **diff**: from a reading to a host state, as **operations**. **ruleset**: our nftables table as a value.
- **judge**: decide whether a peer may open a connection. **refuse**: answer at once and count. **drop**:
  silently.
- **skipped route**: an allowed prefix that is not routed, with the reason. **bypass**: a host route
  around the tunnel to what carries it. **closed prefix**: one that `fail_closed` allows through the
  tunnel only.

To add something that is set on the machine: a field of `plan.InterfaceState`, filled in `plan.plan`; its
operation and undo in `diff`; how to read and apply it in `nconnect.io.system.host`; a namespace test that
also asserts what must survive. To add a firewall rule: `nft` (or the file of its subject), the same
decision in `judge`.
"""
