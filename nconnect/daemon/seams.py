"""What the driver stands between: the machine's packets on one side, links to NKN nodes on the other.

Protocols, so that either side can be another: a device in a user namespace that was handed over as
descriptors, a link that is no websocket, a test's socket pair.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from nconnect.io.system.host import Host
from nconnect.io.system.monitor import Monitor
from nconnect.model import Buffer, Endpoint
from nconnect.offers.name_codec import Names
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.tunnel import Feature


class Device(Protocol):
    """Packets of this machine (`nconnect.io.system.tun.Tun` is one).

    A read or write of a descriptor is one packet: a 10-byte virtio-net header (<linux/virtio_net.h>, little
    endian) and an IP packet. The descriptors do not block, and stay the same as long as the device is open.
    """

    fds: list[int]  # all are read; written is to one of them, at first `fds[0]`
    features: Feature  # what it takes and gives

    def index(self) -> int:
        """Its interface index; 0 when it is gone from this network namespace."""

    def renew(self) -> None:
        """Make it again on the same descriptors, after somebody deleted it. Blocks; raises `HostError`."""

    def close(self) -> None:
        """Give it up, and its addresses and routes with it."""


class NameHost(Protocol):
    """Who has this machine resolve names of peers: the helper, which is root (`nconnect.io.process.helper`).

    Both block, and raise `HostError`.
    """

    def put_names(self, known: Names) -> bytes:
        """Have exactly these names resolved; how: a letter of `io.process.name_keeper`."""

    def name_server(self) -> socket.socket:
        """The socket on which the names are asked for, when they were given to systemd-resolved."""


class TunnelNetwork(Protocol):
    """Where the tunnel's interface is: in this machine's network, or in a namespace of an ordinary user."""

    @property
    def device(self) -> Device:
        """The TUN."""

    @property
    def host(self) -> Host:
        """Sets addresses, routes and rules there."""

    @property
    def names(self) -> NameHost | None:
        """None: nobody resolves names there."""

    @property
    def listen(self) -> Callable[[int], socket.socket] | None:
        """Makes a TCP socket there for a port of this machine, and blocks; None: it is this machine's."""

    @property
    def is_apart(self) -> bool:
        """Whether the daemon's own links and sockets are in another network."""

    @property
    def problem(self) -> str:
        """A sentence for `status`; "" when there is none."""

    def monitor(self) -> Monitor:
        """The changes around the interface."""

    def close(self) -> None:
        """Give up the device, and what goes with it."""


class StunSource(Protocol):
    """Who asks STUN servers from the sockets of direct paths (`nconnect.daemon.reflexive` is one)."""

    @property
    def sources(self) -> Collection[Endpoint]:
        """The servers that are asked at the moment."""

    def received(self, source: Endpoint, run: memoryview, segment: int, now: float) -> bool:
        """Take datagrams of `segment` bytes that came in a row from one of `sources`; False: no answers."""


class DriverLink(Protocol):
    """What the driver needs of a link (`nconnect.io.nkn.link.LinkRunner` is one)."""

    on_message: Callable[[InboundMessage], None]  # set by the driver: called with each message
    on_writable: Callable[[], None]  # set by the driver: called when `writable` is True again

    @property
    def writable(self) -> bool:
        """Up, and the socket takes data."""

    @property
    def room(self) -> int:
        """How many bytes the link takes now without a queue; may be exceeded by one packet."""

    @property
    def rate(self) -> float | None:
        """Bytes a second that the link is paced at; None when it is faster than we are."""

    @property
    def signs(self) -> bool:
        """Whether its node wants each message signed."""

    def is_clear(self) -> bool:
        """Whether what is sent now leaves at once: `writable`, and not paced."""

    def is_backlogged(self) -> bool:
        """Whether more has arrived than was handed on."""

    def send(self, dest: str, parts: Sequence[Buffer]) -> bool:
        """One NKN message to `dest`, made of `parts`, which may be reused when this returns.

        False when the link is down.
        """


class DriverStream(DriverLink, Protocol):
    """What the driver needs of a direct TCP stream (`nconnect.io.net.stream_link.StreamLink` is one)."""

    peer: str  # the NKN address of who is at the other end
