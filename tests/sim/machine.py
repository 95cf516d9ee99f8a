"""One daemon in virtual time: a `nkn.link.Link`, a `tunnel.core.Tunnel` and the shell between them.

The shell decides nothing: it does what `io.link.LinkRunner` and `daemon.driver.Driver` do.
"""

from __future__ import annotations

from collections.abc import Callable

from nconnect.crypto.aead import CipherSuite
from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress, PeerConfig
from nconnect.nkn.link import Link
from nconnect.nkn.outputs import Connect, Disconnect, LinkUp, Resolve, SendBinary, SendPing, SendText
from nconnect.tunnel.core import Tunnel
from nconnect.tunnel.outputs import CountersMoved, Deliver, Send, SessionUp, Settings
from nconnect.tunnel.timers import NEVER
from tests.sim.clock import Clock
from tests.sim.internet import Internet, Socket, Way

WALL_EPOCH_NS = 1_800_000_000_000_000_000
SEED_RPC = "http://192.0.2.1:30003"
STORED_AFTER_S = 0.05  # the daemon stores its counters so long after they moved
MAX_WAKEUPS_PER_S = 50.0  # more, over a minute, is a timer that fires without effect

# Shared by all machines of a process: each is used within one call.
_arena = bytearray(327_733)
_arena_view = memoryview(_arena)
_sealed = memoryview(bytearray(327_800))
_opened = memoryview(bytearray(4 << 20))


