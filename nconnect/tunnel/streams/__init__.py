"""Streams inside the session with a peer: TCP without a TUN on this side. Pure.

    nconnect.daemon.session_streams (the shell)      nconnect.daemon.stream_acceptor (dials targets)
       |  open, write, read, end, close, abort            ^ StreamAsked, StreamMoved, DatagramCame
       v                                                  |
    table.StreamTable           all peers': who has which, limits, timers
       `-- stream.TunnelStream, one each        opening, credit, the end
             |-- nconnect.ncp.receiving         order, acknowledgements, what is not read yet
             `-- nconnect.ncp.sending           what is unacknowledged, losses
    nconnect.wire.tunnel_streams    the bytes of a frame

A frame is the body of a packet record, so it goes through the same send queue as packets (as a flow of its
own for each stream), is bounded by the same rate, counted in the same usage, and takes whatever path the
tunnel has. `send_queue.SendQueue` pulls frames, so that of each stream only a little waits in the queue
(`MAX_QUEUED_BYTES`), and the delay there stays short. On the way in `receiver.check_sources` gives frames to
`StreamTable.receive`.

States of a stream (`stream.StreamState`):

    ASKED --accepted--> OPEN --both directions ended, all acknowledged--> CLOSED
      `--refused, no answer in 10 s----`--reset, silence of 120 s, the session's end--^ (with `why`)

Paths may lose and reorder frames: data is acknowledged and sent again (the machines of `nconnect.ncp`),
OPEN is repeated until it is answered, a stream that is silent is asked. RESET is not repeated: who sends more
to a stream that is gone gets another one.

Credit: a side announces a window when the stream opens, and says with each acknowledgement how much its
program has read. What was received and not read is bounded by the window, and for a peer and in all by
`ncp.memory.StreamMemory`; what is beyond is dropped, and is not acknowledged. Ids are counted up by the
opener, so a frame of an old stream meets no new one.
"""
