"""The daemon's API: HTTP/1.1 (RFC 9112) over a unix socket. docs/control-api.md documents it for callers.

    cli, scripts, curl                               daemon                    nconnect node
         |                                             | Backend                 | NodeStatus
         v                                             v                         v
    client.ControlClient -- control socket --> server.ControlServer       node.NodeControl <-- node_client
      blocking             (mode 0600)          method and path ->          nodes/PID.sock
                                                Backend's method
              `-------------- schema -------------'
               Status, PeerStatus, LinkStatus, PingReply, PendingPeer
               (the JSON's names are the fields' names and are never renamed)

    exposition   a `Status` in Prometheus' text format 0.0.4, served by `nconnect.daemon.metrics`

The daemon's loop answers the requests. The server checks the caller's uid (SO_PEERCRED): root's and the
daemon's own are admitted; a socket that root made only root can open.
A refusal is `{"error": "one line"}` with one of these statuses:

    400 malformed   403 wrong user   404, 405 no such call   409 refused   500 a bug   504 not in time

The client turns them into `ControlError` and its subclasses, which say whether anything may have changed.
A daemon could be in the hands of an attacker, so the client bounds what it reads and replaces what would
move the terminal's cursor (`wire.text.visible`).

To add a call: a method of `server.Backend` and of the daemon's implementation; a route in `server`; a
method of `client.ControlClient`; its values in `schema`; docs/control-api.md; `scripts/reference`, which
writes docs/openapi.json. To add a field: a field with a default in `schema`; its value in
`nconnect.daemon.status`.
"""
