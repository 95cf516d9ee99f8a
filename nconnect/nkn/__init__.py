"""The NKN network from a client's side, pure: one link and all that keeps it up.

- **node**: a relay of the network. **seed**: a node whose RPC says which node serves an address.
- **link**: one websocket to a node, logged in with one address; it is found, kept and mended by `link.Link`.
- **challenge**: what a node asks us to sign at the login. **redirect**: WRONG_NODE, the node names another.
- **receipt**: signed proof that a message arrived, owed when it carries a `prev_hash`.
- **waiver**: what a node of this project does without (signatures on messages, masked frames).
- **attempt**: from asking the seeds to a login. **backoff**: the wait between two of them.

`nconnect.io.link` runs a link on sockets.
"""