class Machine:
    """A user's or a provider's machine; `on_packet` is its TUN."""

    def __init__(
        self,
        clock: Clock,
        internet: Internet,
        name: str,
        key: bytes,
        *,
        persistent: bool,
        on_packet: Callable[[Machine, bytes], None],
    ) -> None:
        self.clock = clock
        self.internet = internet
        self.name = name
        self.identity = Identity(key)
        self.address = NknAddress(name, self.identity.public_key)
        self.way = Way()
        self.wall_offset_ns = 0
        self.running = False
        self.handshakes = 0
        self.tunnel: Tunnel
        self.link: Link
        self._settings = Settings(CipherSuite.AES256GCM, persistent=persistent)
        self._on_packet = on_packet
        self._peers: list[PeerConfig] = []
        self._stored: dict[str, int] = {}
        self._socket: Socket | None = None
        self._work = 0  # a resolve or connect with another number was abandoned
        self._life = 0
        self._asleep = False
        self._inbox: list[Callable[[], None]] = []
        self._timer_at = NEVER
        self._wakeups = 0.0
        self._wakeups_since = 0.0
        internet.ways.append(self.way)

    def start(self, peers: list[PeerConfig] | None = None) -> None:
        """The daemon starts, with what the last one stored; a second one is refused."""
        if self.running:
            return
        self._life += 1
        self._peers = self._peers if peers is None else peers
        now = self.clock.now
        rng = self.internet.random.randbytes
        self.tunnel = Tunnel(
            self.identity,
            self.address,
            self._peers,
            self._settings,
            now=now,
            rng=rng,
            wall_clock_ns=lambda: WALL_EPOCH_NS + int(self.clock.now * 1e9) + self.wall_offset_ns,
            counters=self._stored,
        )
        self.link = Link(self.identity, self.address, [SEED_RPC], now=now, rng=rng)
        self.running = True
        self.link.start(now)
        self.settle()

    def kill(self) -> None:
        """SIGKILL: the kernel closes the socket; what was not stored is lost."""
        self._end()

    def stop(self) -> None:
        """`nconnect down`."""
        if self.running:
            self.tunnel.close(self.clock.now)
            self._drain_tunnel()
            self._stored = self.tunnel.counters()
            self.link.stop(self.clock.now)
            while self.link.poll_output() is not None:
                pass
            assert self.tunnel.poll_timeout() is None, "a closed tunnel still wants a timer"
            assert self.link.poll_timeout() is None, "a stopped link still wants a timer"
        self._end()

    def _end(self) -> None:
        self.running = self._asleep = False
        self._life += 1
        self._work += 1
        self._inbox.clear()
        self._timer_at = NEVER
        if self._socket is not None:
            self._socket.leave()
            self._socket = None

    def sleep(self) -> None:
        self._asleep = True

    def wake(self) -> None:
        """What came meanwhile and what is due happen at once, in either order."""
        if not self._asleep:
            return
        self._asleep = False
        inbox, self._inbox = self._inbox, []
        first = [self._timeout, *inbox] if self.internet.random.random() < 0.5 else [*inbox, self._timeout]
        for event in first:
            if self.running:
                event()
                self.settle()

    def network_changed(self) -> None:
        """What the daemon does when netlink says so."""
        if self.running and not self._asleep:
            self.link.network_changed(self.clock.now)
            self.settle()

    @property
    def awake(self) -> bool:
        return self.running and not self._asleep

    # Its programs

    def send_packet(self, record: bytes, destination: bytes) -> None:
        if not self.awake:
            return
        peer = self.tunnel.routes.owner(destination)
        assert peer is not None
        self.tunnel.enqueue(peer, bytearray(record), self.clock.now)
        self._flush()
        self.settle()

    # The websocket's end

    def arrived(self, socket: Socket, event: Callable[[], None]) -> None:
        if socket is not self._socket and self._socket is not None:
            return
        if self._asleep:
            life = self._life
            self._inbox.append(lambda: event() if life == self._life and socket.open_here else None)
        else:
            event()

    def on_connected(self, socket: Socket) -> None:
        self._socket = socket
        self.link.connected(self.clock.now)
        self.settle()

    def on_binary(self, data: bytes) -> None:
        message = self.link.receive_binary(data, self.clock.now)
        if message is not None:
            payload = memoryview(message.payload)
            for record in self.tunnel.receive(message.src, payload, _opened, self.clock.now):
                self._on_packet(self, bytes(record))
        self.settle()

    def on_text(self, data: str) -> None:
        self.link.receive_text(data, self.clock.now)
        self.settle()

    def on_pong(self) -> None:
        self.link.pong(self.clock.now)
        self.settle()

    def on_closed(self, why: str) -> None:
        self._socket = None
        self.link.disconnected(why, self.clock.now)
        self.settle()

    # What the machines ask for

    def settle(self) -> None:
        """Do all outputs, then wait for the next deadline."""
        if not self.running:
            return
        while self._drain_link() or self._drain_tunnel():
            pass
        self._rearm()

    def _drain_link(self) -> bool:
        did = False
        while (output := self.link.poll_output()) is not None:
            did = True
            match output:
                case Resolve():
                    self._begin(output.timeout_s, self._resolved, self._resolve_failed)
                case Connect():
                    self._begin(output.timeout_s, self._connect, self._connect_failed)
                case SendText(text):
                    if self._socket is not None:
                        data = text.encode()
                        self._socket.to_node(
                            lambda node, at, now, data=data: node.receive_text(at, data, now), len(data)
                        )
                case SendBinary(data):
                    self._send_frame(data)
                case SendPing():
                    if self._socket is not None:
                        self._socket.ping_node()
                case Disconnect():
                    self._work += 1
                    if self._socket is not None:
                        self._socket.leave()
                        self._socket = None
                case LinkUp():
                    self.tunnel.link_up(self.clock.now)
                    self._drain_tunnel()
                    self._flush()
        return did

    def _begin(self, timeout_s: float, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Something that takes a round trip, or fails, or hears nothing until its time is over."""
        self._work += 1
        work, answers = self._work, self.internet.answers(self.way)

        def end() -> None:
            def finish() -> None:
                if work != self._work:
                    return
                if answers:
                    done()
                else:
                    failed("refused" if answers is False else "timed out")
                self.settle()

            if work == self._work:
                if self._asleep:
                    self._inbox.append(finish)
                else:
                    finish()

        self.clock.after(timeout_s if answers is None else 2 * self.way.delay_s, end)

    def _resolved(self) -> None:
        self.link.resolved(self.internet.info, self.clock.now, seed=SEED_RPC)

    def _resolve_failed(self, why: str) -> None:
        self.link.resolve_failed(why, self.clock.now)

    def _connect(self) -> None:
        socket = Socket(self.internet, self)
        self.on_connected(socket)
        self.internet.accept(socket)

    def _connect_failed(self, why: str) -> None:
        self.link.disconnected(why, self.clock.now)

    def _send_frame(self, frame: bytes) -> None:
        if self._socket is not None:
            self._socket.to_node(lambda node, at, now: node.receive_binary(at, frame, now), len(frame))

    def _send(self, dest: str, payload: bytes) -> None:
        if self.link.prefixes is not None and self._socket is not None:
            self._send_frame(self.link.prefixes.prefix(dest, len(payload)) + payload)

    def _drain_tunnel(self) -> bool:
        did = False
        while (output := self.tunnel.poll_output()) is not None:
            did = True
            if isinstance(output, Send):
                self._send(output.dest, output.payload)
            elif isinstance(output, SessionUp):
                self.handshakes += 1
                self._flush()
            elif isinstance(output, Deliver):
                for record in output.packets:
                    self._on_packet(self, bytes(record))
            elif isinstance(output, CountersMoved):
                self.clock.after(STORED_AFTER_S, self._store)
        return did

    def _store(self) -> None:
        if self.running:
            self._stored = self.tunnel.counters()

    def _flush(self) -> None:
        tunnel, now = self.tunnel, self.clock.now
        while self.link.is_up and tunnel.backlog:
            batch = tunnel.next_batch(_arena, now)
            if batch is None:
                return
            peer, size, _, lane = batch
            prefix, n = tunnel.seal(peer, _arena_view[:size], _sealed, lane)
            self._send(lane.dest, prefix + bytes(_sealed[:n]))
            tunnel.sent(peer, lane, size, now)

    # Time

    def _rearm(self) -> None:
        deadline = self.link.poll_timeout()
        at = min(NEVER if deadline is None else deadline.at, self.tunnel.next_at())
        if self.tunnel.backlog and self.link.is_up:
            at = min(at, self.tunnel.next_send_at(self.clock.now))
        if at == self._timer_at or at == NEVER:
            return
        self._timer_at = at
        life = self._life

        def due() -> None:
            if life == self._life and at == self._timer_at:
                if self._asleep:
                    return  # `wake` looks after it
                self._timeout()
                self.settle()

        self.clock.at(at, due)

    def _timeout(self) -> None:
        self._count_wakeup()
        self._timer_at = NEVER
        self.link.handle_timeout(self.clock.now)
        self.tunnel.handle_timeout(self.clock.now)
        self._flush()

    def _count_wakeup(self) -> None:
        now = self.clock.now
        if now - self._wakeups_since > 60.0:
            self._wakeups_since, self._wakeups = now, 0
        self._wakeups += 1
        assert self._wakeups < 60.0 * MAX_WAKEUPS_PER_S, f"{self.name}: a timer fires without end"
