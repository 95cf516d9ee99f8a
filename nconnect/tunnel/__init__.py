"""Sessions with peers: packets in, sealed messages out, and back. Pure machines.

One `core.Tunnel` serves all peers of an interface. It decides whose a packet is, under which keys, when and
over which path it leaves; what may come in, and from whom; and when keys are made, renewed and erased. It
reads no clock, socket or randomness: `now` and bytes are arguments. docs/protocol.md has the bytes.

    TUN                                                                        a link (NKN message)
     |  routes.owner: whose destination is it                                           ^
     v                                                                                  |
    core.Tunnel.may_bypass --yes----------------------------> seal --------------> path.prefix + sealed
     |  no                                                     ^   session.KeyPair,
     v                                                         |   path framing
    send_queue.SendQueue.enqueue --> fair queue of a lane --> next_batch

    TUN <-- order <-- check_sources <-- read_records <-- open_into <-- by_index <-- path.split <-- a link
            \\____________________ receiver.BatchReceiver.receive, one column ____________________/

After the packets are written, `receiver.received` acts on what else the batch means: timers, feedback,
control frames. What the core wants done goes to `outputs` (a deque of values, `poll_output`); what time
brings comes by `handle_timeout`. It asks back for two things only, both arguments of `received`.

Who owns whom (one arrow: keeps):

    core.Tunnel --+-> sessions.Sessions --+-> handshakes.Handshakes      makes, replaces and erases keys
                  |                       +-> control_frames.ControlFrames   pings, feedback, links, …
                  |                       +-> announcements.Announcements    statements, ours and peers'
                  |                       +-> paths.manager.PathManager  lanes as links come and go
                  |                       +-> direct.DirectPaths     direct paths, what they say and hear
                  |                       +-> streams.table.StreamTable  streams inside the sessions
                  |                       +-> timer_heap.TimerHeap       whose timers are due
                  +-> send_queue.SendQueue       what waits, whose turn it is
                  +-> receiver.BatchReceiver     the way in
                  +-> datagram_receiver.DatagramReceiver   the way in over the direct path
                  +-> allowed_ips.AllowedIps     prefix -> peer
                  +-> translation.Translation    of one peer: its addresses are seen as others here
                  +-> peer.Peer, one each: session, handshake, path, timers, traffic, drops

Words:

- **peer**: an entry of the peer table, known by its NKN address, that is, by its public key.
- **session**: all keys shared with a peer. **key pair**: the keys of one epoch, one to send and one to
  receive under. **index**: the 32-bit name that a receiver gives a key pair; every data frame carries it.
- **initiation**, **response**: the two handshake messages. **attempt**: an initiation of ours that is
  unanswered.
- **record**: a unit inside a batch: a packet or a control frame. **batch**: the records that are sealed
  together as one message. **keepalive**: an empty batch.
- **statement**: a document that a side tells its peer, whole each time it changes (`statements`). The tunnel
  does not read it.
- **path**, **lane**: see `nconnect.tunnel.paths`.
- **stream**, **frame**: see `nconnect.tunnel.streams`; a direct TCP connection that carries batches is called
  a stream too, in `paths.stream`.
- **stranger**: a sender that is no peer. **visitor**: a message that is not encrypted, for enrolment to
  look at.

Specifications: the handshake is Noise_IKpsk2 (Noise, revision 34) as `nconnect.crypto.noise` has it. Key
epochs, timers and the order of checks are WireGuard's (its paper, sections 5.4, 6.1 to 6.3), with the
departures that docs/protocol.md ("Session rules") lists. The replay window is RFC 6479's method. Queues are
FQ-CoDel (RFC 8289, RFC 8290).

Keys of one peer (`session.Session`), and what moves them:

    event                                  previous   current    next       crossed
    our initiation is answered             current    new        -          next, if there was one
    we answer an initiation                           (stays)    new
    the first batch under next arrives     current    next       -          -
    180 s after a pair was made            each pair is erased at its own age
    close, expiry, a peer that is removed  all are erased (also when its preshared key changes)

Packets are sealed under `current` only. All of them can open what is still on its way, so that a rekey at
full speed loses nothing. Only `handshakes` makes, replaces and erases keys (`Peer.session`,
`Peer.handshake`); inside a key pair the counter advances where a batch is sealed, the replay window where one
is opened. `peer.Peer` has the table of who writes what, and tests/tunnel/test_peer.py checks it.

State of a peer as `status` says it (`peer.PeerState`):

    never --initiation--> handshaking --keys--> up -----unanswered------> stale --anything heard--> up
                                                 |                           |
                                                 +---- keys end, close ------+ (stale, without keys)
    any --expires_at is past--> expired --let in again--> never or stale

Timers (`timers.Timer`), all of one peer; `timer_heap` holds one time to look at each peer:

    RETRY_HANDSHAKE       0.5, 1, 2, then every 5 s    an initiation is unanswered
    GIVE_UP_HANDSHAKE     90 s                         of attempts; what waits is thinned out
    QUESTION, UNANSWERED  3 s, then 3 to 12 s          data sent, nothing heard: ping; then a handshake. The
                                                       second is 4 round trips; 1 s after a link is back
    KEEPALIVE             10 s                         data heard, nothing sent: an empty batch
    PERSISTENT_KEEPALIVE  25 s                         a side that keeps sessions pings
    ERASE_KEYS            180 s                        after a pair was made
    EXPIRE                at most 60 s                 the wall clock may be set: look again
    LANES                 0.3 s                        several lanes: which of them are dead
    REORDER               up to 30 ms (copies 250 ms)  what was held back for its order is let go
    STATEMENT             0.5, 1, 2, … 60 s            our statement is unacknowledged, or waits for its turn
    STREAMS               as the streams say           a stream has something to send, or is to be looked at
    DIRECT                as the machine says          the direct path's (`paths.direct.deadlines.PathTimer`)

Why a packet waits in the queue instead of leaving at once (`core.Tunnel.may_bypass`, but for the first):

    the driver   packets of several peers were read together, or the link is down, full, or paced
    lanes        a scheduler distributes the peer's flows over several lanes
    features     the peer's TUN lacks one of our features, or the batch is larger than the peer's largest
    order        something of this peer waits already
    rate         the peer has a `rate`, or tells us one (`bounds`)
    pacing       the lane's pacer, or its window of bytes in flight (`paths.feedback`)
    gathering    each message is signed, so that larger batches are cheaper: more than 128 KiB is in flight,
                 and the last batch left less than 2 ms ago (`send_queue`, GATHER_BYTES)
    keys         none, too old to send under, or the peer is in doubt: what was sent went unanswered

Why the queue holds a batch back (`send_queue.SendQueue.next_batch`): the link is not writable; it is
another peer's turn, or another link's; pacing and keys as above (without a key it starts a handshake);
gathering, as long as fewer than 192 KiB wait and no scheduler is in use. While one is: a dead lane that is
not the best, a flow that has just moved (`paths.lanes.Hold`), or no lane that is fit for a stripe
(`paths.scheduler`). What was *received* is held back where the path disturbs the order (`paths.reorder`),
and by `nconnect.daemon.inflow`, so that one peer's flood does not delay another's packets.

Refusals on the way in: begin at `receiver.BatchReceiver.receive`, which calls the checks in their order. A
packet whose source is not the peer's is refused in `check_sources` there. To add a drop reason: see
`nconnect.errors`.

Who may cost us what: an unknown sender is looked at 8 times a second (32 at once), all of them together 256
times (`strangers`); of a peer at most 20 refused handshakes a second are read; one batch gets one answer of a
kind. A forged message changes no keys, and starts at most one handshake of ours.

To add a control frame: a `RecordKind` and the size of its body in `nconnect.wire.tunnel`, a branch in
`control_frames.ControlFrames.received`, a row in docs/protocol.md ("Data"). From 128 on, older versions
skip it. To add a timer: a member of `timers.Timer` and a branch in `sessions.Sessions._on_timer`. To add an
output: a dataclass in `outputs` and a member of `Output`; the driver hands it to the daemon's event bus, and
a row in the table of `nconnect.daemon.wiring` subscribes to it.
"""
