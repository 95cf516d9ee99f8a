"""NKN's sessions: reliable streams between two clients, carried by their messages (protocol NCP). Pure.

    nconnect.sdk.streams (the shell: links, timers, asyncio)
       |  feed: dial, receive, write, read, end, close, abort, pair_is_down, handle_timeout
       |  do:   next_packet() until None, then handle_timeout at poll_timeout()
       v
    sessions.NcpSessions    the table of a client: accept list, bounds, ids that were used
       `-- session.NcpSession, one each       handshake, probes, the end
             |-- receiving.NcpReceiver        order, acknowledgements, what is not read yet
             |-- sending.NcpSender            packets, runs, losses, limits
             |     `-- pairs.SubClientPair    one way to the other side: its window and its times
             `-- memory.StreamMemory          of all sessions together
    nconnect.wire.ncp       the bytes of a packet

States of a session (`session.NcpState`):

    DIALLING -> OPEN -> CLOSING -> CLOSED      CLOSING: closed here, what was written is on its way
        `---------`-----------------^          by abort, by the other side's close packet, by its silence

A session whose state is CLOSED sends its close packets (`is_over` when they are out) and keeps what was
received until it is read. `why` is empty after a proper end.

Specification: ncp-go and ncp-js, which agree on the wire. What differs here, without harm to official clients
(docs/decisions/0040-streams.md has the reasons):

- a handshake is repeated until it is answered, and an answer until it was heard;
- packets are dealt to the pairs in runs, acknowledgements are merged and travel with data;
- what was lost is sent again with a growing wait, and what is in flight shrinks when packets are lost;
- a close waits until the other side's application has read everything; what came before its close packet can
  still be read; a stream that ended early is an error;
- a side that is silent is asked: a packet that was received before is acknowledged again by all clients;
- two of ours also tell each other where one direction ends (`FEATURE_END`), so one can end before the other;
- memory is bounded, sessions are forgotten, and ids that were used are refused.

- **pair**: a sub-client of ours and one of the other side's, between which packets travel.
- **count**: which data packet of its session it is, from 0; a **sequence** is what the wire says for it.
- **run**: packets one after another over the same pair.

To add something that only our clients understand: a bit beside `wire.ncp.FEATURE_END`, sent in the handshake;
use it only if the other side named it too.
"""
