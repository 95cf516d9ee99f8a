"""An NKN-compatible node as pure machines: no sockets, no clock, no randomness of its own.

docs/node.md is about running one; docs/protocol.md ("NKN") has the bytes. `nconnect.io.nkn.node_server` runs
`core.Node` on sockets, `nconnect.io.nkn.cluster` connects it with other nodes.

    websocket (Transport)            core.Node                                  relay.Relay
      | open, receive_text,    +------------------------+   a client's    +-----------------------------+
      | receive_binary, -----> | who is connected,      |   message       | clients: address -> sockets |
      | writable, closed       | who has logged in,     | --------------> | for each destination:       |
      |                        | what may be checked,   |                 |  1 its socket takes data:   |
      |                        | timeouts               |                 |    send head and view       |
      |                        +------------------------+                 |  2 it is full: egress.Egress|
      |                          | Ledger: signatures,                    |  3 nobody there: mailbox,   |
      |                          |         receipts                       |    if the sender wants that |
      |                          | Source: shares by                      |  4 another node: Elsewhere  |
      |                          |         address                        +-----------------------------+
      +<-- send_text, send_binary, ping, close

    GET/POST (RPC) ----> rpc.answer(body, facts), limited by RateLimiter
    UDP (STUN) --------> stun.StunServer.answer

States of a connection (`connection.State`; a missing row is an error):

    state        event       next
    CHALLENGED   LOGGED_IN   CLIENT     the signature over the challenge is right
    CHALLENGED   CLOSED      CLOSED     also: no login within 10 s, a wrong signature
    CLIENT       CLOSED      CLOSED     also: silent for 60 s, takes nothing for 60 s, displaced

Checks of a binary frame: logged in; compression, within the source's budget; form (a head that is known is
not parsed again); signatures, if the node verifies them; number of destinations; size of each payload. A
refused frame is counted under a `NodeDrop`. The connection stays open, as at the official node; many frames
that are malformed or badly signed, or many bytes before the login, close it.

To clients it is like the official node (nkn: api/websocket/server, api/common, api/httpjson), with these
departures:

- the messages of each pair of clients stay in order, while at the official node they may overtake each other;
- a full socket fills a bounded queue that is shared fairly between senders (decision 0019), and each address
  has a share of everything that could be used up (decision 0026);
- it waives signatures and masks, unless it is told to verify (decision 0008);
- several nodes are one over NATS (decision 0009), without Chord ring and block chain.

- **connection**: one websocket to us. **client**: a connection that has proven the key in its address.
- **source**: the IPv4 address or IPv6 /64 that a connection comes from; limits are per source.
- **dest**: the NKN address that a message is for. **fan-out**: one message to several dests.
- **egress**: what waits for one client's full socket. **mailbox**: what waits for an absent client.
- **receipt**: a client's signature that it received a message. **ledger**: what one client owes and signed.
- **member**, **presence**, **fragment**, **seal**: a node of the cluster; the addresses logged in there; a
  part of a message between nodes; the proof that it comes from a node.

To add a limit: a field in `settings.NodeSettings`, the check in `core` or `relay`, a `NodeDrop`, its text in
docs/node.md. To add an RPC method: a function in `rpc` and its name in `_METHODS`. `reorder` is for tests
only.
"""
