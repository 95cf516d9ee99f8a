"""Chooses the congestion control of a link's TCP: the system's, but not BBR on very short paths.

BBR uses a timer for each burst. Between two processes, or two machines of one network, the timers then
limit the rate, and not the path, which costs a third of it (docs/decisions/0012).
"""

from __future__ import annotations

import socket

from nconnect.io.net.tcp_info import TcpInfo

# A shorter round trip is one machine or one room, where nothing is lost but what overflows …
LOCAL_RTT_S = 0.001
LOSSES = 10  # … and where more packets had to be sent again, it is not: guessed
RENO = b"reno"  # what everybody may choose, without any right
_BBR = b"bbr"


class CongestionControl:
    """For one connection; call `look` from time to time with the kernel's TCP_INFO."""

    __slots__ = ("_changed", "_done", "_resent_before")

    def __init__(self) -> None:
        self._changed = False
        self._done = False
        self._resent_before = 0

    def look(self, sock: socket.socket, info: TcpInfo) -> None:
        """Change to `RENO` on a short path, and back if packets are lost there; once each."""
        if self._done:
            return
        try:
            if not self._changed:
                if info.min_rtt_s < LOCAL_RTT_S:
                    self._change(sock, info)
            elif info.retransmitted - self._resent_before > LOSSES:
                self._done = True
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _BBR)
        except OSError:
            self._done = True  # not an error: it affects speed only

    def _change(self, sock: socket.socket, info: TcpInfo) -> None:
        self._changed, self._resent_before = True, info.retransmitted
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == _BBR:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, RENO)
        else:
            self._done = True
