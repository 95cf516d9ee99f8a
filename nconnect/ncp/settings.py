"""What a session is made with, and the times of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

STREAM_WINDOW_BYTES = 4 << 20  # the official SDKs' sessionWindowSize
STREAM_MTU_BYTES = (
    60_000  # guessed: a sealed message costs about as much as 8 KiB of it; 24 ms of a 20 Mbit/s link
)
OFFICIAL_MTU_BYTES = 1024
MAX_MTU_BYTES = 3_900_000  # under the network's 4,000,000 bytes for a message
MIN_WINDOW_BYTES = 1024

HANDSHAKE_S = 1.0  # until the handshake is sent again; doubles up to 4 s
ACK_S = 0.020  # the official SDKs wait 50 ms
READ_S = 0.050  # until a read alone is told; the official SDKs wait 200 ms

FIRST_RTO_S = 3.0  # the official SDKs begin with 5 s
# Official receivers acknowledge at most 32 ranges each 50 ms: what waits there must not be sent again.
MIN_RTO_S, MIN_OFFICIAL_RTO_S, MAX_RTO_S = 0.6, 2.0, 10.0
REORDER_S = 0.3  # a packet is lost if one sent so much later over the same pair was acknowledged

IDLE_S = 20.0  # nothing heard: ask whether the other side lives
PROBE_S = 5.0
GONE_S = 40.0  # silent for so long, although asked at least `GONE_PROBES` times
GONE_PROBES = 3

GRACE_S = (
    3.0  # after a close packet nothing new came for so long: what was sent before it over other pairs is lost
)
LINGER_S = 30.0  # a close waits so long without any progress of the reader


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """One side's settings; the smaller MTU and window of the two sides count for what is sent."""

    mtu: int = STREAM_MTU_BYTES
    window: int = STREAM_WINDOW_BYTES
    linger_s: float = LINGER_S
