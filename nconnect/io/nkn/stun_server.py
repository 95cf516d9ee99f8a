"""The node's two UDP ports for STUN. What is answered is `nconnect.node.stun`'s to say."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from nconnect.io.clock import boottime
from nconnect.io.net.listening import IP_PKTINFO, bind_udp
from nconnect.node.stun import StunServer
from nconnect.wire.stun import MAX_STUN_BYTES

# A datagram costs about 13 us here (measured), so that a flood of a port takes a twelfth of a core at most;
# what comes beyond it, the kernel drops. A client asks again.
READ_AT_ONCE = 64
_PAUSE_S = 0.01
_CONTROL_BYTES = socket.CMSG_SPACE(20)  # struct in6_pktinfo; in_pktinfo is shorter
_PKTINFO = {(socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)}
_Control = list[tuple[int, int, bytes]]


class StunPorts:
    """Two bound ports with one server behind them. `bind` may need rights; `start` and `close` need none."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.ports: tuple[int, ...] = tuple(s.getsockname()[1] for s in sockets)
        self.server = StunServer()
        self._sockets = list(sockets)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}

    @classmethod
    def bind(cls, host: str, ports: Sequence[int]) -> StunPorts:
        """Raises `HostError` in one line; then neither is bound."""
        sockets: list[socket.socket] = []
        try:
            for port in ports:
                sockets.append(bind_udp(host, port))
        except BaseException:
            for bound in sockets:
                bound.close()
            raise
        return cls(sockets)

    def start(self) -> None:
        """Answer from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        for each in self._sockets:
            self._read(each)

    def close(self) -> None:
        """May come twice, and before `start`."""
        while self._sockets:
            each = self._sockets.pop()
            if (timer := self._paused.pop(each, None)) is not None:
                timer.cancel()
            if self._loop is not None:
                self._loop.remove_reader(each)
            each.close()

    def status(self) -> dict[str, object]:
        """For `node status --json`."""
        drops = {why.value: count for why, count in self.server.drops.items()}
        return {"ports": list(self.ports), "answers": self.server.answers, "drops": drops}

    def _read(self, each: socket.socket) -> None:
        self._paused.pop(each, None)
        assert self._loop is not None
        self._loop.add_reader(each, self._on_readable, each)

    def _on_readable(self, each: socket.socket) -> None:
        assert self._loop is not None
        now = boottime()
        for _ in range(READ_AT_ONCE):
            try:
                data, control, _, source = each.recvmsg(MAX_STUN_BYTES + 1, _CONTROL_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an answer
            answer = self.server.answer(data, source[0], source[1], now)
            if answer is not None:
                self._send(each, answer, _from_where_it_came(control), source)
        self._loop.remove_reader(each)
        self._paused[each] = self._loop.call_later(_PAUSE_S, self._read, each)

    def _send(self, each: socket.socket, answer: bytes, control: _Control, source: tuple[str, int]) -> None:
        try:
            each.sendmsg([answer], control, 0, source)
        except OSError:
            self.server.unsent()  # the socket is full, or no way leads there


def _from_where_it_came(control: _Control) -> _Control:
    """Sends the answer from the address that was asked: a NAT drops what comes from another one.

    An in_pktinfo is index, address to send from, destination; an in6_pktinfo destination, index. The index
    is cleared: the answer may take another interface.
    """
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) == 12:
            return [(level, kind, bytes(4) + data[8:12] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == 20:
            return [(level, kind, data[:16] + bytes(4))]
    return []
