"""The kernel's facts about a TCP connection that pacing needs (struct tcp_info of <linux/tcp.h>)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

_SIZE = 184  # up to and with tcpi_rwnd_limited: Linux 4.10
# By offset: 16 snd_mss, 24 unacked (packets), 68 rtt, 100 total_retrans (packets), 120 bytes_acked,
# 144 notsent_bytes, 148 min_rtt, 168 busy_time, 176 rwnd_limited; times in us.
_FIELDS = struct.Struct("=16xI4xI40xI28xI16xQ16xII16xQQ")


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Bytes and seconds."""

    acked_bytes: int
    in_flight_bytes: int
    unsent_bytes: int
    rtt_s: float
    retransmitted: int  # packets, in all
    min_rtt_s: float
    busy_s: float  # in all, how long something was unacknowledged
    receiver_limited_s: float  # in all, how long the receiver's window held us back


def read(sock: socket.socket) -> TcpInfo:
    """Read it once; raises OSError if the socket is not a TCP connection."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    mss, unacked, rtt_us, resent, acked, unsent, min_rtt_us, busy_us, limited_us = _FIELDS.unpack(data)
    return TcpInfo(
        acked,
        unacked * mss,
        unsent,
        rtt_us / 1e6,
        resent,
        min_rtt_us / 1e6,
        busy_us / 1e6,
        limited_us / 1e6,
    )
