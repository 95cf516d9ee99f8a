"""A node's place in a cluster, over NATS: who is alive, and messages for clients of other nodes.

Subjects, under one prefix: `nconnect.nodes` for what all members say (`nconnect.node.cluster`), and
`nconnect.to.KEY.CLIENT` for messages to a client that is logged in on the node of that key; a node listens
on `nconnect.to.KEY.*`. With a key of the cluster each message is sealed (`nconnect.node.seal`), and what is
not is dropped. Without one, whoever may publish there may speak for any node and any client: so a key is
required where the NATS server is not on this machine and its URL has no password.

Nothing here is needed for local delivery. While NATS is away the node is alone, and tries again for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nconnect.errors import HostError, RemoteProtocolError, UsageError
from nconnect.io.clock import boottime
from nconnect.io.errors import as_host_error, plain_reason
from nconnect.model import Buffer
from nconnect.node import fragment
from nconnect.node.cluster import Arrived, Cluster, Publish
from nconnect.node.core import Node
from nconnect.node.egress import Account, Egress, Pool
from nconnect.node.fragment import RUN_BYTES, FragmentJoiner
from nconnect.node.seal import CONTROL, FRAGMENTS, LEAST_KEY_CHARS, Seal
from nconnect.wire.jsonrpc import NodeInfo

log = logging.getLogger(__name__)

NODES = "nconnect.nodes"
FORWARDED = "nconnect.to"
MAX_OUTBOX_BYTES = 32 << 20  # drop policy: see `Egress`
MAX_PENDING_BYTES = 4 << 20  # that nats-py may hold for its socket
MAX_INBOX_BYTES = 32 << 20  # that nats-py may hold for us, of each subject; beyond it drops
MAX_KEY_FILE_BYTES = 4096
_BATCH_BYTES = 1 << 20  # published before heartbeats get their turn again
RETRY_S = 0.5
_TIMEOUT_S = 2.0


def check_url(text: str, *, has_key: bool = False) -> str:
    """A NATS server's URL; without a key of the cluster one that not everybody can use.

    Raises `UsageError`.
    """
    parts = urlsplit(text)
    try:
        usable = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"--cluster {text} is not the address of a NATS server: nats://HOST:4222")
    if not has_key and not parts.username and not _is_this_machine(parts.hostname or ""):
        raise UsageError(
            f"anybody who reaches {_shown(text)} could speak for every client: give all nodes --cluster-key"
            " FILE with the same secret, or put a user and password into the URL"
        )
    return text


def read_key(path: Path) -> bytes:
    """The secret that all nodes of a cluster share. Raises `UsageError`, `HostError`."""
    with as_host_error(f"cannot read {path}"), path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        secret = file.read(MAX_KEY_FILE_BYTES + 1).strip()
    if mode & 0o077:
        raise HostError(f"{path} can be read by others: chmod 600 {path}")
    if not LEAST_KEY_CHARS <= len(secret) <= MAX_KEY_FILE_BYTES:
        raise UsageError(
            f"{path} holds no secret: openssl rand -hex 32 > {path}, and the same file on each node"
        )
    return secret


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_nats() -> Any:
    """The NATS client's module, which is needed by nobody else. Raises `HostError` when it is missing."""
    try:
        import nats
    except ImportError:
        raise HostError("a cluster needs the package nats-py: pip install 'nconnect[cluster]'") from None
    return nats


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message that waits to be published, for the nodes with these keys."""

    members: tuple[str, ...]
    src: str
    dest: str
    payload: bytes
    holding_s: int

    def __len__(self) -> int:
        return len(self.payload)


class ClusterLink:
    """One node in its cluster: the node's `Elsewhere`, and what runs it. One task owns it, the node's."""

    def __init__(
        self, url: str, node: Node, ws: NodeInfo | None, wss: NodeInfo | None, secret: bytes | None = None
    ) -> None:
        """`secret`: the cluster's key, as `read_key` gives it."""
        run = os.urandom(RUN_BYTES)
        self.cluster = Cluster(ws, wss, run=run.hex())
        self.sent = 0  # messages to other nodes
        self.received = 0
        self.dropped = 0  # no room for them, or malformed
        self._url = url
        self._nats = load_nats()
        self._node = node
        self._run = run
        self._count = 0
        self._joiner = FragmentJoiner()
        self._seal = Seal(secret, run) if secret is not None else None
        self._has_refused = False
        self._control: deque[bytes] = deque()  # goes before messages
        self._outgoing = Egress[_Outgoing](
            MAX_OUTBOX_BYTES, Account(Pool(2 * MAX_OUTBOX_BYTES)), lambda reason: self._drop()
        )
        self._wake = asyncio.Event()

    # --- what the node calls ---

    def logged_in(self, address: str) -> None:
        self.cluster.logged_in(address)
        self._wake.set()

    def logged_out(self, address: str) -> None:
        self.cluster.logged_out(address)
        self._wake.set()

    def send(self, source: int, sender: int, src: str, dest: str, payload: Buffer, holding_s: int) -> bool:
        members = self.cluster.elsewhere(dest)
        if not members:
            return False
        self._outgoing.put(
            source, sender, _Outgoing(members, src, dest, bytes(payload), holding_s), boottime()
        )
        self.sent += 1
        self._wake.set()
        return True

    def status(self) -> dict[str, object]:
        """For `nconnect node status`."""
        return {
            "connected": self.cluster.is_connected,
            "nodes": self.cluster.members,
            "sent": self.sent,
            "received": self.received,
            "dropped": self.dropped + self.cluster.malformed,
        }

    # --- what runs it ---

    async def run(self) -> None:
        """Be a member until cancelled; then say goodbye, if anybody can be told."""
        client = self._nats.NATS()
        try:
            await self._connect(client)
            await self._serve(client)
        finally:
            connected, farewell = client.is_connected, self.cluster.farewell()
            self._lost()
            with contextlib.suppress(TimeoutError, self._nats.errors.Error, OSError):
                async with asyncio.timeout(_TIMEOUT_S):
                    if connected:
                        await self._publish_one(client, NODES, farewell.encode())
                    await client.close()

    async def _connect(self, client: Any) -> None:
        said = False
        while True:
            try:
                await client.connect(
                    self._url,
                    connect_timeout=_TIMEOUT_S,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RETRY_S,
                    ping_interval=2,  # a server that is silent for three of them is given up
                    max_outstanding_pings=2,
                    pending_size=0,  # while it is away nothing is kept: it would be stale
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    name="nconnect node",
                )
                break
            except (self._nats.errors.Error, OSError, TimeoutError) as error:
                if not said:
                    why = plain_reason(error) if isinstance(error, OSError) else error
                    log.warning("the cluster at %s cannot be reached (%s): trying on", _shown(self._url), why)
                    said = True
                await asyncio.sleep(RETRY_S)
        await client.subscribe(NODES, cb=self._on_control, pending_bytes_limit=MAX_INBOX_BYTES)
        await client.subscribe(
            f"{FORWARDED}.{self.cluster.key}.*", cb=self._on_fragment, pending_bytes_limit=MAX_INBOX_BYTES
        )
        log.info("joined the cluster at %s", _shown(self._url))
        self.cluster.connected(boottime())

    async def _serve(self, client: Any) -> None:
        while True:
            now = boottime()
            self.cluster.handle_timeout(now)
            self._flush_outputs()
            await self._publish(client)
            if self._control or len(self._outgoing):
                await asyncio.sleep(0)
                continue
            deadline = self.cluster.poll_timeout()
            wait_s = RETRY_S if deadline is None else max(0.0, deadline.at - boottime())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    def _flush_outputs(self) -> None:
        while (output := self.cluster.poll_output()) is not None:
            if isinstance(output, Publish):
                self._control.append(output.text.encode())
            elif isinstance(output, Arrived):
                self._node.relay.forward_mail(output.address, boottime())

    async def _publish(self, client: Any) -> None:
        """Hand some of what waits to nats-py, which copies it; all is lost when the server is away.

        What members tell each other goes first: a login must be known before what its client sends.
        """
        budget = _BATCH_BYTES
        while budget > 0 and client.is_connected:
            self._flush_outputs()
            if self._control:
                budget -= await self._publish_one(client, NODES, self._control.popleft())
                continue
            message = self._outgoing.take(boottime())
            if message is None:
                break
            name = hashlib.sha256(message.dest.encode()).hexdigest()
            for member in message.members:
                self._count += 1
                for part in fragment.cut(
                    self._run, self._count, message.src, message.dest, message.payload, message.holding_s
                ):
                    budget -= await self._publish_one(client, f"{FORWARDED}.{member}.{name}", part)
        if not client.is_connected:
            self._lost()

    async def _publish_one(self, client: Any, subject: str, data: bytes) -> int:
        """The bytes that it was."""
        if self._seal is not None:
            data = self._seal.close(subject, data, time.time())
        try:
            await client.publish(subject, data)
            if client.pending_data_size > MAX_PENDING_BYTES:
                await client.flush(timeout=_TIMEOUT_S)
        except (self._nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("publishing to the cluster: %s", error)
            self.dropped += 1
        return len(data)

    def _lost(self) -> None:
        self.cluster.disconnected()
        self.dropped += len(self._control)
        self._control.clear()
        self._outgoing.clear()

    def _drop(self) -> None:
        self.dropped += 1

    def _opened(self, lane: int, message: Any) -> bytes | None:
        """What is in a message; None (counted) when it is of nobody who has the key."""
        data: bytes = message.data
        if self._seal is None:
            return data
        try:
            return self._seal.open(message.subject, lane, data, time.time())
        except RemoteProtocolError as error:
            self.dropped += 1
            if not self._has_refused:
                self._has_refused = True
                log.warning("%s (said once: see `dropped` in `nconnect node status`)", error)
            return None

    # --- what nats-py calls ---

    async def _on_control(self, message: Any) -> None:
        data = self._opened(CONTROL, message)
        if data is not None:
            self.cluster.receive(data, boottime())
            self._wake.set()

    async def _on_fragment(self, message: Any) -> None:
        data = self._opened(FRAGMENTS, message)
        if data is None:
            return
        try:
            joined = self._joiner.add(data)
        except RemoteProtocolError:
            self.dropped += 1
            return
        if joined is not None:
            self.received += 1
            self._node.relay.deliver_from_elsewhere(
                joined.sender.hex(), joined.src, joined.dest, joined.payload, joined.holding_s, boottime()
            )

    async def _on_error(self, error: Exception) -> None:
        log.debug("cluster: %s", error)

    async def _on_disconnected(self) -> None:
        if self.cluster.is_connected:
            log.warning("the cluster at %s is gone: this node is alone until it is back", _shown(self._url))
        self._lost()

    async def _on_reconnected(self) -> None:
        log.info("the cluster at %s is back", _shown(self._url))
        self.cluster.connected(boottime())
        self._wake.set()


def _shown(url: str) -> str:
    """Without a password."""
    return url.rpartition("@")[2].rpartition("/")[2]
