"""The node: who is connected, who may send, and where each message goes. Pure.

Contract with its shell (`nconnect.io.nkn.node_server`):

    connection = node.open(transport, remote_host, info, now)      # None: refused, the shell closes it
    node.receive_text(connection, data, now)                       # data is borrowed until the call returns
    node.receive_binary(connection, data, now)
    node.writable(connection, now)                                 # its socket takes data again
    node.closed(connection)                                        # its socket is gone; the last call, once
    node.poll_timeout() -> Deadline | None;  node.handle_timeout(now)

While the destination's socket is writable, a message goes there directly from the buffer in which it arrived,
as a cached head and a view, without a copy. Otherwise it is copied into that client's `Egress`. If nobody is
logged in as the destination, it goes into the `OfflineMailbox` if its sender asked for that.

Nothing that a client sends raises an error: it is dropped and counted under a `NodeDrop`. As at the official
node, the connection stays open, unless a login's signature is wrong, or more than `MAX_BAD_FRAMES` frames
break the protocol within one `ping_interval_s`. Messages of each pair of clients stay in order.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nconnect.crypto.keys import Identity, verify
from nconnect.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from nconnect.model import Buffer, Deadline, NknAddress, Rng
from nconnect.node.connection import Connection, Event, State, Transport
from nconnect.node.proof import BlockHashes, Ledger
from nconnect.node.relay import Relay, may_log_in
from nconnect.node.reorder import Reorderer
from nconnect.node.settings import (
    INFLATES_AT_ONCE,
    INFLATES_FREELY,
    MAX_CONNECTIONS_PER_ADDRESS,
    NodeDrop,
    NodeSettings,
)
from nconnect.node.sources import Sources
from nconnect.queueing.rate_limiter import RateLimiter, limit_key
from nconnect.queueing.turns import MESSAGE_WORK, Turns
from nconnect.wire import actions
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import (
    MAX_FRAME_BYTES,
    InflatesTooFar,
    OutboundMessage,
    Receipt,
    decode_client_message,
    inflate,
)
from nconnect.wire.sigchain import login_digest

MAX_TEXT_BYTES = 16 << 10  # guessed: a setClient request has about 400
EARLY_FRAME_BYTES = 8 << 10  # larger frames before the login are skipped without being stored
MAX_EARLY_BYTES = 4 << 20  # guessed: dropped bytes of frames before the login: one of the largest frames
MAX_BAD_FRAMES = 32  # guessed: a client of another version may make mistakes now and then
MAX_UNREAD_ANSWER_BYTES = 4 << 10  # guessed: a client that does not read our answers gets no more of them
INFLATE_WORK = 4  # measured: decompressing a byte costs as much as relaying this many
VERIFY_WORK = 16 * MESSAGE_WORK  # measured: the cost of checking a signature
_CLIENT = State.CLIENT  # saves the look-up of the member in its class
_NONE: Mapping[str, int] = MappingProxyType({})
_CHECK_GRAIN_S = 0.5  # checks are rounded up to it, so that many idle clients share a wakeup


@dataclass(frozen=True, slots=True)
class NodeStats:
    """The node's counters since its start, and what it holds now."""

    connections: int
    clients: int
    logins: int
    messages: int  # relayed, counted once per destination
    bytes: int  # of their payloads
    receipts: int  # valid ones
    queue_bytes: int
    held_messages: int  # kept for offline clients
    held_bytes: int
    drops: dict[str, int]  # by `NodeDrop`, those that happened


