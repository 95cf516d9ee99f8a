"""The running tunnel: `nconnect up` keeps one interface, and `nconnect node` runs one relay (`node`).

A daemon joins three things: a device (the TUN), a tunnel core (`nconnect.tunnel`) and links to NKN nodes
(`nconnect.io.nkn.links`). Around them it keeps the host's state (addresses, routes, firewall) as the
configuration asks for it, takes it back at the end, and answers the control socket.

    configuration file, invitations          control socket, metrics
          | reload, enrolment                   | backend, waiting, metrics
          v                                     v
    settings.InForce <------------------ wiring.Daemon ----> events.Bus ----> event_log, waiting, expiry,
          ^                                     |                             counters, enrolment, way_out
          | read by all, set by host_state      |
          |                  +------------------+------------------+
    host_state            driver <-> tunnel core                 links
    (netlink, nft:        device.fds <-> packets <-> messages <-> websockets
     in threads)

Words
-----
in force       the configuration that host and tunnel are set by. The file may say something else already:
               `reload` puts it in force as a whole or not at all. It has addresses as this device sees
               them: `acceptance` has decided (`nconnect.offers.accept`) which prefixes of providers are in
               force and which are mapped, and remembers it.
plan           what `nconnect.host.plan` makes of configuration and facts: the host's state as it should be.
host state     what we have set on this machine. `host_state` sets it, the reconciler sets again what somebody
               removed, `interference` looks at what other programs do to the tunnel's packets.
way out        the addresses that are connected to outside of the tunnel: seeds, nodes, the proxy.
ready          the interface can be used: the host is set and, unless told to keep trying, a link was up once.
data lane      packets: device, driver, core, link. It bypasses the bus, and writes no log.
control lane   everything else: outputs of the core, events, tasks.

Direct paths
------------
The core finds and judges them. `direct_sockets` opens their UDP port while there are rights; the driver reads
and writes it. `direct_paths` keeps what they share (`tunnel.paths.direct.surroundings`) as the machine is:
addresses and routes by netlink, a port mapped at the router (`io.net.port_mapping`), and by `reflexive` what
STUN servers see of the sockets. A reload may open and close the port.

Names of peers
--------------
`names` has this machine resolve them (`nconnect.offers.names`), by the helper, which is root. It chooses
labels that nobody here resolves already, and writes them again when somebody removes them.

Streams
-------
A peer without a TUN asks for streams inside its session (`nconnect.tunnel.streams`). `session_streams` is
their shell; `stream_acceptor` and `datagram_acceptor` connect to what a peer wants, and `stream_rights`
judges it, counts it, and ends it when the right ends. `session_dialler` opens streams to peers, for programs
of this process and, by the control socket, of others. `without_tun` runs a daemon that has nothing else.
(`streams` are direct TCP connections, which carry batches.)

Who owns whom
-------------
`up` makes what needs rights (`wiring.Opened`: lock, state folder, a node's ports, UDP sockets, the device),
gives the rights up, makes `wiring.Daemon`, and runs it. `Daemon` makes every part once, complete, in its
constructor; a part gets what it needs as arguments. The driver owns the buffers, the core's timer and the
reading of the device; `Links` owns the websockets; `host_state` owns netlink and nft, one change at a time;
`direct_paths` owns the UDP sockets.

Start: lock; own node's ports; device; root's rights end; parts; own node; the tasks of links and expiry; what
a killed daemon left is removed and the plan applied; the driver reads; the control socket listens; the other
tasks; the first login; ready. The end: the control socket closes, the peers are told, the counters saved, the
host's state is taken back; then links, device and own node close, and the lock is given up.

What runs where
---------------
One process, one thread with one event loop (uvloop). Core, driver, links, bus and all bookkeeping run in it,
so there are no locks on data. Nothing on the loop may wait for a disk, the kernel's configuration, a program
or a name server: that runs in threads (`asyncio.to_thread`, `io.net.resolve`), and `tests/blocking.py` fails
the test of a part that does otherwise. What is left on the loop: the log's lines, written to standard error;
one stat of /etc/resolv.conf for each name that is looked up; what `nconnect node --capture-file` writes.

Lasting tasks run under the supervisor: when one fails it is started again after a pause, counted, and named
in `status`; one that returns has ended for good. Tasks for one thing (`reload`, `save counters`) run without
it. `Daemon.first_tasks` run from the start, `Daemon.tasks` once the host is set.

To add
------
- an event: a frozen dataclass in `events` (or an output of the core), `bus.publish` where it happens, and a
  row in the table at the end of `wiring`. Subscribers are called synchronously, in the table's order.
- a task: a coroutine function of a part, and a row in `Daemon.tasks`.
- a field of the configuration: `reload.FIXED` if a running daemon cannot change it; else read it from
  `InForce` whenever it is needed, and keep no copy.
- a sentence for `status`: a property of the part, and a line in `problems` in `wiring`.
"""
