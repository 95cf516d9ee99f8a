"""The node and the ways to it, in virtual time: a real `node.core.Node`, and websockets that are two queues.

    machine ── way (TCP: order kept, cut, slow) ── node ── relay (loses, doubles, reorders, alters, replays)

What TCP does is done to the way: a cut holds data back, or outlives the connection. What relays of the NKN
network do to messages happens behind the node, one message at a time.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nconnect.crypto.keys import Identity
from nconnect.model import Buffer
from nconnect.node.connection import Connection as NodeConnection
from nconnect.node.core import Node
from nconnect.node.settings import NodeSettings
from nconnect.wire.jsonrpc import NodeInfo
from tests.sim.clock import Clock

ONE_WAY_S = 0.02
RETRANSMIT_S = 2.0  # at most so long after a cut TCP tries again
UNACKNOWLEDGED_S = 1.0  # so long the open direction of a one-way cut still carries something new
KEPT_FRAMES = 32  # of which a replaying relay takes one


@dataclass
class Relay:
    """What happens to messages behind the node: probabilities from 0 to 1, seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder_s: float = 0.0  # a message is held back for up to this long, and others pass it
    corrupt: float = 0.0
    replay: float = 0.0


class Way:
    """The path between one machine and the node."""

    def __init__(self) -> None:
        self.delay_s = ONE_WAY_S
        self.cut = {True: False, False: False}  # to the node, from the node
        self.sockets: list[Socket] = []

    @property
    def is_open(self) -> bool:
        return not (self.cut[True] or self.cut[False])


class End(Protocol):
    """A machine's end of a websocket."""

    way: Way

    def arrived(self, socket: Socket, event: Callable[[], None]) -> None:
        """Something for this machine is here; it may be asleep, or gone."""

    def on_binary(self, data: bytes) -> None: ...
    def on_text(self, data: str) -> None: ...
    def on_pong(self) -> None: ...
    def on_connected(self, socket: Socket) -> None: ...
    def on_closed(self, why: str) -> None: ...


class Socket:
    """One websocket, both its ends; to the node's machine it is a `Transport`."""

    def __init__(self, internet: Internet, end: End) -> None:
        self.internet = internet
        self.end = end
        self.writable = True
        self.unsent_bytes = self.tx_bytes = self.rx_bytes = 0
        self.connection: NodeConnection | None = None
        self.open_here = True  # at the machine
        self.open_there = True  # at the node
        self.stranded = False  # its address is gone: nothing passes either way any more
        self._last_at = {True: 0.0, False: 0.0}
        self._held: dict[bool, deque[Callable[[], None]]] = {True: deque(), False: deque()}
        end.way.sockets.append(self)

    # The machine's end

    def to_node(self, receive: Callable[[Node, NodeConnection, float], None], size: int) -> None:
        def arrive() -> None:
            if self.open_there and self.connection is not None and self.open_here:
                self.rx_bytes += size
                receive(self.internet.node, self.connection, self.internet.clock.now)
                self.internet.rearm()
            elif not self.open_there:
                self._reset()

        self._carry(True, arrive)

    def ping_node(self) -> None:
        def arrive() -> None:
            if self.open_there:
                self.rx_bytes += 2
                self._to_machine(self.end.on_pong)
            else:
                self._reset()

        self._carry(True, arrive)

    def leave(self) -> None:
        """The machine closes it, or its process ends."""
        if self.open_here:
            self.open_here = False
            self._carry(True, self._forget)

    def _forget(self) -> None:
        if self.open_there:
            self.open_there = self.writable = False
            if self.connection is not None:
                self.internet.node.closed(self.connection)
        if self in self.end.way.sockets:
            self.end.way.sockets.remove(self)

    def _reset(self) -> None:
        """The node's machine knows nothing of this connection."""
        if self.open_here:
            self._to_machine(lambda: self._closed("connection reset"))

    def _closed(self, why: str) -> None:
        if self.open_here:
            self.open_here = False
            self.end.on_closed(why)

    # The node's end: `nconnect.node.connection.Transport`

    def send_binary(self, parts: Sequence[Buffer]) -> None:
        frame = b"".join(parts)
        self.tx_bytes += len(frame)
        self.internet.relay_message(self, frame)

    def lift_limit(self) -> None:
        """Nothing is limited here."""

    def send_text(self, text: str) -> None:
        self.tx_bytes += len(text)
        self._to_machine(lambda: self.end.on_text(text))

    def ping(self) -> None:
        def answer() -> None:
            def arrive() -> None:
                self.rx_bytes += 2

            self._carry(True, arrive)

        self._to_machine(answer)

    def close(self, code: int = 1000, why: str = "") -> None:
        if self.open_there:
            self.open_there = self.writable = False
            self._to_machine(lambda: self._closed(why or str(code)))
            if self.connection is not None:
                self.internet.node.closed(self.connection)

    def deliver(self, frame: bytes) -> None:
        self._to_machine(lambda: self.end.on_binary(frame))

    def _to_machine(self, event: Callable[[], None]) -> None:
        def arrive() -> None:
            if self.open_here:
                self.end.arrived(self, event)

        self._carry(False, arrive)

    # The way

    def _carry(self, to_node: bool, event: Callable[[], None]) -> None:
        if self.stranded:
            return
        if self.end.way.cut[to_node]:
            self._held[to_node].append(event)
            return
        clock = self.internet.clock
        at = max(self._last_at[to_node], clock.now + self.end.way.delay_s)
        self._last_at[to_node] = clock.at(at, event)

    def mended(self, to_node: bool) -> None:
        """The way carries again: TCP sends what it kept, when its timer says so."""
        held, self._held[to_node] = self._held[to_node], deque()
        if held:
            internet = self.internet
            pause_s = internet.random.uniform(0, RETRANSMIT_S)
            self._last_at[to_node] = max(self._last_at[to_node], internet.clock.now + pause_s)
            for event in held:
                self._carry(to_node, event)

    def dies(self, *, silently: bool) -> None:
        """The node is gone, with its machine or without."""
        if self.open_there:
            self.open_there = self.writable = False
            if not silently:
                self._reset()


