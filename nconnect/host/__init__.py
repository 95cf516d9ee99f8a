"""What the tunnel needs of the machine it runs on, decided without touching it.

Glossary: **facts** are what the kernel says now; a **plan** is the **host state** that a configuration asks
for in view of the facts, with the routes it skips and why; a **reading** is what of ours is there; the
**diff** leads from a reading to a host state by **operations**, each with its undo. The **ruleset** is our
one nftables table. To **judge** a packet is to look whether its peer may reach its destination; to
**refuse** it is to answer at once and count it.
"""
