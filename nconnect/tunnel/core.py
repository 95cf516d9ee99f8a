"""The tunnel as a pure machine: packets and messages in, messages and packets out. `Tunnel` is all of it.

One task owns it. Nothing here reads a clock, a socket or the system's randomness: every call that depends on
time takes `now` (seconds, CLOCK_BOOTTIME), and the constructor takes `rng` and `wall_clock_ns`.

Data lane, direct calls without an object per packet:

    peer = tunnel.routes.owner(destination)         whose packet is it
    tunnel.may_bypass(peer, size, now)              may it leave at once, ahead of the queue: then seal
    tunnel.enqueue(peer, record, now)               else let it wait in the peer's fair queue
    peer, size, packets, lane = tunnel.next_batch(arena, now, room, link)
    prefix, size = tunnel.seal(peer, batch, out, lane)  for the lane: to its `dest`, on its `link`
    tunnel.sent(peer, lane, size, now)              after each `seal`, once the message is handed on
    packets = tunnel.receive(source, payload, out, now)
    tunnel.received(is_busy, leg_s)                 after each `receive`, once the packets are written

Where there are several links, `set_links` says which are up.

Control lane: after any call, drain `poll_output()` until it returns None, and call `handle_timeout(now)` at
`poll_timeout()`. Packets do not wait for bookkeeping: `sent` and `received` do it afterwards. Hostile input
never raises: it is counted under a `DropReason`, for the peer where one is known, else in `drops`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from nconnect.crypto.aead import TAG_BYTES
from nconnect.crypto.keys import Identity
from nconnect.ip.packet import is_well_formed
from nconnect.model import Buffer, Deadline, DirectMode, Endpoint, NknAddress, PeerConfig, Rng
from nconnect.tunnel.allowed_ips import AllowedIps
from nconnect.tunnel.bounds import MIN_TOLD_RATE, bounds_of
from nconnect.tunnel.constants import QUESTION_S
from nconnect.tunnel.datagram_receiver import DatagramReceiver
from nconnect.tunnel.outputs import Context, Output, Settings
from nconnect.tunnel.paths.direct.path import DirectPath
from nconnect.tunnel.paths.direct.surroundings import Surroundings
from nconnect.tunnel.paths.ecn import CE, NOT_ECT
from nconnect.tunnel.paths.lanes import STREAM_NUMBER, Lane
from nconnect.tunnel.paths.stream.keys import StreamKeys
from nconnect.tunnel.peer import Peer
from nconnect.tunnel.pending import PendingSenders
from nconnect.tunnel.receiver import BatchReceiver
from nconnect.tunnel.send_queue import SendQueue
from nconnect.tunnel.sessions import Sessions
from nconnect.tunnel.streams.table import StreamTable
from nconnect.tunnel.timers import NEVER, Timer
from nconnect.tunnel.translation import Translation
from nconnect.wire.tunnel import MAX_LINKS, RECORD_HEADER_BYTES, VIRTIO_HEADER_BYTES, Feature

SEAL_BYTES = TAG_BYTES  # what a sealed batch is longer than the batch
_ALL = Feature.ALL  # an enum's member costs a look-up in its class


class Tunnel:
    """All peers of one interface. See the module's text for how to drive it."""

    def __init__(
        self,
        identity: Identity,
        address: NknAddress,
        peers: Iterable[PeerConfig],
        settings: Settings,
        *,
        now: float,
        rng: Rng,
        wall_clock_ns: Callable[[], int],
        counters: Mapping[str, int] | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        """`counters` is what `counters()` gave when the last run ended.

        `surroundings`: what direct paths share; None: there are none, whatever the configuration says.
        """
        self.settings = settings
        self.routes: AllowedIps[Peer] = AllowedIps()
        self.peers: dict[str, Peer] = {}  # by bare NKN address
        self.translates = False  # whether any peer has addresses that are seen as others here
        self._stored = dict(counters or {})
        context = self._context = Context(identity, address, settings, rng, wall_clock_ns, surroundings)
        self.outputs = context.outputs
        self._sessions = Sessions(context, self._stored.get("self", 0))
        queue = self._send_queue = SendQueue(self._sessions)
        self.backlog, self.link_rates, self.link_signs = queue.backlog, queue.link_rates, queue.link_signs
        # Called for each packet or message: no call in between.
        self.enqueue, self.next_batch, self.next_send_at = queue.enqueue, queue.next_batch, queue.next_send_at
        self.receiver = BatchReceiver(self._sessions, self.peers, self.routes, settings, now)
        self.receive, self.received = self.receiver.receive, self.receiver.received
        self.datagrams = DatagramReceiver(self._sessions, self.receiver)
        self.drops = self.receiver.drops  # of no known peer
        self.set_peers(peers, now)

    @property
    def streams(self) -> StreamTable:
        """Streams inside the sessions with peers."""
        return self._sessions.streams

    @property
    def pending(self) -> PendingSenders:
        """Who tried to come in and is no peer."""
        return self.receiver.pending

    # The peer table

    def configure(self, *, persistent: bool, accept_pending: bool, direct: DirectMode) -> None:
        """Change what may change while the tunnel runs; `set_peers` must follow."""
        self.settings.persistent, self.settings.accept_pending = persistent, accept_pending
        self.settings.direct = direct

    def set_peers(self, configs: Iterable[PeerConfig], now: float) -> None:
        """Make the table be `configs`. A peer whose key material did not change keeps its session.

        A removed peer's keys are erased at once. Raises ValueError for a public key that is none; the
        table is then unchanged.
        """
        configs = tuple(configs)
        fresh: dict[str, Peer] = {}
        for config in configs:
            dest = str(config.address)
            old = self.peers.get(dest)
            if old is not None and old.config.preshared_key == config.preshared_key:
                fresh[dest] = old
            else:
                counter = old.handshake.last_counter if old else self._stored.get(dest, 0)
                direct = self._direct_path(config, now)
                fresh[dest] = Peer(config, self._context.identity, now, last_counter=counter, direct=direct)
        by_dest = {str(config.address): config for config in configs}
        for dest, peer in self.peers.items():
            if fresh.get(dest) is not peer:
                self._sessions.end(peer, now)
                self.backlog.pop(peer, None)
                self._stored[dest] = peer.handshake.last_counter
                self._sessions.timer_heap.forget(peer)
        self.peers.clear()
        self.peers.update(fresh)
        self.routes.replace((prefix, fresh[d]) for d, c in by_dest.items() for prefix in c.allowed_ips)
        for dest, peer in fresh.items():
            before, config = peer.config, by_dest[dest]
            peer.config = config
            if before.rate != config.rate or (config.rate is not None and peer.traffic.bounds is None):
                told = None if peer.traffic.bounds is None else peer.traffic.bounds.told
                peer.traffic.bounds = bounds_of(config.rate, told, now)
            peer.translation = (
                Translation(config.mapped, (a.ip for a in config.local_address)) if config.mapped else None
            )
            self.pending.forget(dest)
            self._sessions.check_expiry(peer, now)
            self._sessions.direct.configured(peer, now)
            if not self.settings.persistent:
                peer.timers.clear(Timer.PERSISTENT_KEEPALIVE)
            elif not peer.expired and not peer.timers.is_set(Timer.PERSISTENT_KEEPALIVE):
                peer.timers.set(Timer.PERSISTENT_KEEPALIVE, now)
            self._sessions.timer_heap.schedule(peer)
        self.translates = any(peer.translation is not None for peer in fresh.values())

    def told_rate(self, peer: Peer, told: int | None, now: float) -> None:
        """The peer says how many bits a second we may send; None: it sets no bound.

        Less than `MIN_TOLD_RATE` counts as that.
        """
        told = None if told is None else max(told, MIN_TOLD_RATE)
        before = peer.traffic.bounds
        if told != (None if before is None else before.told):
            fresh = peer.traffic.bounds = bounds_of(peer.config.rate, told, now)
            if before is not None and fresh is not None:
                fresh.policed = before.policed  # who tells another rate each second gets no burst for it

    def _direct_path(self, config: PeerConfig, now: float) -> DirectPath | None:
        surroundings = self._context.surroundings
        if surroundings is None:
            return None
        mode = self.settings.direct_mode(config)
        return DirectPath(surroundings, now=now, rng=self._context.rng, mode=mode)

    def peer_named(self, name: str) -> Peer | None:
        return next((peer for peer in self.peers.values() if peer.name == name), None)

    def counters(self) -> dict[str, int]:
        """What must outlive a restart: our last handshake counter, and each peer's."""
        kept = dict(self._stored)
        counters = ((dest, peer.handshake.last_counter) for dest, peer in self.peers.items())
        kept.update({dest: counter for dest, counter in counters if counter})
        kept["self"] = self._sessions.handshakes.last_counter
        return kept

    # Data lane: to the network

    def translate(self, records: Iterable[tuple[Peer, int, int]], arena: memoryview) -> None:
        """Give packets the addresses that their peers know, in place. Each is (peer, start, end) in `arena`.

        Call it before they are sealed or enqueued, if `translates`.
        """
        for peer, start, end in records:
            if peer.translation is not None and is_well_formed(arena[start + VIRTIO_HEADER_BYTES : end]):
                peer.translation.to_peer(arena[start:end])

    def can_seal(self, peer: Peer, now: float) -> bool:
        """Whether there is a key to send under. If not, a handshake is under way when this returns."""
        return self._sessions.can_send(peer, now)

    def may_bypass(self, peer: Peer, size: int, now: float) -> bool:
        """Whether a batch of `size` bytes may be sealed for `peer.path.lane` now, ahead of the queue.

        Whether the lane's link takes data is the caller's to check. False without a key: the caller enqueues
        then, and `next_batch` starts a handshake.
        """
        path, pair = peer.path, peer.session.current
        lane = path.lane
        return (
            path.scheduler is None
            and path.features == _ALL
            and size <= path.batch_bytes
            and peer not in self.backlog
            and peer.traffic.bounds is None
            and lane.sending.is_clear(now)
            and not (self.link_signs.get(lane.link, False) and self._send_queue.gathers(lane, now))
            and pair is not None
            and not peer.doubtful
            and pair.can_send(now)
        )

    def seal(self, peer: Peer, batch: Buffer, out: memoryview, lane: Lane) -> tuple[bytes, int]:
        """Seal a batch into `out`, which needs `SEAL_BYTES` more room: (message prefix, bytes in `out`).

        Prefix and sealed bytes, one after another, are the payload of one NKN message to the lane's `dest`
        on its `link`. Only after `may_bypass` (for `peer.path.lane`) or `next_batch`; `sent` must follow.
        """
        pair = peer.session.current
        assert pair is not None
        header, size = pair.seal_into(batch, out, lane.number)
        return peer.path.prefix(header, size), size

    def sent(self, peer: Peer, lane: Lane, size: int, now: float, packets: int = 0) -> None:
        """The batch of `size` bytes that was sealed last has left.

        `packets`: how many were in it, if it was not the send queue's, which has counted its own.
        """
        pair = peer.session.current
        assert pair is not None
        lane.sending.sent(pair.remote_index, pair.counter - 1, size, now)
        lane.sent_at = now
        if packets:
            traffic = peer.traffic
            traffic.tx_packets += packets
            traffic.tx_bytes += size - packets * (RECORD_HEADER_BYTES + VIRTIO_HEADER_BYTES)
        if self.receiver.awaits_traffic:
            self.receiver.traffic_began()
        peer.timers.data_sent(now)
        if peer.path.watches:
            self._sessions.path_manager.watch(peer, now)
        if peer.check_at > now + QUESTION_S:
            self._sessions.timer_heap.schedule(peer)
        if now >= pair.rekey_at:
            self._sessions.handshakes.initiate(peer, now)
        if peer.datagrams is not None:
            self._sessions.direct.packets_sent(peer, now)

    # Data lane: the direct path over UDP

    def seal_datagrams(
        self, peer: Peer, batch: memoryview, now: float
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        """The same as `seal` where `peer.path` is over UDP, to `peer.direct.remote`: runs of datagrams.

        (parts, size of a datagram) of each; 0: it is a single one. Use each before you ask for the next, and
        send it with the ECN bits in `peer.datagrams.ecn`.
        """
        assert peer.datagrams is not None
        assert peer.session.current is not None
        direct = self._sessions.direct
        return peer.datagrams.sealed(peer.session.current, batch, now, direct.is_busy, direct.blocks)

    def seal_copies(
        self, peer: Peer, batch: memoryview, now: float
    ) -> Iterator[tuple[tuple[Buffer, ...], int]]:
        """While `peer.datagrams.doubles`: the batch that was sealed last goes by UDP as well."""
        assert peer.datagrams is not None
        pair = peer.session.current
        assert pair is not None
        return peer.datagrams.sealed_copies(pair, batch, pair.counter - 1, now)

    def receive_datagrams(
        self,
        source: Endpoint,
        run: memoryview,
        segment: int,
        now: float,
        *,
        is_busy: Callable[[], bool] = bool,
        ecn: int = NOT_ECT,
    ) -> list[memoryview]:
        """Take datagrams of `segment` bytes each (the last may be shorter) that came in a row from `source`.

        The packets for the TUN in them; `received` is to be called once they are written, as after `receive`.
        `is_busy` is asked as `received` says, from now on. `ecn`: these bits of the IP header.
        """
        self._sessions.direct.is_busy = is_busy
        if ecn == CE or self.datagrams.marks.pending:
            return self.datagrams.receive_marked(source, run, segment, now, is_marked=ecn == CE)
        return self.datagrams.receive(source, run, segment, now)

    def network_changed(self, now: float) -> None:
        """This device's addresses or default route have changed, and `Surroundings` knows it."""
        for peer in self.peers.values():
            self._sessions.direct.network_changed(peer, now)

    def candidates_changed(self, now: float) -> None:
        """A STUN server or the router has answered, and `Surroundings` knows it."""
        for peer in self.peers.values():
            self._sessions.direct.candidates_changed(peer, now)

    def relay_up(self, is_up: bool) -> None:
        """Whether any link to a node is up: a direct path is not left for a relay that is not there."""
        self._sessions.direct.relay_is_up = is_up

    def datagram_too_big(self, peer: Peer, size: int, now: float) -> None:
        """The kernel refused a datagram of this size for the route's MTU (EMSGSIZE)."""
        self._sessions.direct.too_big(peer, size, now)

    # Direct TCP streams

    def may_stream(self, dest: str) -> bool:
        """Whether a stream to this address may be open: it is a peer's whose direct paths are not off."""
        peer = self.peers.get(dest)
        return peer is not None and self._may_stream(peer)

    def stream_keys(self, index: int, now: float) -> tuple[str, StreamKeys] | None:
        """Whose key pair has this index of ours, and its keys for a stream; None if it may open none now."""
        peer, pair = self._sessions.handshakes.by_index.get(index, (None, None))
        if peer is None or pair is None or now >= pair.reject_at or not self._may_stream(peer):
            return None
        return peer.dest, pair.stream

    def keys_to_dial(self, dest: str, now: float) -> StreamKeys | None:
        """The keys to dial this peer with; None while there is no session, or no stream is wanted."""
        peer = self.peers.get(dest)
        pair = peer.session.current if peer is not None and self._may_stream(peer) else None
        return pair.stream if pair is not None and pair.can_send(now) else None

    def stream_opened(self, dest: str, link: int, now: float) -> bool:
        """A stream to this peer is open, as our link number `link` (`MAX_LINKS` or above).

        It is the peer's best lane from now on, in place of an earlier stream. False if the peer is gone.
        """
        peer = self.peers.get(dest)
        if peer is None or not self._may_stream(peer) or not peer.can_send(now):
            return False
        self._sessions.stream_opened(peer, link, now)
        return True

    def stream_closed(self, dest: str, link: int, now: float) -> None:
        """This peer's stream, our link `link`, is closed: its flows continue over relays."""
        peer = self.peers.get(dest)
        stream = peer.relayed.lanes.stream if peer is not None else None
        if peer is not None and stream is not None and stream.link == link:  # else a later one carries
            self._sessions.path_manager.stream_closed(peer, now)

    def _may_stream(self, peer: Peer) -> bool:
        return not peer.expired and self.settings.direct_mode(peer.config) != "off"

    # Control lane

    def turn_away(self, source: str, now: float) -> None:
        """Count a `Visitor` that deserves no answer."""
        self.receiver.turn_away(source, now)

    def poll_output(self) -> Output | None:
        """What to do next, or None."""
        self.received()
        return self.outputs.popleft() if self.outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`, and for what."""
        return None if self.receiver.closed else self._sessions.timer_heap.next()

    def next_at(self) -> float:
        """The same without the reason, for the data path: `timers.NEVER` when there is none."""
        return NEVER if self.receiver.closed else self._sessions.timer_heap.next_at

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early calls are harmless."""
        self.datagrams.pass_overdue(now)
        self._sessions.handle_timeout(now)
        if self.streams.ready:
            self._send_queue.pull_frames(now)

    def set_links(self, links: Mapping[int, int], now: float) -> None:
        """Our links that are up, number -> tag of the node (32 bits, the same for the same node).

        Never called, it is link 0 alone. Flows on a link that is not up any more move at once; what they had
        under way is lost. Peers are told.
        """
        self._sessions.set_links(self.peers.values(), links, now)

    def traffic_of(self, link: int) -> tuple[int, int]:
        """Bytes of batches sent and received over one of our links, in sessions with peers of now."""
        tx = rx = 0
        for peer in self.peers.values():
            path = peer.relayed
            tx += sum(lane.sending.total_bytes for lane in path.lanes.all if lane.link == link)
            arrivals = path.lane_arrivals.items()
            rx += sum(a.total_bytes for n, a in arrivals if n != STREAM_NUMBER and n % MAX_LINKS == link)
            rx += path.arrivals.total_bytes if not link else 0
        return tx, rx

    def link_up(self, now: float) -> None:
        """A link came (back): what was sent meanwhile is lost, so try again now."""
        self._sessions.link_up(self.peers.values(), now)

    def ping(self, peer: Peer, now: float) -> int | None:
        """Measure the round trip to a peer: the id that its `Pong` will have, or None without a session.

        Who asks wants to use the peer: a direct path is looked for, as with packets.
        """
        direct = self._sessions.direct
        direct.packets_sent(peer, now)
        ping_id = direct.ping(peer, now)
        return self._sessions.control_frames.ping(peer, now) if ping_id is None else ping_id

    def announce(self, peer: Peer, document: bytes, now: float) -> None:
        """Tell the peer this document from now on; b"" withdraws what was told.

        It is repeated until the peer has acknowledged it, and told again in each new session. Changes in
        quick succession are joined: three at once, then one a second. Raises ValueError for more than
        `statements.MAX_STATEMENT_BYTES`.
        """
        self._sessions.announcements.announce(peer, document, now)

    def await_traffic(self) -> None:
        """Say `TrafficBegan` when the next packet goes or comes: `Peer.traffic` does not change before."""
        self.receiver.awaits_traffic = True

    def close(self, now: float) -> None:
        """Tell every peer that we go, and erase all keys. What still arrives is ignored from here on."""
        self.receiver.closed = True
        self._sessions.close(self.peers.values(), now)
