"""Queues that keep an interactive packet from waiting behind a bulk transfer. Pure: `now` is an argument.

The buffers of a relay and of a socket are long and serve everybody in order of arrival. So what waits is kept
here, where turns are fair and where a packet can still be dropped, and is handed on only as fast as the link
or path carries it:

    packets of all flows                                        sources of one event loop
         |                                                            |
         v                                                            v
    FairQueue: whose turn is it, what is too old              Turns: whose message is served next
         |                                                    (the node: one source per client address;
         v                                                     a websocket: what has been read already)
    Pacer: how many bytes may go now
         |  budget(now), sent(now, bytes)  <-- sample(...): acknowledged bytes, round trip
         v
    a link's socket, or a path to a peer

    fq_codel    `FairQueue`: FQ-CoDel. One per lane of a peer (tunnel.paths.lanes); in a node one per client
                and address that sends to it (node.egress, without CoDel: decision 0019)
    pacer       `Pacer`: learns a way's rate from its acknowledgements. One per link (io.net.websocket, from
                TCP_INFO) and one per peer's path (tunnel.paths.feedback, from the peer's reports)
    turns       `Turns`, `Share`: deficit round robin over the work of an event loop (node, io.net.websocket)
    histogram   `Histogram`: counts of delays, for the metrics
    token_bucket `TokenBucket`: bytes a second, for a peer with a `rate` (tunnel.bounds)
    rate_limiter `RateLimiter`: a token bucket for each host or sender, for what strangers may cause

States of a pacer:

    unpaced --a queue stands--> draining --drained--> paced --steps up--> (a queue stands) draining
       ^                                                |
       +---- faster than MAX_RATE, or nobody takes what it offers

Specifications: FQ-CoDel RFC 8290, CoDel RFC 8289, ECN RFC 3168. Departures: only flows that hold items cost
memory; at the bound as little as needed is dropped from the fattest flow, not half of it; after an outage
`keep_newest` drops what its senders will have sent again. The pacer resembles BBR (pacing at an estimated
rate, probing for more) and departs from it: the rate is the one at which a queue drained, and only a standing
queue starts pacing, because a relay's own buffer hides loss.

- **flow**: what shares fairly with other flows; the caller numbers them (`ip.packet.flow_hash`).
- **sojourn**: how long an item stood in the queue. CoDel acts on it.
- **sparse** and **bulk** flow: one whose queue empties at each turn, and one whose queue stands.
- **standing queue**: one that does not empty within a round trip; only such a queue does harm.
- **quantum**: what a flow or source may have in one turn (bytes, or work counted in bytes).
- **base**: the round trip without a queue.

Another queueing rule goes beside `FairQueue`, with the same `enqueue`, `dequeue` and `on_drop`. A new reason
to drop is a `DropReason` in `nconnect.errors`.
"""
