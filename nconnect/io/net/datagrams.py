"""The UDP socket of the direct path: runs of datagrams in one call each way, and a TTL for each.

One socket for each IP version serves all peers and STUN, so that a NAT has one mapping for all of them.

- Out: `send` hands the kernel a run of datagrams of one size (the last may be shorter) as one buffer, with
  UDP_SEGMENT (udp(7)). Where the interface cannot do that (EIO, EINVAL) the run is sent one by one from then
  on, until `route_changed`.
- In: UDP_GRO joins what arrived in a row from one source; each buffer comes with the size of its datagrams.
  Where equal datagrams come one by one, many are read in one call (`recvmmsg`).
- ECN (RFC 3168): `send` sets the bits, and `ecn` has those of the run that `receive` gave last. The kernel
  does not join datagrams whose bits differ.
- The path's MTU is the direct path's to find: IP_MTU_DISCOVER=PROBE sets DF and ignores what the kernel
  believes of the path. The route's own MTU still holds (EMSGSIZE).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from nconnect.io.net import listening
from nconnect.io.net.recvmmsg import Came, Recvmmsg, SocketAddress
from nconnect.model import Buffer, Endpoint

# linux/udp.h, linux/in.h, linux/in6.h, asm-generic/socket.h; Python has no names for them.
UDP_SEGMENT, UDP_GRO = 103, 104
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
IPV6_DONTFRAG = 62
SO_RXQ_OVFL, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 40, 32, 33
IP_RECVTOS, IPV6_RECVTCLASS = 13, 66
ECN_BITS = 3

PROMPT_BYTES = 512  # guessed: a datagram that small is a packet by itself, and no part of a transfer
Control = tuple[int, int, bytes]

MAX_RUN = 64  # datagrams of one call; 128 since Linux 6.9
BUFFER_BYTES = 7 << 20  # what the kernel may keep of what arrived; without rights it grants less
MANY_AFTER = 2  # guessed: so many equal datagrams came one by one: more will
_BUFFER = 1 << 16
_INT, _U16, _U32 = struct.Struct("@i"), struct.Struct("@H"), struct.Struct("@I")
_CONTROL_BYTES = 2 * socket.CMSG_SPACE(_INT.size) + socket.CMSG_SPACE(_U32.size)
_TOS = (socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
_NO_GSO = {errno.EIO, errno.EINVAL}


class Sent(Enum):
    """What became of a run of datagrams."""

    SENT = "sent"
    FULL = "full"  # the socket's buffer: dropped, as in any full queue
    TOO_BIG = "too_big"  # for the route's MTU
    REFUSED = "refused"  # no route, or a firewall of this machine

    __hash__ = object.__hash__  # the enum's own is Python, and is called for each run


_WHY = {errno.ENOBUFS: Sent.FULL, errno.EMSGSIZE: Sent.TOO_BIG}


class DatagramSocket:
    """A bound UDP socket of one IP version. Not blocking. `bind` it while there are rights: more buffer."""

    def __init__(self, bound: socket.socket) -> None:
        self.counts: Counter[Sent] = Counter()  # calls of `send`
        self.lost = 0  # datagrams that the kernel dropped since nobody read them
        self.port: int = bound.getsockname()[1]
        self._socket = bound
        self._is_v6 = bound.family == socket.AF_INET6
        self._gso = True
        self._to: Endpoint | None = None  # where the last datagram went
        self._address: tuple[str, int] = ("", 0)  # the same for the kernel
        self.ecn = 0  # of the datagrams that `receive` gave last
        self.is_dry = True  # whether `receive` read all that was there
        buffer = bytearray(8 * _BUFFER)
        self._arrived = memoryview(buffer)
        self._many = Recvmmsg(buffer, _CONTROL_BYTES)

    @classmethod
    def bind(cls, version: int, port: int) -> DatagramSocket:
        """For IP version 4 or 6; port 0: any. Raises `HostError` in one line."""
        return cls(listening.bind_direct(version, port, socket.SOCK_DGRAM, _set_options))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """May come twice."""
        self._socket.close()

    def route_changed(self) -> None:
        """Another interface may be able to segment."""
        self._gso = True

    def send(
        self,
        to: Endpoint,
        parts: Sequence[Buffer],
        segment: int = 0,
        *,
        ttl: int | None = None,
        ecn: int = 0,
    ) -> Sent:
        """Send `parts`, one after another, as datagrams of `segment` bytes; 0: they are one datagram.

        At most MAX_RUN datagrams and 65,507 bytes. `ecn`: these bits of the IP header. Never raises.
        """
        control = [] if ttl is None else [self._ttl(ttl)]
        if ecn:
            control.append((*_TOS[self._is_v6], _INT.pack(ecn)))
        if to is not self._to:  # an address takes 1 us to hash
            self._to, self._address = to, _address(to)
        found = Sent.SENT
        try:
            if not segment:
                self._socket.sendmsg(parts, control, 0, self._address)
            elif self._gso:
                with_segment = [*control, (socket.IPPROTO_UDP, UDP_SEGMENT, _U16.pack(segment))]
                self._socket.sendmsg(parts, with_segment, 0, self._address)
            else:
                self._one_by_one(parts, segment, control)
        except BlockingIOError:
            found = Sent.FULL
        except OSError as error:
            if segment and self._gso and error.errno in _NO_GSO:
                self._gso = False
                return self.send(to, parts, segment, ttl=ttl, ecn=ecn)
            found = _WHY.get(error.errno or 0, Sent.REFUSED)
        self.counts[found] += 1
        return found

    def _one_by_one(self, parts: Sequence[Buffer], segment: int, control: list[Control]) -> None:
        whole = memoryview(b"".join(parts))
        for at in range(0, len(whole), segment):
            self._socket.sendmsg([whole[at : at + segment]], control, 0, self._address)

    def _ttl(self, ttl: int) -> Control:
        if self._is_v6:
            return socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INT.pack(ttl)
        return socket.IPPROTO_IP, socket.IP_TTL, _INT.pack(ttl)

    def receive(self, reads: int, most_bytes: int = 1 << 20) -> Iterator[tuple[Endpoint, memoryview, int]]:
        """(source, datagrams, size of each but the last) of what has arrived, in at most `reads` reads.

        What came in a row from one source in equal datagrams is one run, also where the kernel did not join
        it. The view is borrowed until the next one, and never empty. Ends when nothing is there, which
        `is_dry` says, or after `most_bytes`. Use all that it gives: it reads ahead. After a run of several it
        looks again: the rest of a super-packet may have come while the run was dealt with. A first datagram
        that is small does not wait for a look for more.
        """
        arrived, receive = self._arrived, self._socket.recvmsg_into
        start = end = segment = 0  # of the run so far
        alone = 0  # equal datagrams in a row that the kernel did not join
        ahead: deque[Came] = deque()  # read, and not part of the run
        source: SocketAddress = ("", 0)
        self.is_dry = False
        prompt = True
        while reads > 0 or ahead:
            reads -= 1
            if alone >= MANY_AFTER and not ahead:
                most = (len(arrived) - _BUFFER - end) // segment
                sizes = self._receive_many(end, segment, most, source, ahead)
                if sizes:
                    most_bytes -= sum(sizes)
                    if sizes.count(segment) < len(sizes):  # runs end within: the rest are runs as they lie
                        place = end
                        for size in sizes:
                            if size != segment:
                                own = segment if place > start else size
                                yield _endpoint(source[0], source[1]), arrived[start : place + size], own
                                start = place + segment
                            place += segment
                    end += len(sizes) * segment
                if end + _BUFFER > len(arrived):
                    if end > start:
                        yield _endpoint(source[0], source[1]), arrived[start:end], segment
                    start = end = 0
                    if ahead or not sizes:
                        segment = alone = 0
                elif start == end and not ahead:
                    start = end = 0
                if sizes:
                    if most_bytes <= 0 and not ahead:
                        break
                    continue
            try:
                if ahead:
                    data, control, address = ahead.popleft()
                    size = len(data)
                    arrived[end : end + size] = data
                else:
                    size, control, _, address = receive([arrived[end : end + _BUFFER]], _CONTROL_BYTES)
            except BlockingIOError:
                if end - start > segment:
                    yield _endpoint(source[0], source[1]), arrived[start:end], segment
                    start = end = segment = alone = 0
                    continue
                self.is_dry = True
                break
            except OSError:  # an ICMP error of an earlier datagram
                continue
            if not size:
                continue  # an empty datagram, which nobody of ours sends
            own, ecn = self._told(control, size)
            fits = own == segment or own == size <= segment
            if start == end or source != address or ecn != self.ecn or not fits:
                if end > start:
                    yield _endpoint(source[0], source[1]), arrived[start:end], segment
                start, source, segment, self.ecn = end, address, own, ecn
            end += size
            if (end - start) % segment or end + _BUFFER > len(arrived) or (prompt and size < PROMPT_BYTES):
                yield _endpoint(source[0], source[1]), arrived[start:end], segment
                start = end = segment = 0
            alone = alone + 1 if own == size == segment else 0
            prompt = False
            most_bytes -= size
            if most_bytes <= 0 and not ahead:
                break
        if end > start:
            yield _endpoint(source[0], source[1]), arrived[start:end], segment

    def _told(self, control: Iterable[Control], size: int) -> tuple[int, int]:
        """What the kernel says of `size` bytes: the size of each datagram in them, the ECN bits."""
        own, ecn = size, 0
        for level, kind, value in control:
            if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO):
                own = _INT.unpack(value[: _INT.size])[0]
            elif (level, kind) in _TOS:
                ecn = (_INT.unpack(value)[0] if len(value) == _INT.size else value[0]) & ECN_BITS
            elif (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL):
                self.lost = _U32.unpack(value)[0]
        return own, ecn

    def _receive_many(
        self, at: int, segment: int, most: int, source: SocketAddress, ahead: deque[Came]
    ) -> Sequence[int]:
        """Go on with a run of datagrams of `segment` bytes in one call: the sizes of those that were added.

        Each has a place of `segment` bytes; one that is smaller ends a run, and the next begins another.
        What came behind these and is not alike is put into `ahead`.
        """
        sizes, first, others = self._many.receive(self._socket.fileno(), at, segment, most)
        if first is not None:
            _, control, address = first
            if address != source or self._told(control, segment) != (segment, self.ecn):
                for n, size in enumerate(sizes):
                    place = at + n * segment
                    ahead.append((bytes(self._arrived[place : place + size]), control, address))
                sizes = ()
        ahead.extend(others)
        return sizes


@lru_cache(maxsize=1024)  # the text of an IPv6 address takes 5 us
def _address(to: Endpoint) -> tuple[str, int]:
    return str(to.address), to.port


@lru_cache(maxsize=1024)
def _endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(ip_address(host.partition("%")[0]), port)


def _set_options(made: socket.socket) -> None:
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        made.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    with contextlib.suppress(OSError):  # before Linux 5.0
        made.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    for forced, asked in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            made.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, asked, BUFFER_BYTES)
