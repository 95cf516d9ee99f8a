"""The numbers of streams inside a session. Guessed, unless it says otherwise."""

from __future__ import annotations

WINDOW_BYTES = 4 << 20  # the same as NCP's
LEAST_WINDOW_BYTES = 64 << 10
UNACKED_BYTES = 32 << 20  # of one peer's streams together: each has a smaller window where there are many
MIN_DATA_BYTES = 1200  # of a frame, however slow the path is
MAX_QUEUED_BYTES = 192 << 10  # of one stream in the send queue: three frames
QUEUED_UNITS = 3  # and no more than so many of a slow lane's units, 4 ms each
MAX_PULL_BYTES = 512 << 10  # put into the send queue at once: two batches

MAX_STREAMS = 4096  # of one peer, those that are about to be forgotten included
MAX_LOOSE = 64  # frames of no stream that wait to be sent
MAX_RESETS_PER_S = 32  # to one peer, for frames of streams that we do not know
MAX_DATAGRAMS = 256  # of one peer that wait to be sent

OPEN_RETRY_S = (0.5, 1.0, 2.0)  # the last one repeats
OPEN_S = 10.0
ACK_S = 0.010
READ_S = 0.050  # until a read alone is told
MIN_RTO_S = 0.4
REORDER_S = 0.050  # several lanes, and a batch that waits for its turn
IDLE_S, PROBE_S = 30.0, 10.0  # nothing heard: ask, and again
FULL_S = 1.0  # the other side has no room: ask whether it has some now
GONE_S, GONE_PROBES = 120.0, 3
LINGER_S = 30.0  # a close waits so long without progress
FORGET_S = 10.0  # a closed stream answers what comes late
