"""Connections: from a name to an open TCP socket, through proxy and TLS, to a websocket. UDP sockets.

    nkn.link, http_client ...
          |
          v
    websocket_client.connect                                  websocket_server <-- accepting, listening
          |  dial: the one place that connects                       |  TLS handshake in turns, upgrade
          |    resolve -> name_servers (if the system is slow)       |
          |    nat64 (networks without IPv4)                         |
          |    proxy: CONNECT or SOCKS5; proxy_search: hints         |
          |  tls, tls_socket: verify, pin, explain                   |
          |  wire.upgrade                                            |
          v                                                          v
    websocket.WebSocket: frames on a non-blocking socket <-----------+
          |-- receive_buffers: lent while a frame is incomplete
          |-- queueing.pacer fed by tcp_info; congestion (no BBR on short paths)
          `-- queueing.turns: shares the loop with other connections

    streams, stream_dial           direct TCP streams: the port, and connecting;
    stream_link                    an open one is a WebSocket without an upgrade
    socket_transport, readiness    an asyncio transport on an open socket; waiting for one
    certificate                    a node's own TLS certificate
    name_stub                      answers systemd-resolved for names of peers, and no others
    echo                           ICMP echo, for `doctor`
    datagrams, recvmmsg            the UDP socket of direct paths; many datagrams in one call
    stun                           asks STUN servers what NAT this network has
    router, port_mapping           finds the routers of the default routes, and asks them for a port
    upnp_calls                     carries out what UPnP's machine wants

Out: `send_binary(parts)` makes a frame's header and calls sendmsg(2) once; what the kernel does not take
is copied, and `writable` is False until it drains. In: recv_into a buffer, each whole frame is handed on
as a view, an incomplete one stays or is moved to the front. Pings are answered once the socket drains,
the newest only (RFC 6455, section 5.5.3).

Specifications: websocket RFC 6455; Happy Eyeballs RFC 8305; DNS RFC 1035; NAT64 RFC 7050; CONNECT RFC
9110, section 9.3.6; SOCKS5 RFC 1928 and 1929; TLS by the standard library's ssl. Decisions 0002 (own
websocket), 0012 (congestion control), 0014 (proxies), 0015 (connecting and names), 0016 (what TLS
proves).

- **backlogged**: more has arrived than we had time to read. **unsent**: what the kernel has not taken
  yet.
- **pin**: the SHA-256 of the only certificate that is accepted.
- **admit**: the check before a connection costs anything: a new socket, or an address that we connect to.

To add a way out of a network: a value in `nconnect.config.proxy`, its protocol in `proxy`, its use in
`dial`.
"""
