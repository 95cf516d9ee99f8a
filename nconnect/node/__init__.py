"""An NKN-compatible node as pure machines: no sockets, no clock, no randomness of its own.

Glossary: a **connection** is one websocket to us; a **client** is a connection that has proven that it
holds the key in its address; a **dest** is the address that a message is for; **held back** is a message
that waits because its destination's socket is full; a **receipt** is a client's signature that it
received a message.

- `core.Node`: login, relaying, time. `connection.Connection`: the states of one websocket.
- `settings.NodeSettings`: what may be configured.
- `egress.Egress`: the bounded, fair queue in front of one client's socket.
- `holding.Holding`: mail for clients that are offline.
- `cluster.Cluster`: several nodes as one: who lives, who is where. `parcel`: messages between them.
- `proof.Ledger`: what a verifying node checks: signatures, receipts, recent block hashes.
- `stun.StunServer`: tells clients their own address.
- `rpc.answer`: JSON-RPC. `limits.RateLimiter`: how often one host may ask or connect.
- `reorder.Reorderer`: a test seam, the official node's disorder.
"""
