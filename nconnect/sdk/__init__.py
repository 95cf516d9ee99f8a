"""The half of the SDK that programs hold: clients that send, reply and listen, on asyncio.

`client.Client` is one identity and one link. `multiclient.MultiClient` is one identity with several links,
each a sub-client with a login of its own; it takes whichever copy of a message comes first. `endpoint` has
what both have in common: `inbox` keeps what arrived until the program takes it, `waiting` the replies that
are awaited, and `sub_link` is one login. `nconnect.nkn` is the protocol, `nconnect.io.nkn` runs the links.

Programs import the public names from `nconnect.nkn`; docs/nkn.md tells how to use them.
"""
