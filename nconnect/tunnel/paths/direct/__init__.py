"""The direct path between two devices: UDP without a node, beside the relayed path, which stays ready. Pure.

Theory of operation. A search begins with the first packet to a peer. Each side tells the other its candidates
by the relay (addresses of its own, as seen by a STUN server, mapped by the router), and both probe all that
they were told at about the same time, so that each side's probes open its own NAT for the other's. A probe is
an authentic record of the session; its answer, by the same way back, proves both directions. Then data moves.

    state       packets go by   leaves for
    RELAY       the relay       SEARCH when there is traffic and a search may begin
    SEARCH      the relay       DIRECT when a probe was answered; RELAY after 5 s, with the reason in words
    DIRECT      the path        SUSPECT when data is not reported; RELAY when it loses too much, or is idle
    SUSPECT     both            DIRECT when data arrives again, or another pair works; RELAY after 1 s

Each side decides for its own direction and sends to the address that it chose; it receives from any. The path
is judged by what the peer reports of the data, because there are paths that answer probes and drop data. A
path that failed is used again after a penalty that grows with each failure, so that nothing flaps.

The modules, from below:

    constants, outputs, reasons     numbers, what a path says, why there is none
    blocks                          packets sealed once for several datagrams; when a sender does so
    keys                            seals and opens datagrams, under children of the session's keys
    candidates, budget              whom to tell what, whom to probe, and how much
    forged                          how many datagrams that do not open are tried
    surroundings                    what all paths of an interface share; the shell keeps it current
    search, pair, probes            one search's schedule; an address that answered; probes under way
    delivery, mtu                   what arrives; the largest datagram that does (RFC 8899)
    keepalive, comeback             does the pair in use answer; when one that was left may be used again
    finder, deadlines, path         when to search; what is waited for; `DirectPath`, the states above

How to drive a `DirectPath`:

    path.session_started(now), path.session_ended(now)
    path.traffic(now)                           for each batch to or from the peer, whichever way it goes
    path.carries_direct, path.carries_relay     where the next batch goes; both while SUSPECT
    path.sent(size, now)                        for data that left on the direct path
    path.reported(sent, arrived, rtt_s, now)    for each of the peer's reports about it
    path.received(source, size, newest, now)    for each authentic datagram; if true, for its records:
    path.on_probe, path.on_ack                  and path.on_candidates for the one that the relay brings
    path.network_changed(now), path.candidates_changed(now)     after a change of `Surroundings`

After any call drain `poll_output()`, and call `handle_timeout(now)` at `poll_timeout()`. What a peer sends
never raises: it is counted in `drops`.
"""
