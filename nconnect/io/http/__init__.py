"""HTTP/1.1 (RFC 9110, RFC 9112), client and server. h11 is the protocol, this package moves the bytes and
keeps the bounds.

    node's RPC, control socket, metrics            seeds, a machine's clock, inference servers
                 |                                              ^
                 v                                              |
    http_server.HttpServer -- Request --> handler    http_client.request -- dial, TLS, proxy (io.net)
                 ^                          |                   |
                 +-------- Response --------+                http: Request, Response, Credentials
                                                             inference: looks for servers at known ports

States of a server's connection: idle (30 s) -> reading a request (10 s for all of it) -> the handler runs
-> writing the answer (10 s) -> idle. A client that is slower, or sends more than `Limits` allow, gets
408, 413, 431 or 503 and is closed. Requests of a connection are answered in order; a handler whose caller
goes away is cancelled. Connections and unfinished requests are shared out by source, as in the node
(decision 0026).

The client asks once on a connection of its own, follows no redirect, and reads at most what the caller
allows. On a unix socket the server knows the caller's uid (SO_PEERCRED, `Credentials`).

A new endpoint is a handler in its own package (`nconnect.control.server`, `nconnect.node.rpc`), not here.
"""
