"""A direct TCP stream: a lane to a peer without a node between, where one side can be reached. Pure.

    dialler                                   listener (one port, the same number as UDP)
      | -- OPEN, with a proof ---------------> |  looks the key pair up by its index, and verifies
      | <------------- ANSWER, with a proof -- |  nothing was sent before this
      | -- CONFIRM, first batches -----------> |  open: a lane of the peer's path

A stream carries what a relayed lane carries: batches under the session's keys. So it needs no key, window or
record of its own, and survives a rekey. Its own keys (`keys`) only open it.

What is held against whom:

- a stranger            gets no byte, and one of a few places for at most 2 s (`door`)
- a recorded OPEN       its number was used
- a delayed OPEN        (recorded, and kept from the listener) is answered, since it is genuine; CONFIRM needs
                        the key, so nothing opens
- a reflected message   the keys of both directions differ
- a peer that is gone   the key pair is looked up again before the stream opens

Modules: `keys`, `opening` (one connection, each side), `door` (all connections that are not open yet),
`dialling` (when to connect to whom, and which of two streams stays). `paths.lanes` has the lane. Above:
`nconnect.io.net.streams`.
docs/protocol.md has the bytes, docs/decisions/0034-direct-tcp.md the choices.
"""
