"""Findings about a machine: the pure half of `nconnect doctor`, and of `status`'s problems. It looks nothing
up.

    nconnect.io.doctor.gather          nconnect.io.system.surroundings        the running daemon's status
      files, sockets, netlink, nft       rules, routes, iptables-save                  |
              |                                   |                                    | said
              v                                   v                                    |
        facts.Facts  <---------- routing.find_detours, firewalls.obstacles: Obstacle   |
              |                                                                        |
              v                                                                        |
        checks.diagnose: one function per check, in the order of CHECKS  <-------------+
              |
              v
        findings.Finding: ok, warning or failure, with the command that mends it
              |
              v
        nconnect.cli.doctor prints them, or runs their fixes (--fix), or writes a bundle (--report, redact)

    facts, findings          the input and the output
    checks, direct           the judgements
    routing                  asks the kernel (a callable) where packets of each address range go
    passages                 the packets of a tunnel, and the hooks of the kernel by which each passes
    netfilter                what a firewall's rules do with a packet, as far as that is certain
    nft_rules, iptables_rules    the rules, from what `nft -j` and `iptables-save` print
    firewalls                joins them: whose rule drops which packets of ours, and what lets them pass
    targets                  what the targets of iptables do with a packet
    inference                recognises an inference server by its answer
    said                     the daemon's own problems as findings
    redact                   takes the secrets out of what is shown to others

How a firewall is judged. A packet must pass each base chain of each hook on its way (netfilter's
documentation: an accept in one chain does not help against a drop in another). A rule's condition is
true, false or unclear for a packet; a chain therefore has a set of possible outcomes, and only what is
dropped for certain is reported. Reading less of a rule makes a result less certain, never wrong (decision
0024).

- **fact**: what was seen on the machine. **finding**: a judgement, with its level. **mend**: what a
  person does about it. **fix**: a mend that is safe to run without asking.
- **detour**: packets that another program's rule or route leads elsewhere. **obstacle**: a chain that
  drops them.
- **passage**: one kind of packet, at all hooks on its way. **stop**: the chain and the rule that ends it.

To add a check: a field of `facts.Facts` with a value for "not known", its look-up in
`nconnect.io.doctor`, a function in `checks` and its place in `CHECKS`, a row in docs/troubleshooting.md.
"""
