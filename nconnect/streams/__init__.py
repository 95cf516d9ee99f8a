"""Streams for programs of this machine: a listener takes a connection, and a dialler opens its stream.

    program --TCP--> listener --socks5 | http_connect | forward--> Dialler.open(host, port) --> Stream
                                                                                |
          KernelDialler   the tunnel's interface is on this machine: the kernel's TCP through it
          SessionDialler  the daemon runs in this process, without a TUN: streams of its sessions
          SocketDialler   the daemon runs in another process: its control socket carries each stream
          NconnectDialler an official nConnect server

Nothing here needs a TUN, root or an asyncio loop of a kind. The layers, from below:

    dialler       the protocol between both halves: `Dialler`, `Stream`, `DatagramChannel`, `StreamRefused`
    target        what a program asks for; names and addresses in one form (pure)
    socks5        RFC 1928 and RFC 1929, the server's side (pure: bytes in, bytes and requests out)
    http_connect  HTTP CONNECT, RFC 9110 section 9.3.6, the proxy's side (pure)
    entry         both on one port, told apart by the first byte (pure)
    listener      accepts programs' connections: whose they are (sock_diag), and how many there may be
    forward, proxy, udp   what is done with one: a fixed target; SOCKS5 and HTTP; UDP ASSOCIATE
    joining       a TCP connection and a stream, joined
    kernel        `KernelDialler`, and a socket as a `Stream`
    socket_dialler, framed        `SocketDialler`, and how a stream is framed on the control socket
    nconnect_dialler, official_stream     `NconnectDialler`, and its stream in shadowsocks' cipher

Who may reach what is the provider's to say (`allow`, `services`, `expose`, provided subnets); this side only
finds the provider and tells its refusal to the program: in SOCKS as a reply code, in HTTP as a status and a
sentence, with a forwarded port as a reset. A name below .internal is resolved by this side, an address goes
to the peer with the longest prefix, and any other name is refused (an official server alone gets every name):
nothing here is an exit to the internet.
"""