class Node:
    """All connections of one node. One task owns it."""

    def __init__(self, identity: Identity, settings: NodeSettings, *, now: float, rng: Rng) -> None:
        self.settings = settings
        self.chain = BlockHashes(identity.public_key, now)
        self.turns = Turns()
        self.relay = Relay(settings, rng)
        self._public_key = identity.public_key
        self._rng = rng
        # Set by the shell: closes the oldest socket of this source whose handshake is not done.
        self.close_opening: Callable[[str], None] | None = None
        self._limiter = RateLimiter(settings.rate_per_s, settings.burst)
        self._inflated = RateLimiter(settings.inflated_rate, max(MAX_FRAME_BYTES, settings.inflated_rate))
        self._connections: dict[int, Connection] = {}
        self._sources = Sources(self.turns, self.relay.pool)
        self._logged_in = 0
        self._logins = 0
        self._receipts = 0
        self._opened = 0
        # One entry for each open connection; entries of closed connections are skipped when they are due.
        self._checks: list[tuple[float, int]] = []
        self._next_block_at = self.chain.next_at(now)

    # --- connections ---

    def admits(self, remote_host: str, now: float, *, opening: Mapping[str, int] = _NONE) -> bool:
        """Whether a host may connect now. Call it before the handshake, which costs work.

        `opening` counts the sockets whose handshake is not done yet, by source (`limit_key`): they occupy
        places too.
        """
        return self.has_room(remote_host, opening) and self.in_rate(remote_host, now)

    def in_rate(self, remote_host: str, now: float) -> bool:
        """Whether this host is within its rate of connections. Counts the connection, or its refusal."""
        allowed = self._limiter.allow(remote_host, now)
        if not allowed:
            self.count(NodeDrop.RATE_LIMITED)
        return allowed

    def has_room(self, remote_host: str, opening: Mapping[str, int]) -> bool:
        """Whether one more connection of this host fits. Counts a refusal.

        A source may hold `source_share` connections. When the node is full, a source that has fewer than the
        largest source takes a place from it, so that a few sources cannot keep others out. The same holds
        for the `max_logins` places of connections that have not logged in.
        """
        key = limit_key(remote_host)
        source = self._sources.get(key)
        connections, challenged = (
            (len(source.connections), len(source.challenged)) if source is not None else (0, 0)
        )
        here, all_opening = opening.get(key, 0), sum(opening.values())
        if (
            connections + here < self.settings.source_share
            and (
                len(self._connections) + all_opening < self.settings.max_connections
                or self._displace_for(connections + here)
            )
            and (
                self._sources.challenged + all_opening < self.settings.max_logins
                or self._displace_login_for(challenged + here, opening)
            )
        ):
            return True
        self.count(NodeDrop.TOO_MANY_CONNECTIONS)
        return False

    def _displace_for(self, held: int) -> bool:
        """Close a connection of the largest source, if it has more than `held` + 1: one that is not logged
        in, otherwise the one that has been silent longest."""
        most = max((source.connections for source in self._sources), key=len, default={})
        if len(most) <= held + 1:
            return False
        victim = min(most.values(), key=lambda c: (c.state is _CLIENT, c.heard_at, c.number))
        self._refuse(victim, NodeDrop.DISPLACED)
        return True

    def _displace_login_for(self, held: int, opening: Mapping[str, int]) -> bool:
        """The same for connections without login: close the oldest, first one that is not a websocket yet."""
        counts = Counter(opening)
        counts.update({source.key: len(source.challenged) for source in self._sources})
        key, most = counts.most_common(1)[0] if counts else ("", 0)
        if most <= held + 1:
            return False
        if opening.get(key) and self.close_opening is not None:
            self.close_opening(key)
            self.count(NodeDrop.DISPLACED)
            return True
        source = self._sources.get(key)
        assert source is not None
        self._refuse(next(iter(source.challenged.values())), NodeDrop.DISPLACED)
        return True

    def open(self, transport: Transport, remote_host: str, info: NodeInfo, now: float) -> Connection | None:
        """A websocket is open: challenge it. None if there are too many; then the shell closes it."""
        if len(self._connections) >= self.settings.max_connections:
            self.count(NodeDrop.TOO_MANY_CONNECTIONS)
            return None
        self._opened += 1
        source = self._sources.of(remote_host)
        connection = Connection(self._opened, transport, info, self._rng(32), source, now)
        self._connections[connection.number] = connection
        self._sources.add(connection)
        self._check_later(connection, now + self.settings.login_timeout_s)
        transport.send_text(actions.AuthChallenge(connection.challenge).encode())
        return connection

    def closed(self, connection: Connection) -> None:
        """The websocket is gone."""
        was_client = connection.state is State.CLIENT
        if not connection.move(Event.CLOSED):
            raise LocalProtocolError("a connection was closed twice")
        self._connections.pop(connection.number, None)
        self._sources.remove(connection)
        self.relay.unstuck(connection)
        self.relay.disordered.pop(connection.number, None)
        if connection.egress is not None:
            connection.egress.clear()
            connection.egress = None
        if was_client:
            self._logged_in -= 1
            left = tuple(c for c in self.relay.clients[connection.address] if c is not connection)
            if left:
                self.relay.clients[connection.address] = left
            else:
                del self.relay.clients[connection.address]
                if self.relay.elsewhere is not None:
                    self.relay.elsewhere.logged_out(connection.address)

    # --- data lane ---

    def receive_binary(self, connection: Connection, data: Buffer, now: float) -> None:
        """A binary frame: a message to relay, or a receipt."""
        if connection.state is not _CLIENT:
            if connection.state is State.CHALLENGED:
                self._drop_early(connection, len(data))
            return
        view = data if type(data) is memoryview else memoryview(data)
        known = connection.heads.find(view)
        if known is not None:
            self.relay.pass_on(connection, known[0], known[1], now)
            return
        try:
            message = decode_client_message(view, lambda body: self._inflate(connection, body, now))
        except InflatesTooFar:
            self.count(NodeDrop.INFLATES_TOO_FAR)
            return
        except RemoteProtocolError:
            self._tolerate(connection, NodeDrop.MALFORMED)
            return
        if type(message) is OutboundMessage:
            if connection.ledger is not None:
                connection.source.share.charge(VERIFY_WORK * len(message.dests))
                if not connection.ledger.check_outbound(message, now):
                    self._tolerate(connection, NodeDrop.BAD_SIGNATURE)
                    return
            self.relay.relay(connection, message, now)
            if connection.ledger is None and self.relay.is_repeatable(message):
                payload = message.payloads[0]
                connection.heads.keep(view, message.dests[0], len(payload), payload)
        elif type(message) is Receipt:
            self._take_receipt(connection, message)
        else:
            self._tolerate(connection, NodeDrop.MALFORMED)

    def _inflate(self, connection: Connection, body: Buffer, now: float) -> bytes:
        """Decompress within the source's budget and without delaying others: a kilobyte can expand to
        megabytes."""
        free = INFLATES_FREELY * len(body)
        source = connection.source
        left = self._inflated.left(source.key, now)
        most = max(1, int(min(MAX_FRAME_BYTES, free + min(left, INFLATES_AT_ONCE))))
        try:
            plain = inflate(body, most)
        except RemoteProtocolError:
            self._inflated.take(source.key, max(0.0, min(left, most - free)))
            source.share.charge(INFLATE_WORK * most)
            raise
        self._inflated.take(source.key, max(0, len(plain) - free))
        source.share.charge(INFLATE_WORK * len(plain))
        return plain

    def skipped(self, connection: Connection, size_bytes: int) -> None:
        """Note a frame before the login that was too large to be stored (`EARLY_FRAME_BYTES`)."""
        if connection.state is State.CHALLENGED:
            self._drop_early(connection, size_bytes)

    def _drop_early(self, connection: Connection, size_bytes: int) -> None:
        """Drop a binary frame before the login. They are normal: a MultiClient of the official Go SDK sends
        through all its clients as soon as one of them is logged in."""
        connection.early_bytes += size_bytes
        if connection.early_bytes > MAX_EARLY_BYTES:
            self._refuse(connection, NodeDrop.NOT_LOGGED_IN)
        else:
            self.count(NodeDrop.NOT_LOGGED_IN)

    def _take_receipt(self, connection: Connection, receipt: Receipt) -> None:
        if connection.ledger is None:
            return  # we did not ask for one; the official node ignores it too
        if connection.ledger.check_receipt(receipt):
            self._receipts += 1
        else:
            self._tolerate(connection, NodeDrop.BAD_RECEIPT)

    def writable(self, connection: Connection, now: float) -> None:
        """Send what waited, until the socket is full again."""
        self.relay.writable(connection, now)

    # --- control lane ---

    def receive_text(self, connection: Connection, data: Buffer, now: float) -> None:
        """A text frame: the login, or an action that a node without a chain answers with an error."""
        if connection.state is State.CLOSED:
            return
        if connection.transport.unsent_bytes > MAX_UNREAD_ANSWER_BYTES:
            self._tolerate(connection, NodeDrop.STALLED)
            return
        if len(data) > MAX_TEXT_BYTES:
            self._reject(connection, "", actions.ILLEGAL_DATA_FORMAT, NodeDrop.TOO_BIG)
            return
        try:
            request = actions.parse_client_action(data)
        except RemoteProtocolError:
            self._reject(connection, "", actions.ILLEGAL_DATA_FORMAT, NodeDrop.MALFORMED)
            return
        if isinstance(request, actions.SetClient):
            self._log_in(connection, request, now)
        else:
            connection.transport.send_text(_refusal("", actions.INVALID_METHOD))

    def _log_in(self, connection: Connection, request: actions.SetClient, now: float) -> None:
        try:
            address = NknAddress.parse(request.address)
        except ConfigError:
            address = None
        if address is None or not may_log_in(request.address):
            self._reject(connection, "setClient", actions.INVALID_PARAMS, NodeDrop.BAD_LOGIN)
            return
        connection.source.share.charge(VERIFY_WORK)
        digest = login_digest(connection.challenge, request.salt)
        if not verify(address.public_key, digest, request.signature):
            connection.transport.send_text(_refusal("setClient", actions.INVALID_SIGNATURE))
            self._refuse(connection, NodeDrop.BAD_LOGIN)
            return
        if connection.state is _CLIENT and connection.address == request.address:
            self._confirm_login(connection, now)  # it asks again, for example because our answer was late
            return
        if not connection.move(Event.LOGGED_IN):
            self._reject(connection, "setClient", actions.INVALID_METHOD, NodeDrop.BAD_LOGIN)
            return
        others = self.relay.clients.get(request.address, ())
        if len(others) >= MAX_CONNECTIONS_PER_ADDRESS:
            # Each gets every message: without a bound a client could have the node multiply its messages.
            self._refuse(others[0], NodeDrop.DISPLACED)
        connection.address = request.address
        self._sources.logged_in(connection)
        connection.transport.lift_limit()
        if self.settings.verify_signatures:
            connection.ledger = Ledger(address, self._public_key, self.chain)
        if self.settings.reorder:
            connection.reorderer = Reorderer(connection.number)
        connection.direct = connection.ledger is None and connection.reorderer is None
        self._confirm_login(connection, now)
        if connection.state is State.CLIENT:  # sending may have found the socket gone
            if self.relay.elsewhere is not None and request.address not in self.relay.clients:
                self.relay.elsewhere.logged_in(request.address)
            self.relay.clients[request.address] = (*self.relay.clients.get(request.address, ()), connection)
            self._logged_in += 1
            self._logins += 1
            if self.relay.holding.waits(request.address):
                self.relay.start_draining(connection, now)

    def _confirm_login(self, connection: Connection, now: float) -> None:
        block_hash = self.chain.block_hash(self.chain.height(now))
        answer = actions.ClientSet(connection.info, block_hash, self.settings.waives)
        connection.transport.send_text(answer.encode())

    # --- time ---

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`; None if nothing is scheduled."""
        if self.relay.flush_at is not None:
            return Deadline(self.relay.flush_at, "reorder")
        end = self.relay.holding.next_end()
        if not self._checks:
            return None if end is None else Deadline(end, "held messages")
        at, why = self._checks[0][0], "check connections"
        if end is not None and end < at:
            at, why = end, "held messages"
        if self.settings.verify_signatures and self._next_block_at < at:
            at, why = self._next_block_at, "block hash"
        return Deadline(at, why)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; harmless when nothing is."""
        if self.relay.flush_at is not None and now >= self.relay.flush_at:
            self.relay.flush_disordered(now)
        if now >= self._next_block_at:
            self._next_block_at = self.chain.next_at(now)
            if self.settings.verify_signatures:
                self._announce_block(now)
        self.relay.holding.expire(now)
        while self._checks and self._checks[0][0] <= now:
            connection = self._connections.get(heapq.heappop(self._checks)[1])
            if connection is not None:
                self._check(connection, now)

    def _check(self, connection: Connection, now: float) -> None:
        """Close a connection without login, a silent one, one that does not read; ping an idle one."""
        settings, transport = self.settings, connection.transport
        connection.bad_frames = 0
        if connection.state is State.CHALLENGED:
            self._refuse(connection, NodeDrop.LOGIN_TIMEOUT)
            return
        heard = transport.rx_bytes != connection.rx_seen
        if heard:
            connection.rx_seen, connection.heard_at = transport.rx_bytes, now
        if transport.writable or transport.tx_bytes != connection.tx_seen:
            connection.tx_seen, connection.moved_at = transport.tx_bytes, now
        if now - connection.heard_at >= settings.idle_timeout_s:
            self._refuse(connection, NodeDrop.IDLE)
        elif now - connection.moved_at >= settings.stall_timeout_s:
            self._refuse(connection, NodeDrop.STALLED)
        else:
            self._check_later(connection, now + settings.ping_interval_s)
            if transport.writable and not heard:
                transport.ping()

    def _check_later(self, connection: Connection, at: float) -> None:
        at = -(-at // _CHECK_GRAIN_S) * _CHECK_GRAIN_S
        heapq.heappush(self._checks, (at, connection.number))
        if len(self._checks) > 2 * len(self._connections) + 1024:
            # Short connections have left many stale entries.
            self._checks = sorted(entry for entry in self._checks if entry[1] in self._connections)

    def _announce_block(self, now: float) -> None:
        text = actions.BlockHashUpdate(self.chain.block_hash(self.chain.height(now))).encode()
        for targets in list(self.relay.clients.values()):
            for target in targets:
                if target.transport.writable:
                    target.transport.send_text(text)

    # --- counting ---

    def count(self, reason: NodeDrop) -> None:
        """Count one dropped message or connection."""
        self.relay.count(reason)

    def stats(self) -> NodeStats:
        return NodeStats(
            connections=len(self._connections),
            clients=self._logged_in,
            logins=self._logins,
            messages=self.relay.messages,
            bytes=self.relay.bytes,
            receipts=self._receipts,
            queue_bytes=self.relay.pool.used_bytes,
            held_messages=self.relay.holding.held_messages,
            held_bytes=self.relay.holding.held_bytes,
            drops={reason.value: count for reason, count in self.relay.drops.items() if count},
        )

    def _refuse(self, connection: Connection, reason: NodeDrop) -> None:
        """Count it, and close the connection."""
        self.count(reason)
        connection.transport.close(1008, reason.value)

    def _tolerate(self, connection: Connection, reason: NodeDrop) -> None:
        """Drop and count a frame that breaks the protocol; close the connection if there are many."""
        connection.bad_frames += 1
        if connection.bad_frames > MAX_BAD_FRAMES:
            self._refuse(connection, reason)
        else:
            self.count(reason)

    def _reject(self, connection: Connection, action: str, code: int, reason: NodeDrop) -> None:
        """Answer a text frame with an error, and tolerate it."""
        connection.transport.send_text(_refusal(action, code))
        if connection.state is not State.CLOSED:  # sending may have found the socket gone
            self._tolerate(connection, reason)


def _refusal(action: str, code: int) -> str:
    return actions.ErrorReply(action, code, actions.ERROR_TEXTS[code]).encode()
