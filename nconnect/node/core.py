"""The node: who is connected, who may send, and where each message goes. Pure.

Contract with its shell (`nconnect.io.node_server`):

    connection = node.open(transport, remote_host, info, now)      # None: refused, close the socket
    node.receive_text(connection, data, now)                       # data is borrowed until the call returns
    node.receive_binary(connection, data, now)
    node.writable(connection, now)                                 # its socket takes data again
    node.closed(connection)                                        # its socket is gone; once, last
    node.poll_timeout() -> Deadline | None;  node.handle_timeout(now)

A message goes straight from the buffer in which it arrived to its destination's socket, as a cached head
and a view, with no copy, as long as that socket takes it. Else it is copied into that client's `Egress`; and
when nobody is logged in as its destination, into `Holding`, if its sender wants that.
Whatever a client sends never raises: it is counted under a `NodeDrop`, and where it is not a matter of
load but of protocol, the connection is closed. The order of each pair of clients is kept.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nconnect.crypto.keys import Identity, verify
from nconnect.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from nconnect.model import Deadline, NknAddress
from nconnect.node.connection import Buffer, Connection, Event, State, Transport
from nconnect.node.egress import Egress, Pool
from nconnect.node.holding import Held, Holding
from nconnect.node.limits import RateLimiter, limit_key
from nconnect.node.proof import Chain, Ledger, PrevHashes, asking_prefix
from nconnect.node.reorder import HOLD_S, Reorderer
from nconnect.node.settings import MAX_CONNECTIONS_PER_ADDRESS, MAX_DESTS, NodeDrop, NodeSettings
from nconnect.wire import actions
from nconnect.wire.jsonrpc import NodeInfo
from nconnect.wire.nkn import (
    MAX_MESSAGE_BYTES,
    OutboundMessage,
    Receipt,
    decode_client_message,
    inbound_prefix,
)
from nconnect.wire.sigchain import login_digest

MAX_ADDRESS_CHARS = 1024  # guessed: identifiers are names; each logged-in address is kept
MAX_TEXT_BYTES = 16 << 10  # guessed: a setClient request has about 400
MAX_FANOUT_BYTES = 64 << 20  # guessed: what one frame may become when it has many dests
MAX_UNREAD_ANSWER_BYTES = 64 << 10  # guessed: who does not read our answers asks for no more of them
MAX_CACHED_PREFIXES = 256  # guessed: message sizes that one client uses again and again
_CHECK_GRAIN_S = 0.5  # checks are rounded up to it, so that many idle clients share a wakeup


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What the node has done since it started, and what it holds now."""

    connections: int
    clients: int
    logins: int
    messages: int  # passed on, each destination counted
    bytes: int  # of their payloads
    receipts: int  # checked and right
    receipts_missing: int  # asked for and never given
    queue_bytes: int
    held_messages: int  # kept for offline clients
    held_bytes: int
    drops: dict[str, int]  # by `NodeDrop`, those that happened


class Elsewhere(Protocol):
    """The other nodes of a cluster, if there is one. Local delivery never asks it to succeed."""

    def logged_in(self, address: str) -> None:
        """The first connection of this address is a client."""

    def logged_out(self, address: str) -> None:
        """Its last connection is gone."""

    def send(self, src: str, dest: str, payload: Buffer, holding_s: int) -> bool:
        """Take a message for a client of another node (a copy); False when no other node has it."""
        ...


