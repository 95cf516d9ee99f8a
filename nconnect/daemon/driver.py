"""The hot loop: packets from the device into the tunnel core and out over a link, and back.

The core decides; the driver reads into buffers that are reused, calls the core, writes, and arms one timer.
A byte is copied between device and websocket exactly twice on each side: by the kernel (read or write of
the device, send or receive of the socket), and by the cipher. A packet that has to wait is copied twice more,
into its queue and out of it.

Each callback has a budget, so that device, links and timers take turns.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import MappingProxyType

from nconnect.daemon.datagram_sender import DatagramSender
from nconnect.daemon.events import ConfigChanged
from nconnect.daemon.inflow import TURN_PACKETS, Inflow
from nconnect.daemon.seams import Device, DriverLink, DriverStream, StunSource
from nconnect.errors import DropReason
from nconnect.host.offered import provides
from nconnect.io.clock import boottime
from nconnect.io.net.datagrams import DatagramSocket
from nconnect.ip import offload
from nconnect.ip.gro import MAX_DATAGRAM_BYTES, NO_RECORD, Run
from nconnect.ip.packet import IPV4_HEADER_BYTES
from nconnect.tunnel.constants import BATCH_BYTES, MAX_BATCH_BYTES
from nconnect.tunnel.core import SEAL_BYTES, Tunnel
from nconnect.tunnel.outputs import Deliver, DirectChanged, Output, Send, SendDatagram, SessionUp
from nconnect.tunnel.paths.datagrams import UDP_LINK
from nconnect.tunnel.paths.lanes import Lane
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.receiver import no_leg
from nconnect.tunnel.timers import NEVER
from nconnect.wire.nkn import InboundMessage
from nconnect.wire.tunnel import (
    MAX_LINKS,
    MAX_PACKET_BODY_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    VIRTIO_HEADER_BYTES,
    Feature,
)

# Measured on two cores: fewer packets a turn cost rate when UDP floods, more let the links wait over 1 ms.
TUN_BUDGET_PACKETS = 256
DATAGRAM_READS, DATAGRAM_BYTES = 256, 1 << 20  # guessed: what is read of direct paths in one turn of the loop
PROMPT_BYTES = 2048  # a message that small holds a packet or two, not a transfer
SPARSE_S = 0.001  # guessed: a small packet so long after the last turn is alone
FLOOD_PACKETS = 128  # guessed: flows that are answered come as super-packets, so many do not fill a turn
_STAY_S = 1.0  # guessed: a move may put packets out of order, once
_ALL = Feature.ALL  # an enum's member costs a look-up in its class
_LATE_BYTES = 128 << 10  # guessed: so much waited by UDP; 20 ms at 50 Mbit/s
_LATE_S = 0.05  # guessed: three reports

_AT = RECORD_HEADER_BYTES + VIRTIO_HEADER_BYTES  # where the IP header begins in a record
_LEAST_BYTES = VIRTIO_HEADER_BYTES + IPV4_HEADER_BYTES
_DST4, _DST4_END = _AT + 16, _AT + 20
_DST6, _DST6_END = _AT + 24, _AT + 40


class Driver:
    """Joins one device, one tunnel core and its links. Lives in the loop's thread."""

    def __init__(
        self,
        device: Device,
        tunnel: Tunnel,
        links: Sequence[DriverLink],
        publish: Callable[[Output], None],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = boottime,
        leg_s: Callable[[int], float | None] = no_leg,
        datagrams: Mapping[int, DatagramSocket] = MappingProxyType({}),
        stun: StunSource | None = None,
    ) -> None:
        """`links` by number. `publish` takes the core's outputs that are no packets. `leg_s`: a link's round
        trip to its node. `datagrams`: the sockets of direct paths, by IP version. `stun` takes the
        answers of the servers that it asks from these."""
        self.drops: Counter[DropReason] = Counter()
        self._device = device
        self._tunnel = tunnel
        self._links = tuple(links)
        self._streams: dict[int, DriverStream] = {}  # direct TCP streams, by the numbers after the links'
        self._by_number: dict[int, DriverLink] = dict(enumerate(self._links))
        self._came_by: DriverStream | None = None  # the stream of the message that is being handled
        for one in self._links:
            one.on_message, one.on_writable = self.on_message, self.flush
        self._publish = publish
        self._loop = loop
        self._clock = clock
        self._leg_s = leg_s
        self._datagrams = DatagramSender(tunnel, datagrams, self.drops)
        self._stun = stun
        self._arena = bytearray(MAX_BATCH_BYTES)
        self._arena_view = memoryview(self._arena)
        self._run = Run(self._arena)
        self._sealed = memoryview(bytearray(len(self._arena) + SEAL_BYTES))
        self._opened = memoryview(bytearray(MAX_BATCH_BYTES))
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._send_at = NEVER  # when what the last flush left behind may be sent
        self._late_at = -NEVER  # when there was more in the TUN than one turn reads
        self._turn_at = -NEVER  # when the TUN was last read
        self._writer = TunWriter(device, loop, self.drops)

    def start(self) -> None:
        """Begin to read the TUN, and to keep the core's timers."""
        self.read_on()
        self._read_datagrams()
        self.drain()

    def stop(self) -> None:
        """Read no more, and tell the peers that we go; device and links stay open."""
        for fd in self._device.fds:
            self._loop.remove_reader(fd)
        for datagrams in self._datagrams.sockets.values():
            self._loop.remove_reader(datagrams.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._writer.stop()  # nothing is written after this
        self._tunnel.close(self._clock())
        self.drain()

    def read_on(self) -> None:
        """Begin to read all queues of the TUN, also after it was deleted under us, and made again."""
        for fd in self._device.fds:
            self._loop.remove_reader(fd)
            self._loop.add_reader(fd, self._on_tun_readable, fd)

    def _is_late(self) -> bool:
        """Whether packets wait for us on either side: then times that we measure say little about a path."""
        return (
            self._clock() - self._late_at < _LATE_S
            or any(link.is_backlogged() for link in self._links)
            or (self._came_by is not None and self._came_by.is_backlogged())
        )

    # To the network

    def _on_tun_readable(self, fd: int) -> None:
        """Read what is in this queue into one batch; send it at once when nothing stands in the way.

        A small packet after a pause leaves without a look for more: should there be more, it is another turn.
        A datagram like the one before it joins its record (`nconnect.ip.gro`): the payload moves up.
        """
        now = self._clock()
        sparse = now - self._turn_at > SPARSE_S
        self._turn_at = now
        arena, view = self._arena, self._arena_view
        tunnel = self._tunnel
        routes = tunnel.routes
        cached = routes.cache.get
        readv, pack_into = os.readv, RECORD_HEADER.pack_into
        records: list[tuple[Peer, int, int]] = []
        at, reads = 0, 0
        first: Peer | None = None
        single = True
        run = self._run
        run.size, run.count = NO_RECORD, 1
        try:
            for _ in range(TUN_BUDGET_PACKETS):
                start = at + RECORD_HEADER_BYTES
                size = readv(fd, (view[start : start + MAX_PACKET_BODY_BYTES],))
                reads += 1
                if (
                    size == run.size
                    and size <= MAX_DATAGRAM_BYTES
                    and records[-1][0].path.features == _ALL
                    and run.extend(start)
                ):
                    at = run.end
                    if at >= BATCH_BYTES:
                        self._late_at = now
                        break
                    continue
                version = arena[at + _AT] >> 4
                if size < _LEAST_BYTES:
                    self.drops[DropReason.BAD_PACKET] += 1
                    continue
                if version == 4:
                    destination = bytes(view[at + _DST4 : at + _DST4_END])
                elif version == 6:
                    destination = bytes(view[at + _DST6 : at + _DST6_END])
                else:
                    self.drops[DropReason.BAD_PACKET] += 1
                    continue
                peer = cached(destination)
                if peer is None:
                    peer = routes.owner(destination)
                    if peer is None:
                        self.drops[DropReason.NO_ROUTE] += 1
                        continue
                if peer is not first:
                    single = first is None
                    first = peer
                if run.count > 1:
                    self._joined(records)
                pack_into(arena, at, size)
                records.append((peer, start, start + size))
                run.start, run.size = start, size
                at = start + size
                if at >= BATCH_BYTES:
                    self._late_at = now
                    break
                if sparse and at < PROMPT_BYTES:
                    break
            else:
                self._late_at = now
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno == errno.EBADFD:  # deleted: it would be readable for ever (see `read_on`)
                self._loop.remove_reader(fd)
            elif error.errno != errno.EIO:  # the interface is down
                raise
        if first is not None:
            if run.count > 1:
                self._joined(records)
            if tunnel.translates:
                tunnel.translate(records, view)
            lane = first.path.lane
            if lane.link == UDP_LINK:
                if single and tunnel.may_bypass(first, at, now):
                    self._datagrams.send_runs(first, tunnel.seal_datagrams(first, view[:at], now), now)
                    tunnel.sent(first, lane, at, now, len(records))
                else:
                    self._enqueue(records, now)
            else:
                link = self._by_number[lane.link]
                tunnel.link_signs[lane.link] = link.signs
                if single and link.is_clear() and tunnel.may_bypass(first, at, now):
                    prefix, n = tunnel.seal(first, view[:at], self._sealed, lane)
                    link.send(lane.dest, (prefix, self._sealed[:n]))
                    if first.datagrams is not None and first.datagrams.doubles:
                        self._datagrams.send_runs(first, tunnel.seal_copies(first, view[:at], now), now)
                    tunnel.sent(first, lane, at, now, len(records))
                else:
                    self._enqueue(records, now)
            if reads >= FLOOD_PACKETS and fd == self._writer.fd:
                self._writer.make_way(now)
        if tunnel.outputs or tunnel.backlog or tunnel.next_at() != self._timer_at:
            self.drain()

    def _enqueue(self, records: list[tuple[Peer, int, int]], now: float) -> None:
        for peer, start, end in records:
            self._tunnel.enqueue(peer, self._arena[start:end], now)
        self._flush(now)

    def _joined(self, records: list[tuple[Peer, int, int]]) -> None:
        """The last record is a super-packet now."""
        start, end = self._run.finish()
        records[-1] = records[-1][0], start, end
        RECORD_HEADER.pack_into(self._arena, start - RECORD_HEADER_BYTES, end - start)

    def flush(self) -> None:
        """Send what waits: the link takes data again, or a session is up."""
        self._flush(self._clock())
        self.drain()

    def send_frames(self) -> None:
        """Programs have used streams: send what is due."""
        self._tunnel.handle_timeout(self._clock())
        self.flush()

    def _flush(self, now: float) -> None:
        tunnel = self._tunnel
        for number, link in enumerate(self._links):
            tunnel.link_rates[number] = link.rate
            tunnel.link_signs[number] = link.signs and link.writable
        ready = list(enumerate(self._links))
        while ready and tunnel.backlog:
            for turn in tuple(ready):  # a batch each: what is striped goes over all that are free
                number, link = turn
                batch = tunnel.next_batch(self._arena, now, link.room, number) if link.writable else None
                if batch is None:
                    ready.remove(turn)
                    continue
                self._send_batch(batch, link, now)
        if self._streams and tunnel.backlog:
            self._flush_streams(now)
        while tunnel.backlog and self._datagrams.sockets:
            batch = tunnel.next_batch(self._arena, now, link=UDP_LINK)
            if batch is None:
                break
            peer, size, _, lane = batch
            self._datagrams.send_runs(peer, tunnel.seal_datagrams(peer, self._arena_view[:size], now), now)
            tunnel.sent(peer, lane, size, now)
        # By the same clock: what had to wait until a moment later waits for nothing by now, and for no timer.
        self._send_at = tunnel.next_send_at(now) if tunnel.backlog else NEVER

    def _flush_streams(self, now: float) -> None:
        """A batch each, of the peers that have a stream."""
        tunnel = self._tunnel
        ready = []
        for peer in tunnel.backlog:
            lane = peer.relayed.lanes.stream
            if lane is not None and (link := self._streams.get(lane.link)) is not None:
                tunnel.link_rates[lane.link] = link.rate
                ready.append((peer, lane.link, link))
        while ready:
            for turn in tuple(ready):
                peer, number, link = turn
                batch = None
                if link.writable and peer in tunnel.backlog:
                    batch = tunnel.next_batch(self._arena, now, link.room, number, peer)
                if batch is None:
                    ready.remove(turn)
                else:
                    self._send_batch(batch, link, now)

    def _send_batch(self, batch: tuple[Peer, int, int, Lane], link: DriverLink, now: float) -> None:
        tunnel = self._tunnel
        peer, size, _, lane = batch
        prefix, n = tunnel.seal(peer, self._arena_view[:size], self._sealed, lane)
        link.send(lane.dest, (prefix, self._sealed[:n]))
        if lane.link < MAX_LINKS and peer.datagrams is not None and peer.datagrams.doubles:
            self._datagrams.send_runs(peer, tunnel.seal_copies(peer, self._arena_view[:size], now), now)
        tunnel.sent(peer, lane, size, now)

    # From the network

    def on_message(self, message: InboundMessage) -> None:
        """An NKN message from a link; its payload is borrowed."""
        payload = message.payload
        view = payload if isinstance(payload, memoryview) else memoryview(payload)
        packets = self._tunnel.receive(message.src, view, self._opened, self._clock())
        if packets:
            self._writer.write(self._tunnel.receiver.opened_from, packets)
        self._tunnel.received(self._is_late, self._leg_s)
        if packets and len(view) < PROMPT_BYTES:
            # The kernel has answered a ping or a SYN already: send that before the loop's next turn.
            self._on_tun_readable(self._writer.fd)
        else:
            self.drain()

    def add_stream(self, link: DriverStream) -> bool:
        """A direct TCP stream is open: use it from now on. False if its peer has no session, or is gone."""
        number = next(n for n in count(MAX_LINKS) if n not in self._streams)
        if not self._tunnel.stream_opened(link.peer, number, self._clock()):
            return False
        self._streams[number] = self._by_number[number] = link

        def on_message(message: InboundMessage) -> None:
            self._came_by = link
            self.on_message(message)
            self._came_by = None

        link.on_message, link.on_writable = on_message, self.flush
        self.flush()
        return True

    def drop_stream(self, link: DriverStream) -> None:
        """A stream is closed, or about to be: its flows continue elsewhere. `flush` should follow."""
        for number in [n for n, each in self._streams.items() if each is link]:
            del self._streams[number], self._by_number[number]
            self._tunnel.stream_closed(link.peer, number, self._clock())

    def set_datagrams(self, datagrams: Mapping[int, DatagramSocket]) -> None:
        """Use these sockets for direct paths from now on, by IP version; the old ones may then be closed."""
        for old in self._datagrams.sockets.values():
            self._loop.remove_reader(old.fileno())
        self._datagrams.use(datagrams)
        self._read_datagrams()

    def _read_datagrams(self) -> None:
        for datagrams in self._datagrams.sockets.values():
            self._loop.add_reader(datagrams.fileno(), self._on_datagrams, datagrams)

    def _on_datagrams(self, datagrams: DatagramSocket) -> None:
        """Read what has come from peers by a direct path, and write it to the TUN.

        Parts of a super-packet that come in several runs are joined, as long as more is there to read.
        """
        now, stun = self._clock(), self._stun
        tunnel = self._tunnel
        size = 0
        for source, run, segment in datagrams.receive(DATAGRAM_READS, DATAGRAM_BYTES):
            if (
                stun is not None
                and stun.sources  # mostly there are none, and an address is slow to hash
                and source in stun.sources
                and stun.received(source, run, segment, now)
            ):
                continue
            is_first = not size
            size += len(run)
            ecn = datagrams.ecn
            packets = tunnel.receive_datagrams(source, run, segment, now, is_busy=self._is_late, ecn=ecn)
            if packets:
                self._writer.write(tunnel.receiver.opened_from, packets)
            if is_first and size < PROMPT_BYTES:
                self._on_tun_readable(self._writer.fd)  # as in `on_message`
        if size > _LATE_BYTES or not datagrams.is_dry:
            self._late_at = now
        if packets := tunnel.datagrams.flush(now):
            self._writer.write(tunnel.receiver.opened_from, packets)
        if tunnel.outputs or tunnel.backlog or tunnel.next_at() != self._timer_at:
            self.drain()

    # Inputs of the control lane

    def set_links(self, links: Mapping[int, int]) -> None:
        """Which links are up, and the tags of their nodes."""
        self._tunnel.set_links(links, self._clock())
        self.drain()
        self.flush()

    def configure(self, event: ConfigChanged) -> None:
        config = event.config
        self._tunnel.configure(
            persistent=not provides(config),
            accept_pending=config.accept_pending,
            direct=config.network.direct or "on",
        )
        self._tunnel.set_peers(config.peers, self._clock())
        self.drain()

    def relay_changed(self, is_up: bool) -> None:
        """Whether any link to a node is up."""
        self._tunnel.relay_up(is_up)

    def network_changed(self) -> None:
        """This device's addresses or routes have changed: `Surroundings` has the new ones."""
        for datagrams in self._datagrams.sockets.values():
            datagrams.route_changed()
        self._tunnel.network_changed(self._clock())
        self.drain()

    def candidates_changed(self) -> None:
        """A STUN server or the router has answered: `Surroundings` has it."""
        self._tunnel.candidates_changed(self._clock())
        self.drain()

    def check_peers(self) -> None:
        """A first link is up, or the process was stopped for a while: ask the peers whether they live."""
        self._tunnel.link_up(self._clock())
        self.drain()
        self.flush()

    async def renew_device(self) -> None:
        """Somebody deleted the TUN device: make it again, and read on."""
        await asyncio.to_thread(self._device.renew)
        self.read_on()

    # Outputs of the control lane

    def drain(self) -> None:
        """Do what the core asks for, and wait for its next deadline."""
        tunnel = self._tunnel
        came_up = False
        while (output := tunnel.poll_output()) is not None:
            if isinstance(output, Send):
                # A busy link too: it keeps a little, and its keys could not be renewed otherwise.
                self._send(output)
            elif isinstance(output, SendDatagram):
                self._datagrams.send(output)
            elif isinstance(output, Deliver):
                self._writer.write(output.source, output.packets)
            else:
                came_up = came_up or isinstance(output, SessionUp | DirectChanged)
                self._publish(output)
        at = tunnel.next_at()
        if tunnel.backlog and (
            self._datagrams.sockets or any(link.writable for link in self._by_number.values())
        ):
            at = min(at, self._send_at, tunnel.next_send_at(self._clock()))
        if at != self._timer_at:
            self._arm(at)
        if came_up:
            self.flush()

    def _send(self, output: Send) -> None:
        """On its link, or on any that is up."""
        parts = (output.payload,)
        first = self._by_number.get(output.link)  # None: a stream that is closed
        if first is not None and first.send(output.dest, parts):
            return
        if not any(link.send(output.dest, parts) for link in self._links if link is not first):
            self.drops[DropReason.LINK_DOWN] += 1

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at != NEVER:
            self._timer = self._loop.call_later(max(0.0, at - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        self._tunnel.handle_timeout(self._clock())
        self.flush()


class TunWriter:
    """The way into the TUN: packets are written at once, as far as this turn of the loop has time for them.

    Writes to one queue of the device, so that flows that are answered are read from there too. Stands in this
    file because it is a station of each packet, and a packet is to be followed through ten files at most.
    """

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop, drops: Counter[DropReason]) -> None:
        """`drops`: where to count what is not written."""
        self.fd = device.fds[0]  # the queue that is written to
        self._device = device
        self._loop = loop
        self._drops = drops
        self._moved_at = -NEVER
        self._inflow = Inflow()

    def stop(self) -> None:
        """Forget what waits."""
        self._inflow = Inflow()

    def make_way(self, now: float) -> None:
        """Write to another queue from now on: flows that are answered leave the flooded one."""
        if now - self._moved_at >= _STAY_S:
            self._moved_at = now
            fds = self._device.fds
            self.fd = fds[(fds.index(self.fd) + 1) % len(fds)]

    def write(self, source: str | None, packets: Sequence[memoryview]) -> None:
        """Write packets, or keep copies of those for which this turn of the loop has no room.

        `source`: under whose keys they came; sources take turns. None: write them now.
        """
        inflow = self._inflow
        if source is not None and (inflow.left < len(packets) or inflow.waiting):
            packets = self._hold_back(source, packets)
        inflow.left -= len(packets)
        if inflow.left < TURN_PACKETS // 2 and not inflow.is_counted:
            self._count_turn()
        for record in packets:
            try:
                os.write(self.fd, record)
            except OSError as error:
                if error.errno == errno.EINVAL and record[1] == offload.GSO_UDP_L4:
                    # Some kernels grant USO and refuse it (e269d79c61d3, in 6.6.44 and a few besides).
                    self.write(None, [memoryview(piece) for piece in offload.split(record)])
                    continue
                self._drops[DropReason.TUN_REFUSED] += 1

    def _hold_back(self, source: str, packets: Sequence[memoryview]) -> Sequence[memoryview]:
        """Those that may be written in this turn; the others wait."""
        inflow = self._inflow
        room = 0 if inflow.holds(source) else max(0, inflow.left)
        if packets[room:]:
            if lost := inflow.put(source, packets[room:]):
                self._drops[DropReason.QUEUE_FULL] += lost
            self._count_turn()
        return packets[:room]

    def _count_turn(self) -> None:
        if not self._inflow.is_counted:
            self._inflow.is_counted = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._inflow.left, self._inflow.is_counted = TURN_PACKETS, False
        if self._inflow.waiting:
            self.write(None, self._inflow.take(TURN_PACKETS))
            self._count_turn()