class Internet:
    """The node, its seed RPC and the relay behind it."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.random = rng
        self.relay = Relay()
        self.fired: Counter[str] = Counter()  # messages that met each fault
        self.ways: list[Way] = []
        self.node_up = True
        self.node_silent = False  # down, and nothing refuses connections
        self.node: Node
        self.info: NodeInfo
        self._timer_at: float | None = None
        self._recent: deque[tuple[Socket, bytes]] = deque(maxlen=KEPT_FRAMES)
        self._key = 0
        self._start()

    def _start(self) -> None:
        self._key += 1
        identity = Identity(self._key.to_bytes(32))
        settings = NodeSettings(rate_per_s=None)
        self.node = Node(identity, settings, now=self.clock.now, rng=self.random.randbytes)
        key = identity.public_key.hex()
        self.info = NodeInfo("192.0.2.1:30002", "192.0.2.1:30003", key, "ab" * 32)
        self._timer_at = None

    def stop_node(self, *, silently: bool) -> None:
        self.node_up, self.node_silent = False, silently
        for way in self.ways:
            for socket in list(way.sockets):
                socket.dies(silently=silently)
        self._recent.clear()
        self._start()

    def start_node(self) -> None:
        self.node_up, self.node_silent = True, False

    def cut(self, way: Way, *, to_node: bool, from_node: bool) -> None:
        way.cut = {True: to_node or way.cut[True], False: from_node or way.cut[False]}

    def mend(self, way: Way) -> None:
        way.cut = {True: False, False: False}
        for socket in list(way.sockets):
            for to_node in (True, False):
                socket.mended(to_node)

    def answers(self, way: Way) -> bool | None:
        """Whether the node's machine takes a connection: None when nothing comes back."""
        if not way.is_open or self.node_silent:
            return None
        return self.node_up

    def accept(self, socket: Socket) -> None:
        """A websocket of a machine's has arrived."""
        if not self.node_up:
            socket.dies(silently=self.node_silent)
            return
        connection = self.node.open(socket, "198.51.100.2", self.info, self.clock.now)
        assert connection is not None
        socket.connection = connection
        self.rearm()

    def rearm(self) -> None:
        deadline = self.node.poll_timeout()
        at = None if deadline is None else deadline.at
        if at is not None and at != self._timer_at:
            self._timer_at = at
            node = self.node

            def due() -> None:
                if self.node is node and self._timer_at == at:
                    self._timer_at = None
                    node.handle_timeout(self.clock.now)
                    self.rearm()

            self.clock.at(at, due)

    def relay_message(self, socket: Socket, frame: bytes) -> None:
        """A message from the node to a client, by way of whatever stands between them."""
        relay, rng = self.relay, self.random
        if relay.loss and rng.random() < relay.loss:
            self.fired["loss"] += 1
            return
        if relay.corrupt and rng.random() < relay.corrupt:
            self.fired["corrupt"] += 1
            damaged = bytearray(frame)
            damaged[-rng.randrange(1, min(len(frame), 40))] ^= 1 << rng.randrange(8)
            frame = bytes(damaged)
        copies = 1
        if relay.duplicate and rng.random() < relay.duplicate:
            self.fired["duplicate"] += 1
            copies = rng.choice((2, 2, 3))
        for _ in range(copies):
            if relay.reorder_s and rng.random() < 0.5:
                self.fired["reorder"] += 1
                self.clock.after(rng.uniform(0, relay.reorder_s), lambda: socket.deliver(frame))
            else:
                socket.deliver(frame)
        if relay.replay:
            self._recent.append((socket, frame))
            if rng.random() < relay.replay:
                self.fired["replay"] += 1
                to, old = rng.choice(self._recent)
                self.clock.after(rng.uniform(0, 5), lambda: to.deliver(old))