class Node:
    """All connections of one node. One task owns it."""

    def __init__(
        self, identity: Identity, settings: NodeSettings, *, now: float, rng: Callable[[int], bytes]
    ) -> None:
        self.settings = settings
        self.chain = Chain(identity.public_key, now)
        self.messages = 0
        self.bytes = 0
        self.elsewhere: Elsewhere | None = None
        self.capture: Callable[[Buffer], None] | None = None  # tests: sees each payload, borrowed
        self._public_key = identity.public_key
        self._rng = rng
        self._prev_hashes = PrevHashes(rng)
        self._limiter = RateLimiter(settings.rate_per_s, settings.burst)
        self._connections: dict[int, Connection] = {}
        self._clients: dict[str, tuple[Connection, ...]] = {}  # address -> all that logged in with it
        self._logged_in = 0
        self._logins = 0
        self._receipts = 0
        self._receipts_missing = 0  # of clients that are gone
        self._opened = 0
        self._drops = dict.fromkeys(NodeDrop, 0)
        self._pool = Pool(settings.node_queue_bytes)
        self._holding = Holding(
            limit_bytes=settings.holding_bytes,
            mailbox_bytes=settings.client_holding_bytes,
            mailbox_messages=settings.client_holding_messages,
            dropped=self.count,
        )
        # One entry for each open connection; those whose connection has gone are skipped in their turn.
        self._checks: list[tuple[float, int]] = []
        self._disordered: dict[int, Connection] = {}
        self._flush_at: float | None = None
        self._next_block_at = self.chain.next_at(now)

    # --- connections ---

    def admits(self, remote_host: str, now: float, *, opening: int = 0) -> bool:
        """Whether a host may connect now: asked before its handshake costs anything.

        `opening` counts the sockets whose handshake is not done yet: they take up places too.
        """
        if len(self._connections) + opening >= self.settings.max_connections:
            self.count(NodeDrop.TOO_MANY_CONNECTIONS)
            return False
        if not self._limiter.allow(remote_host, now):
            self.count(NodeDrop.RATE_LIMITED)
            return False
        return True

    def open(self, transport: Transport, remote_host: str, info: NodeInfo, now: float) -> Connection | None:
        """A websocket is open: challenge it. None when there are too many; the shell closes it then."""
        if len(self._connections) >= self.settings.max_connections:
            self.count(NodeDrop.TOO_MANY_CONNECTIONS)
            return None
        self._opened += 1
        connection = Connection(self._opened, transport, remote_host, info, self._rng(32), now)
        self._connections[connection.number] = connection
        self._check_later(connection, now + self.settings.login_timeout_s)
        transport.send_text(actions.AuthChallenge(connection.challenge).encode())
        return connection

    def closed(self, connection: Connection) -> None:
        """The websocket is gone."""
        was_client = connection.state is State.CLIENT
        if not connection.move(Event.CLOSED):
            raise LocalProtocolError("a connection was closed twice")
        self._connections.pop(connection.number, None)
        self._disordered.pop(connection.number, None)
        if connection.ledger is not None:
            self._receipts_missing += connection.ledger.forgotten
        if connection.egress is not None:
            connection.egress.clear()
            connection.egress = None
        if was_client:
            self._logged_in -= 1
            left = tuple(c for c in self._clients[connection.address] if c is not connection)
            if left:
                self._clients[connection.address] = left
            else:
                del self._clients[connection.address]
                if self.elsewhere is not None:
                    self.elsewhere.logged_out(connection.address)

    def close_all(self, why: str) -> None:
        """Say goodbye to everybody."""
        for connection in list(self._connections.values()):
            connection.transport.close(1001, why)

    # --- data lane ---

    def receive_binary(self, connection: Connection, data: Buffer, now: float) -> None:
        """A binary frame: a message to pass on, or a receipt."""
        if connection.state is not State.CLIENT:
            if connection.state is State.CHALLENGED:
                self._refuse(connection, NodeDrop.NOT_LOGGED_IN)
            return
        view = data if type(data) is memoryview else memoryview(data)
        known = connection.heads.find(view)
        if known is not None:
            self._pass_on(connection, *known, now)
            return
        try:
            message = decode_client_message(view)
        except RemoteProtocolError:
            self._refuse(connection, NodeDrop.MALFORMED)
            return
        if type(message) is OutboundMessage:
            self._relay(connection, message, now)
            if connection.ledger is None and self.elsewhere is None and _is_plain(message):
                payload = message.payloads[0]
                connection.heads.keep(view, message.dests[0], len(payload), payload)
        elif type(message) is Receipt:
            self._take_receipt(connection, message)
        else:
            self._refuse(connection, NodeDrop.MALFORMED)

    def writable(self, connection: Connection, now: float) -> None:
        """Send what waited, until the socket is full again."""
        if connection.drains_mail and not self._drain_mail(connection, now):
            return
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

    def _relay(self, source: Connection, message: OutboundMessage, now: float) -> None:
        dests = message.dests
        payloads = message.payloads
        if len(dests) > 1 and not self._fanout_is_bearable(source, message):
            return
        if source.ledger is not None and not source.ledger.check_outbound(message, now):
            self._refuse(source, NodeDrop.BAD_SIGNATURE)
            return
        shared = len(payloads) == 1
        payload = payloads[0]
        for index, dest in enumerate(dests):
            if not shared:
                payload = payloads[index]
            size = len(payload)
            if size > MAX_MESSAGE_BYTES:
                self._drops[NodeDrop.TOO_BIG] += 1
                continue
            targets = self._clients.get(dest)
            if (
                self.elsewhere is not None
                and self.elsewhere.send(source.address, dest, payload, message.max_holding_seconds)
                and targets is None
            ):
                continue  # it is counted where it arrives
            if targets is None:
                self._undeliverable(source, message, index, payload, now)
                continue
            self._send_to(targets, source, payload, now)

    def _pass_on(self, source: Connection, dest: str, payload: Buffer, now: float) -> None:
        """A message like one before: to one dest, unsigned, not to be held."""
        targets = self._clients.get(dest)
        if targets is None:
            self._drops[NodeDrop.UNKNOWN_DEST] += 1
        else:
            self._send_to(targets, source, payload, now)

    def _send_to(
        self, targets: Sequence[Connection], source: Connection, payload: Buffer, now: float
    ) -> None:
        size = len(payload)
        prefix = source.prefixes.get(size) or self._prefix(source, size)
        for target in targets:
            if target.direct and target.egress is None and target.transport.writable:
                target.transport.send_binary((prefix, payload))
            else:
                self._deliver(target, source.address, source.number, prefix, payload, now)
        self.messages += 1
        self.bytes += size
        if self.capture is not None:
            self.capture(payload)

    def deliver_from_elsewhere(
        self, node: str, src: str, dest: str, payload: Buffer, holding_s: int, now: float
    ) -> None:
        """A message that another node of the cluster, named so, took for a client of ours."""
        size = len(payload)
        targets = self._clients.get(dest)
        if targets is None:
            self._hold(f"node {node}", src, dest, payload, holding_s, now)
            return
        prefix = inbound_prefix(src, size)
        for target in targets:
            self._deliver(target, src, -1 - zlib.crc32(src.encode()), prefix, payload, now)
        self.messages += 1
        self.bytes += size
        if self.capture is not None:
            self.capture(payload)

    def forward_mail(self, address: str, now: float) -> None:
        """A client has logged in on another node: send on what is held for it here."""
        while self.elsewhere is not None and (held := self._holding.take(address, now)) is not None:
            if not self.elsewhere.send(held.src, address, held.payload, math.ceil(held.expires_at - now)):
                self._holding.put_back(address, held)
                return

    def _deliver(
        self, target: Connection, src: str, number: int, prefix: bytes, payload: Buffer, now: float
    ) -> None:
        """The longer way: with a receipt to ask for, out of order, or into the queue."""
        if target.state is not State.CLIENT:
            return  # it went while this very message was sent to another connection
        if target.ledger is not None and target.ledger.may_owe(now):
            prev_hash = self._prev_hashes.next()
            target.ledger.owe(prev_hash, now)
            prefix = asking_prefix(src, prev_hash, len(payload))
        if target.reorderer is not None:
            leaving = target.reorderer.push(b"".join((prefix, payload)))
            if len(target.reorderer):
                self._disordered[target.number] = target
                if self._flush_at is None:
                    self._flush_at = now + HOLD_S
            for message in leaving:
                self._send_or_queue(target, number, (message,), now)
        else:
            self._send_or_queue(target, number, (prefix, payload), now)

    def _send_or_queue(self, target: Connection, source: int, parts: Sequence[Buffer], now: float) -> None:
        if target.egress is None and target.transport.writable and not target.drains_mail:
            target.transport.send_binary(parts)
            return
        if target.state is not State.CLIENT:
            return
        if target.egress is None:
            target.egress = Egress(self.settings.client_queue_bytes, self._pool, self.count)
        target.egress.put(source, b"".join(parts), now)
        if not len(target.egress):
            target.egress = None

    def _prefix(self, source: Connection, size: int) -> bytes:
        """The head of a message from `source` of this size, from the cache if it is there."""
        prefixes = source.prefixes
        prefix = prefixes.get(size)
        if prefix is None:
            if len(prefixes) >= MAX_CACHED_PREFIXES:
                prefixes.clear()
            prefix = prefixes[size] = inbound_prefix(source.address, size)
        return prefix

    def _fanout_is_bearable(self, source: Connection, message: OutboundMessage) -> bool:
        dests, payloads = message.dests, message.payloads
        size = len(payloads[0]) * len(dests) if len(payloads) == 1 else sum(len(p) for p in payloads)
        if len(dests) <= MAX_DESTS and size <= MAX_FANOUT_BYTES:
            return True
        self._drops[NodeDrop.TOO_MANY_DESTS] += 1
        return False

    def _undeliverable(
        self, source: Connection, message: OutboundMessage, index: int, payload: Buffer, now: float
    ) -> None:
        """Nobody is logged in as `message.dests[index]`: keep the message for as long as its sender wants."""
        host = limit_key(source.remote_host)
        self._hold(host, source.address, message.dests[index], payload, message.max_holding_seconds, now)

    def _hold(self, account: str, src: str, dest: str, payload: Buffer, holding_s: int, now: float) -> None:
        if not holding_s or not self.settings.holding_bytes or not _may_log_in(dest):
            self._drops[NodeDrop.UNKNOWN_DEST] += 1
            return
        until = now + min(holding_s, self.settings.max_holding_s)
        self._holding.put(dest, Held(src, bytes(payload), account, until), now)

    def _drain_mail(self, target: Connection, now: float) -> bool:
        """Send what was held for a client while its socket takes it; whether that is all of it."""
        while target.state is State.CLIENT and target.drains_mail:
            if not target.transport.writable:
                return False
            held = self._holding.take(target.address, now)
            if held is None:
                self._stop_draining(target)
                return True
            size = len(held.payload)
            prefix = inbound_prefix(held.src, size)
            if target.ledger is not None and target.ledger.may_owe(now):
                prev_hash = self._prev_hashes.next()
                target.ledger.owe(prev_hash, now)
                prefix = asking_prefix(held.src, prev_hash, size)
            target.transport.send_binary((prefix, held.payload))
            self.messages += 1
            self.bytes += size
        return False

    def _stop_draining(self, connection: Connection) -> None:
        connection.drains_mail = False
        connection.direct = connection.ledger is None and connection.reorderer is None

    def _take_receipt(self, connection: Connection, receipt: Receipt) -> None:
        if connection.ledger is None:
            return  # we asked for none; the official node's answer to that is silence too
        if connection.ledger.check_receipt(receipt):
            self._receipts += 1
        else:
            self._refuse(connection, NodeDrop.BAD_RECEIPT)

    # --- control lane ---

    def receive_text(self, connection: Connection, data: Buffer, now: float) -> None:
        """A text frame: the login, or something that a node without a chain does not answer."""
        if connection.state is State.CLOSED:
            return
        if len(data) > MAX_TEXT_BYTES or connection.transport.unsent_bytes > MAX_UNREAD_ANSWER_BYTES:
            self._refuse(connection, NodeDrop.TOO_BIG)
            return
        try:
            request = actions.parse_client_action(data)
        except RemoteProtocolError:
            self._refuse_login(connection, "", actions.ILLEGAL_DATA_FORMAT, NodeDrop.MALFORMED)
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
        if address is None or not _may_log_in(request.address):
            self._refuse_login(connection, "setClient", actions.INVALID_PARAMS, NodeDrop.BAD_LOGIN)
            return
        digest = login_digest(connection.challenge, request.salt)
        if not verify(address.public_key, digest, request.signature):
            self._refuse_login(connection, "setClient", actions.INVALID_SIGNATURE, NodeDrop.BAD_LOGIN)
            return
        if not connection.move(Event.LOGGED_IN):
            self._refuse_login(connection, "setClient", actions.INVALID_METHOD, NodeDrop.BAD_LOGIN)
            return
        others = self._clients.get(request.address, ())
        if len(others) >= MAX_CONNECTIONS_PER_ADDRESS:
            # Each gets every message: without a bound one client could have the node multiply its own.
            self._refuse(others[0], NodeDrop.DISPLACED)
        connection.address = request.address
        if self.settings.verify_signatures:
            connection.ledger = Ledger(address, self._public_key, self.chain)
        if self.settings.reorder:
            connection.reorderer = Reorderer(connection.number)
        connection.direct = connection.ledger is None and connection.reorderer is None
        block_hash = self.chain.block_hash(self.chain.height(now))
        connection.transport.send_text(
            actions.ClientSet(connection.info, block_hash, self.settings.waives).encode()
        )
        if connection.state is State.CLIENT:  # sending may have found the socket gone
            if self.elsewhere is not None and request.address not in self._clients:
                self.elsewhere.logged_in(request.address)
            self._clients[request.address] = (*self._clients.get(request.address, ()), connection)
            self._logged_in += 1
            self._logins += 1
            if self._holding.waits(request.address):
                self._start_draining(connection, now)

    def _start_draining(self, connection: Connection, now: float) -> None:
        """Give a client that has just logged in its mail: the newest of several connections gets the rest."""
        for other in self._clients[connection.address]:
            if other.drains_mail:
                self._stop_draining(other)
        connection.drains_mail, connection.direct = True, False
        self._drain_mail(connection, now)

    # --- time ---

    def poll_timeout(self) -> Deadline | None:
        """When `handle_timeout` is wanted; None when nothing is due."""
        if self._flush_at is not None:
            return Deadline(self._flush_at, "reorder")
        end = self._holding.next_end()
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
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_disordered(now)
        if now >= self._next_block_at:
            self._next_block_at = self.chain.next_at(now)
            if self.settings.verify_signatures:
                self._announce_block(now)
        self._holding.expire(now)
        while self._checks and self._checks[0][0] <= now:
            connection = self._connections.get(heapq.heappop(self._checks)[1])
            if connection is not None:
                self._check(connection, now)

    def _check(self, connection: Connection, now: float) -> None:
        """Close who did not log in, went silent or does not read; ping the others."""
        settings, transport = self.settings, connection.transport
        if connection.state is State.CHALLENGED:
            self._refuse(connection, NodeDrop.LOGIN_TIMEOUT)
            return
        if transport.rx_bytes != connection.rx_seen:
            connection.rx_seen, connection.heard_at = transport.rx_bytes, now
        if transport.writable or transport.tx_bytes != connection.tx_seen:
            connection.tx_seen, connection.moved_at = transport.tx_bytes, now
        if now - connection.heard_at >= settings.idle_timeout_s:
            self._refuse(connection, NodeDrop.IDLE)
        elif now - connection.moved_at >= settings.stall_timeout_s:
            self._refuse(connection, NodeDrop.STALLED)
        else:
            self._check_later(connection, now + settings.ping_interval_s)
            if transport.writable:
                transport.ping()

    def _check_later(self, connection: Connection, at: float) -> None:
        at = -(-at // _CHECK_GRAIN_S) * _CHECK_GRAIN_S
        heapq.heappush(self._checks, (at, connection.number))
        if len(self._checks) > 2 * len(self._connections) + 1024:
            # Connections that came and went at once have left their entries behind.
            self._checks = sorted(entry for entry in self._checks if entry[1] in self._connections)

    def _flush_disordered(self, now: float) -> None:
        self._flush_at = None
        disordered, self._disordered = self._disordered, {}
        for target in disordered.values():
            assert target.reorderer is not None
            for message in target.reorderer.flush():
                self._send_or_queue(target, 0, (message,), now)

    def _announce_block(self, now: float) -> None:
        text = actions.BlockHashUpdate(self.chain.block_hash(self.chain.height(now))).encode()
        for targets in list(self._clients.values()):
            for target in targets:
                if target.transport.writable:
                    target.transport.send_text(text)

    # --- counting ---

    def count(self, reason: NodeDrop) -> None:
        """One message or connection was dropped."""
        self._drops[reason] += 1

    def stats(self) -> NodeStats:
        return NodeStats(
            connections=len(self._connections),
            clients=self._logged_in,
            logins=self._logins,
            messages=self.messages,
            bytes=self.bytes,
            receipts=self._receipts,
            receipts_missing=self._receipts_missing
            + sum(c.ledger.forgotten for c in self._connections.values() if c.ledger is not None),
            queue_bytes=self._pool.used_bytes,
            held_messages=self._holding.held_messages,
            held_bytes=self._holding.held_bytes,
            drops={reason.value: count for reason, count in self._drops.items() if count},
        )

    def _refuse(self, connection: Connection, reason: NodeDrop) -> None:
        """The client broke the protocol, or is of no use any more: count it, and close."""
        self.count(reason)
        connection.transport.close(1008, reason.value)

    def _refuse_login(self, connection: Connection, action: str, code: int, reason: NodeDrop) -> None:
        connection.transport.send_text(_refusal(action, code))
        self._refuse(connection, reason)


def _may_log_in(address: str) -> bool:
    """Whether somebody could log in with this address, letter by letter."""
    if len(address) > MAX_ADDRESS_CHARS:
        return False
    try:
        return str(NknAddress.parse(address)) == address
    except ConfigError:
        return False


# The official node's texts (api/common/errcode).
_DESCRIPTIONS = {
    actions.ILLEGAL_DATA_FORMAT: "ILLEGAL DATAFORMAT",
    actions.INVALID_METHOD: "INVALID METHOD",
    actions.INVALID_PARAMS: "INVALID PARAMS",
    actions.INVALID_SIGNATURE: "VERIFY SIGNATURE ERROR",
}


def _refusal(action: str, code: int) -> str:
    return actions.Refusal(action, code, _DESCRIPTIONS[code]).encode()


def _is_plain(message: OutboundMessage) -> bool:
    """Whether a message to the same dest, with other content, would differ in its payload alone."""
    return len(message.dests) == 1 and not message.signatures and not message.max_holding_seconds
