"""Paths: the ways to a peer, which one a packet takes, and what a path does to what it carries. Pure.

A peer always has a path over NKN's relays, and may have a direct one over UDP beside it (`datagrams`):

    our links          lanes                 the peer's links        link number 0: the bare address,
    0 --- node A ===== lane 0 ===== node A --- 0                     n: sub-client n
    1 --- node B ===== lane 9 ===== node B --- 1                     lane = 8 * our link + the peer's
                 \\____ one lane for each pair of links in use ____/

- **path**: a way to a peer, of one kind (`path.Path`). To a path belong: framing, the largest batch, what
  must be cut or split for it, the order of what comes, and delivery feedback.
- **lane**: one of a path's parallel ways (`lanes.Lane`), with its queue, its pacer and its round trip. The
  relayed path has one for each pair of links (`relayed.RelayedPath`).
- **best lane** (`Path.lane`): what is sparse goes there, and control frames that do not belong to a lane
  (a pong and a report go back by the lane that they answer; a question is asked on the lane it is about).
- **dead lane**: nothing comes back on it while another lane is answered.
- **striped** flow: a bulk flow whose batches go over several lanes at once.

How they work together:

    handshake, LINKS, links up or down            manager.PathManager: pairs links, chooses the best lane,
      |                                           finds dead ones, moves flows away from them
      v
    lanes.Lanes (in use, best)  <-- asked by -->  scheduler.Scheduler: which lane a flow takes, while
      |                                           several are in use; one bulk flow may be striped
      v
    lanes.Lane.queue --> next_batch --> feedback.Sending: may it leave now, how large
                                            ^ FEEDBACK record            | batches
                                            |                            v
    reorder.Order, ReorderBuffer <-- the other side: feedback.Arrivals: what to report
      in order again, then to the TUN

A lane's life (`lanes.Lanes.judge`, timer LANES every 0.3 s while something is sent):

    alive   --sent, and nothing heard for 0.3 s------------------> asked (ping)
    asked   --something came back on it--------------------------> alive
    asked   --0.6 s (or three round trips), and others answered--> dead: its flows move to the best lane
    dead    --asked every 2 s, and it answers--------------------> alive

While a direct path is in doubt packets go both ways; `copies` lets each pass once, and in order.

One lane is the normal case and costs nothing: no scheduler, no watching. With several in use, once a packet
must wait, a `Scheduler` pins each flow to a lane, and goes away when one lane is enough again. A flow that
changed lanes could overtake itself, so the new lane waits until what was under way on the old one has
arrived.

Why a packet waits and why a batch is held back: `nconnect.tunnel` has the complete list.

The pacer (`nconnect.queueing.pacer`) learns from reports as BBR does from acknowledgements
(draft-ietf-ccwg-bbr: delivery rate and least round trip), but paces only while a queue stands. Nothing here
is a congestion control of its own: packets are IP, and their own protocols have one.

`direct` is the pure machine of a direct path over UDP: it finds, judges and leaves one. `datagrams` is the
`path.Path` that carries packets while it says so.

`stream` opens a direct TCP connection, which is one more lane of the relayed path: number 64, on one of our
links from 8 on. While it lives it is the only lane in use, and the relayed ones are asked when it is silent.

To add a kind of path: `path.Path` has what every path has. `peer.path` is the path that carries packets now:
the data lane asks only what `Path` has. `peer.relayed` is always there: handshakes, control frames and links
are its business, and so is what comes in over a node. Then:

1. a module beside `relayed`, with a subclass of `path.Path`: its framing (`prefix`, `split`), and how large
   a batch may be and what must be cut (`batch_bytes`, `unit`, `suited`). `manager.greeted` sets `features`
   and `batch_bytes` from the peer's handshake: a path's own bound is the smaller one. One lane will do;
2. a part of `peer.Peer` beside `relayed`, and the choice in `manager.PathManager`, which alone sets
   `peer.path`: it knows when one came, died or is quicker;
3. a way in: what arrives on its socket is split by its framing, and goes on where
   `receiver.BatchReceiver.receive` has found the key pair. The frame's lane number says by which path it
   came; `manager.heard_on` takes it modulo 64 today;
4. a way out: an output beside `outputs.Send` for control frames, and in `daemon.driver` a socket as a
   `daemon.seams.DriverLink`, with a number that no other link has;
5. the socket and its task in `daemon.wiring`, the configuration, `status`, docs/protocol.md;
6. tests: `tests/tunnel/paths`, and a network for it beside `tests/sim/lanes.py`.
"""
