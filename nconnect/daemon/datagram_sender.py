"""The UDP sockets of direct paths, as the driver sends by them: what was not sent is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from nconnect.errors import DropReason
from nconnect.io.net.datagrams import DatagramSocket, Sent
from nconnect.model import Buffer, Endpoint
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import SendDatagram
from nconnect.tunnel.peer import Peer

_REFUSED = {
    Sent.FULL: DropReason.QUEUE_FULL,
    Sent.TOO_BIG: DropReason.TOO_BIG,
    Sent.REFUSED: DropReason.LINK_DOWN,
}


class DatagramSender:
    """Sends for all peers."""

    def __init__(
        self, tunnel: Tunnel, sockets: Mapping[int, DatagramSocket], drops: Counter[DropReason]
    ) -> None:
        """`sockets`: by IP version. `drops`: where to count what is no peer's packet."""
        self.sockets = dict(sockets)
        self._to: Endpoint | None = None  # where a packet went last, and by which socket
        self._by: DatagramSocket | None = None
        self._tunnel = tunnel
        self._drops = drops

    def use(self, sockets: Mapping[int, DatagramSocket]) -> None:
        """Send by these from now on."""
        self.sockets = dict(sockets)
        self._to = self._by = None

    def send_runs(self, peer: Peer, runs: Iterator[tuple[tuple[Buffer, ...], int]], now: float) -> None:
        """Packets of a peer that go by its direct path."""
        path = peer.datagrams
        to = None if path is None else path.machine.remote
        if to is not self._to:  # to ask an address for its version is a call
            self._to = to
            self._by = None if to is None else self.sockets.get(to.address.version)
        datagrams = self._by
        for parts, segment in runs:
            if datagrams is None or to is None or path is None:
                sent = Sent.REFUSED
            else:
                sent = datagrams.send(to, parts, segment, ecn=path.ecn)
            if sent is Sent.TOO_BIG:
                self._tunnel.datagram_too_big(peer, segment or sum(map(len, parts)), now)
            if sent is not Sent.SENT:
                peer.drops[_REFUSED[sent]] += 1

    def send(self, output: SendDatagram) -> None:
        """What the core asks for: probes, their answers, reports."""
        datagrams = self.sockets.get(output.to.address.version)
        if datagrams is None:
            self._drops[DropReason.LINK_DOWN] += 1
        elif (sent := datagrams.send(output.to, output.parts, output.segment, ttl=output.ttl)) is Sent.FULL:
            self._drops[_REFUSED[sent]] += 1  # all else is what probes are for
