"""Where each message goes: to its destination's socket, its queue, its mailbox, or another node. Pure.

Part of `nconnect.node.core`, which hands over only messages of clients that have logged in. It knows who is
logged in under which address, and counts what it relays and drops.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from nconnect.errors import ConfigError, DropReason
from nconnect.model import MAX_ADDRESS_CHARS, Buffer, NknAddress, Rng
from nconnect.node.connection import Connection, State, Stuck
from nconnect.node.egress import Egress, Pool
from nconnect.node.mailbox import Held, OfflineMailbox
from nconnect.node.proof import PrevHashes
from nconnect.node.reorder import HOLD_S
from nconnect.node.settings import MAX_DESTS_PER_MESSAGE, NodeDrop, NodeSettings
from nconnect.queueing.rate_limiter import RateLimiter
from nconnect.queueing.turns import MESSAGE_WORK
from nconnect.wire.nkn import MAX_MESSAGE_BYTES, OutboundMessage, inbound_prefix

MAX_FANOUT_BYTES = 64 << 20  # guessed: the most that one frame with many dests may send
DEAF_S = 2.0  # guessed: a client that takes nothing for so long is the first to lose its waiting messages
HOLD_WORK = 8 * MESSAGE_WORK  # measured: the cost of a message to an offline client
MAX_CACHED_PREFIXES = 256  # guessed: message sizes that one client uses repeatedly


class Elsewhere(Protocol):
    """The other nodes of a cluster, if there is one. Local clients get their messages even if this fails."""

    def logged_in(self, address: str) -> None:
        """Note that the first connection of this address has logged in."""

    def logged_out(self, address: str) -> None:
        """Note that its last connection is gone."""

    def send(self, source: int, sender: int, src: str, dest: str, payload: Buffer, holding_s: int) -> bool:
        """Copy a message for a client of another node; False if no other node has that client.

        `source` and `sender` are the numbers of the sending address and client, for fair turns.
        """
        ...


class Relay:
    """The clients of one node, and the delivery of messages to them."""

    def __init__(self, settings: NodeSettings, rng: Rng) -> None:
        self.settings = settings
        self.clients: dict[str, tuple[Connection, ...]] = {}  # address -> its logged-in connections
        self.elsewhere: Elsewhere | None = None
        self.capture: Callable[[Buffer], None] | None = None  # tests: sees each payload, borrowed
        self.messages = 0
        self.bytes = 0
        self.drops = dict.fromkeys(NodeDrop, 0)
        self.pool = Pool(settings.node_queue_bytes)
        self.holding = OfflineMailbox(
            limit_bytes=settings.holding_bytes,
            mailbox_bytes=settings.client_holding_bytes,
            mailbox_messages=settings.client_holding_messages,
            dropped=self.count,
        )
        self.stuck: dict[int, Connection] = {}  # connections whose socket keeps unread bytes
        self._holds = RateLimiter(settings.holding_rate_per_s, round(4 * (settings.holding_rate_per_s or 1)))
        self.disordered: dict[int, Connection] = {}
        self.flush_at: float | None = None
        self._prev_hashes = PrevHashes(rng)

    def writable(self, connection: Connection, now: float) -> None:
        """Send what waited, until the socket is full again."""
        if connection.drains_mail and not self._drain_mail(connection, now):
            return
        if connection.stuck is not None:
            self.unstuck(connection)
        egress = connection.egress
        if egress is None:
            return
        transport = connection.transport
        while transport.writable:
            message = egress.take(now)
            if message is None:
                connection.egress = None
                return
            transport.send_binary((message,))
        if transport.unsent_bytes:
            self._stuck(connection, now)

    def unstuck(self, connection: Connection) -> None:
        """Note that its socket has sent what it had kept, or is gone."""
        stuck, connection.stuck = connection.stuck, None
        if stuck is not None:
            del self.stuck[connection.number]
            connection.source.waiting.add(-stuck.size_bytes)

    def _stuck(self, connection: Connection, now: float) -> None:
        """Count the bytes that its socket keeps because its client does not read, and enforce the bound for
        all clients together."""
        transport = connection.transport
        kept = connection.stuck
        if kept is None:
            kept = connection.stuck = Stuck(0, transport.tx_bytes, now)
            self.stuck[connection.number] = connection
        connection.source.waiting.add(transport.unsent_bytes - kept.size_bytes)
        kept.size_bytes = transport.unsent_bytes
        while self.pool.is_over and self.stuck:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Enforce the bound on bytes that wait for clients to read.

        At the address with most waiting bytes, the client with most loses its queue and, if that is not
        enough, its connection. Clients that have taken nothing at all for a while come first.
        """
        deaf = [
            c
            for c in self.stuck.values()
            if c.stuck is not None
            and c.transport.tx_bytes == c.stuck.tx_bytes
            and now - c.stuck.since > DEAF_S
        ]
        victim = max(deaf or self.stuck.values(), key=_waiting)
        if victim.egress is not None:
            victim.egress.clear(DropReason.QUEUE_FULL)
            victim.egress = None
        if self.pool.is_over:
            self.count(NodeDrop.STALLED)
            victim.transport.close(1008, NodeDrop.STALLED.value)
            self.unstuck(victim)

    def relay(self, source: Connection, message: OutboundMessage, now: float) -> None:
        """Relay a client's message to each of its dests."""
        dests = message.dests
        payloads = message.payloads
        if len(dests) > 1 and not self._fanout_is_bearable(message):
            return
        shared = len(payloads) == 1
        payload = payloads[0]
        for index, dest in enumerate(dests):
            if not shared:
                payload = payloads[index]
            size = len(payload)
            if size > MAX_MESSAGE_BYTES:
                self.drops[NodeDrop.TOO_BIG] += 1
                continue
            targets = self.clients.get(dest)
            if (
                self.elsewhere is not None
                and self.elsewhere.send(
                    source.source.number,
                    source.number,
                    source.address,
                    dest,
                    payload,
                    message.max_holding_seconds,
                )
                and targets is None
            ):
                continue  # the node where it arrives counts it
            if index:
                source.source.share.charge(MESSAGE_WORK + size)
            if targets is None:
                self._undeliverable(source, message, index, payload, now)
                continue
            self._send_to(targets, source, payload, now)

    def pass_on(self, source: Connection, dest: str, payload: Buffer, now: float) -> None:
        """Relay a message with the same head as an earlier one: one dest, unsigned, not to be held."""
        targets = self.clients.get(dest)
        if targets is None:
            self.drops[NodeDrop.UNKNOWN_DEST] += 1
        else:
            self._send_to(targets, source, payload, now)

    def deliver_from_elsewhere(
        self, node: str, src: str, dest: str, payload: Buffer, holding_s: int, now: float
    ) -> None:
        """Deliver a message to a client of ours that another node of the cluster received."""
        size = len(payload)
        targets = self.clients.get(dest)
        if targets is None:
            self._hold(f"node {node}", src, dest, payload, holding_s, now)
            return
        prefix = inbound_prefix(src, size)
        sender = -1 - zlib.crc32(src.encode())
        for target in targets:
            self._deliver(target, src, sender, sender, prefix, payload, now)
        self.messages += 1
        self.bytes += size
        if self.capture is not None:
            self.capture(payload)

    def start_draining(self, connection: Connection, now: float) -> None:
        """Begin to send its mail to a client that has just logged in; its newest connection gets the rest."""
        for other in self.clients[connection.address]:
            if other.drains_mail:
                self._stop_draining(other)
        connection.drains_mail, connection.direct = True, False
        self._drain_mail(connection, now)

    def forward_mail(self, address: str, now: float) -> None:
        """Forward what is held here for a client that has logged in on another node."""
        while self.elsewhere is not None and (held := self.holding.take(address, now)) is not None:
            seconds = math.ceil(held.expires_at - now)
            if not self.elsewhere.send(0, 0, held.src, address, held.payload, seconds):
                self.holding.put_back(address, held)
                return

    def flush_disordered(self, now: float) -> None:
        """For tests: send what the reorderers hold back."""
        self.flush_at = None
        disordered, self.disordered = self.disordered, {}
        for target in disordered.values():
            assert target.reorderer is not None
            for message in target.reorderer.flush():
                self._send_or_queue(target, 0, 0, (message,), now)

    def is_repeatable(self, message: OutboundMessage) -> bool:
        """Whether another message to the same dest would differ in its payload only."""
        return (
            self.elsewhere is None
            and len(message.dests) == 1
            and not message.signatures
            and not message.max_holding_seconds
        )

    def count(self, reason: NodeDrop) -> None:
        """Count one dropped message or connection."""
        self.drops[reason] += 1

    # --- details ---

    def _send_to(
        self, targets: Sequence[Connection], source: Connection, payload: Buffer, now: float
    ) -> None:
        size = len(payload)
        prefix = source.prefixes.get(size) or self._prefix(source, size)
        for target in targets:
            if target.direct and target.egress is None and target.transport.writable:
                target.transport.send_binary((prefix, payload))
                if not target.transport.writable and target.transport.unsent_bytes:
                    self._stuck(target, now)
            else:
                self._deliver(
                    target, source.address, source.source.number, source.number, prefix, payload, now
                )
        self.messages += 1
        self.bytes += size
        if self.capture is not None:
            self.capture(payload)

    def _deliver(
        self,
        target: Connection,
        src: str,
        source: int,
        sender: int,
        prefix: bytes,
        payload: Buffer,
        now: float,
    ) -> None:
        """The slow path: ask for a receipt, disturb the order (tests), or queue."""
        if target.state is not State.CLIENT:
            return  # it was closed while this message was sent to another connection
        if target.ledger is not None and target.ledger.may_owe(now):
            prev_hash = self._prev_hashes.next()
            target.ledger.owe(prev_hash, now)
            prefix = inbound_prefix(src, len(payload), prev_hash)
        if target.reorderer is not None:
            leaving = target.reorderer.push(b"".join((prefix, payload)))
            if len(target.reorderer):
                self.disordered[target.number] = target
                if self.flush_at is None:
                    self.flush_at = now + HOLD_S
            for message in leaving:
                self._send_or_queue(target, source, sender, (message,), now)
        else:
            self._send_or_queue(target, source, sender, (prefix, payload), now)

    def _send_or_queue(
        self, target: Connection, source: int, sender: int, parts: Sequence[Buffer], now: float
    ) -> None:
        if target.egress is None and target.transport.writable and not target.drains_mail:
            target.transport.send_binary(parts)
            if target.transport.unsent_bytes:
                self._stuck(target, now)
            return
        if target.state is not State.CLIENT:
            return
        if target.egress is None:
            target.egress = Egress[bytes](self.settings.client_queue_bytes, target.source.waiting, self.count)
        target.egress.put(source, sender, b"".join(parts), now)
        if not len(target.egress):
            target.egress = None

    def _prefix(self, source: Connection, size: int) -> bytes:
        """The head of a message from `source` of this size, which is not in the cache yet."""
        if len(source.prefixes) >= MAX_CACHED_PREFIXES:
            source.prefixes.clear()
        prefix = source.prefixes[size] = inbound_prefix(source.address, size)
        return prefix

    def _fanout_is_bearable(self, message: OutboundMessage) -> bool:
        dests, payloads = message.dests, message.payloads
        size = len(payloads[0]) * len(dests) if len(payloads) == 1 else sum(len(p) for p in payloads)
        if len(dests) <= MAX_DESTS_PER_MESSAGE and size <= MAX_FANOUT_BYTES:
            return True
        self.drops[NodeDrop.TOO_MANY_DESTS] += 1
        return False

    def _undeliverable(
        self, source: Connection, message: OutboundMessage, index: int, payload: Buffer, now: float
    ) -> None:
        """Nobody is logged in as `message.dests[index]`: keep the message for as long as its sender asked."""
        if message.max_holding_seconds:
            if not self._holds.allow(source.source.key, now):
                self.drops[NodeDrop.HOLDING_FULL] += 1
                return
            source.source.share.charge(HOLD_WORK)
        self._hold(
            source.source.key, source.address, message.dests[index], payload, message.max_holding_seconds, now
        )

    def _hold(self, account: str, src: str, dest: str, payload: Buffer, holding_s: int, now: float) -> None:
        if not holding_s or not self.settings.holding_bytes or not may_log_in(dest):
            self.drops[NodeDrop.UNKNOWN_DEST] += 1
            return
        until = now + min(holding_s, self.settings.max_holding_s)
        self.holding.put(dest, Held(src, bytes(payload), account, until), now)

    def _drain_mail(self, target: Connection, now: float) -> bool:
        """Send held messages while the client's socket takes them; True if all are sent."""
        while target.state is State.CLIENT and target.drains_mail:
            if not target.transport.writable:
                return False
            held = self.holding.take(target.address, now)
            if held is None:
                self._stop_draining(target)
                return True
            size = len(held.payload)
            prefix = inbound_prefix(held.src, size)
            if target.ledger is not None and target.ledger.may_owe(now):
                prev_hash = self._prev_hashes.next()
                target.ledger.owe(prev_hash, now)
                prefix = inbound_prefix(held.src, size, prev_hash)
            target.transport.send_binary((prefix, held.payload))
            if target.transport.unsent_bytes:
                self._stuck(target, now)
            self.messages += 1
            self.bytes += size
        return False

    def _stop_draining(self, connection: Connection) -> None:
        connection.drains_mail = False
        connection.direct = connection.ledger is None and connection.reorderer is None


def may_log_in(address: str) -> bool:
    """Whether this is an address, in exactly this spelling, with which a client can log in."""
    if len(address) > MAX_ADDRESS_CHARS:
        return False
    try:
        return str(NknAddress.parse(address)) == address
    except ConfigError:
        return False


def _waiting(connection: Connection) -> tuple[int, int]:
    """(bytes that wait for all clients at its address, bytes that wait for the client itself)."""
    own = 0 if connection.stuck is None else connection.stuck.size_bytes
    if connection.egress is not None:
        own += connection.egress.size_bytes
    return connection.source.waiting.used_bytes, own
