"""What peers offer each other, judged before anything on this machine follows it. Pure.

What a peer says is a stranger's: each item is checked by itself, what is malformed or not allowed is dropped
and counted, and nothing that a peer says changes what another peer's names or prefixes mean here.

- `accept`: which prefixes are in force, and under which addresses this device sees them.
- `statement`: the codec of what each side tells its peer in the session (docs/protocol.md, "Statements").
- `names`: the names beneath `.internal` of peers and of what they offer. A peer's label comes from the name
  in this device's own table, so it names nothing outside of that; an address must lie in a prefix of that
  peer that is in force, and is given as this device sees it (networks may be mapped).
- `name_codec`: names with their addresses as lines, and all that root checks of them.

Glossary: a **label** is one part of a DNS name (RFC 1035, section 2.3.1). **Real** is an address as its
owner calls it, **seen** as this device does.

What carries the names out is elsewhere: `nconnect.daemon` decides when, the helper of `nconnect.io.process`
writes them where this machine's resolver finds them. Decision 0038 has the reasons.
"""
