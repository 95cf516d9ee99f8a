"""Several nodes as one: who is alive, which node an address belongs to, and who is logged in where. Pure.

Glossary: a **member** is a node of the cluster; a **run** is one life of a member, from start to end; its
**presence** is the set of addresses that are logged in there.

All members publish on one subject, and hear each other in the order of sending:

    {"t": "alive", "node": KEY, "run": HEX, "seq": N, "ws": {…}, "wss": {…}}   every second; one may be null
    {"t": "on" | "off", "node", "run", "seq": N, "address": A}     the first login, the last one's end
    {"t": "ask", "node": KEY, "of": KEY}                           asks member `of` for its presence
    {"t": "all", "node", "run", "seq": N, "part": I, "parts": K, "addresses": [A, …]}
    {"t": "bye", "node"}

`seq` counts a run's changes. A member that misses a number asks for the whole presence. A member that is
silent for `MEMBER_DEAD_AFTER_S` is removed with its clients, and no longer named in answers to `getwsaddr`.

    cluster.receive(data, now); cluster.handle_timeout(now); cluster.connected(now); cluster.disconnected()
    cluster.logged_in(address); cluster.logged_out(address)
    cluster.poll_output() -> Publish | Arrived | None; cluster.poll_timeout() -> Deadline | None
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nconnect.errors import LocalProtocolError, RemoteProtocolError
from nconnect.model import MAX_ADDRESS_CHARS, Deadline
from nconnect.wire import strict_json
from nconnect.wire.jsonrpc import NodeInfo

HEARTBEAT_S = 1.0  # guessed: a dead node is out in under 5 s, also when one beat is lost
MEMBER_DEAD_AFTER_S = 3.0
ASK_INTERVAL_S = 1.0  # of one member, by one member
TELL_INTERVAL_S = 0.5  # the whole presence, however many ask
PART_ADDRESSES = (
    100  # 600 KB at most (1024 characters, each escaped), under NATS's usual limit of 1 MiB a message
)
MAX_MEMBERS = 256  # guessed: beyond this the public network is the better cluster
MAX_PRESENCE = 1 << 17  # addresses of one member
_MAX_ADDRESSES = 1 << 18  # of all members: 60 MB


def rendezvous(address: str, node_keys: Iterable[str]) -> str:
    """The node that an address belongs to: highest SHA-256 of both (rendezvous hashing, RFC 2991's HRW).

    When a node comes or goes, only the addresses that belong to it move. Raises `ValueError` without nodes.
    """
    client = hashlib.sha256(address.encode("utf-8", "surrogatepass")).digest()  # the client's id
    return max(node_keys, key=lambda key: (hashlib.sha256(client + key.encode()).digest(), key))


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell all members."""

    text: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """An address that was logged in nowhere else now is on another member: forward its held messages."""

    address: str


@dataclass(slots=True)
class _Member:
    ws: NodeInfo | None
    wss: NodeInfo | None
    run: str
    heard_at: float
    seq: int | None = None  # the last change that is known; None: its presence is unknown
    presence: set[str] = field(default_factory=set)
    asked_at: float | None = None
    parts: list[str] = field(default_factory=list)  # of an "all" that is still incomplete
    parts_seen: int = 0


class Cluster:
    """One node's view of the others. `run` must be different at each start."""

    def __init__(self, ws: NodeInfo | None, wss: NodeInfo | None, *, run: str) -> None:
        own = ws or wss
        if own is None:
            raise LocalProtocolError("a node without a websocket port cannot join a cluster")
        self.key = own.public_key
        self.malformed = 0  # malformed messages
        self._ws = ws
        self._wss = wss
        self._run = run
        self._seq = 0
        self._own: dict[str, None] = {}  # our presence, in order of login
        self._members: dict[str, _Member] = {}
        self._where: dict[str, tuple[str, ...]] = {}  # address -> keys of the members that have it
        self._outputs: deque[Publish | Arrived] = deque()
        self._beat_at: float | None = None  # None: not connected
        self._told_at: float | None = None
        self._asked = False

    # --- what is known ---

    @property
    def members(self) -> list[str]:
        """The keys of all live nodes, this one's too."""
        return sorted((self.key, *self._members))

    @property
    def is_connected(self) -> bool:
        return self._beat_at is not None

    def assign(self, address: str, secure: bool) -> NodeInfo | None:
        """The live node that an address belongs to; None if `secure` and no node has TLS."""
        infos = {self.key: self._wss if secure else self._ws}
        infos |= {key: m.wss if secure else m.ws for key, m in self._members.items()}
        usable = [key for key, info in infos.items() if info is not None]
        return infos[rendezvous(address, usable)] if usable else None

    def elsewhere(self, address: str) -> tuple[str, ...]:
        """The keys of the other members on which this address is logged in."""
        return self._where.get(address, ())

    # --- what happens here ---

    def connected(self, now: float) -> None:
        """Note that the other members can be reached (again)."""
        self._beat(now)

    def disconnected(self) -> None:
        """Note that no member can be reached: this node is alone until `connected`."""
        self._beat_at = None
        self._outputs.clear()
        for key in list(self._members):
            self._forget(key)

    def logged_in(self, address: str) -> None:
        """Note that the first connection of this address has logged in here."""
        if address not in self._own:
            self._own[address] = None
            self._change("on", address)

    def logged_out(self, address: str) -> None:
        """Note that the last connection of this address is gone."""
        if address in self._own:
            del self._own[address]
            self._change("off", address)

    def farewell(self) -> str:
        """The last message to publish."""
        return strict_json.dump({"t": "bye", "node": self.key})

    def _change(self, what: str, address: str) -> None:
        self._seq += 1
        self._publish(what, run=self._run, seq=self._seq, address=address)

    def _publish(self, what: str, **members: object) -> None:
        if self._beat_at is not None:
            self._outputs.append(Publish(strict_json.dump({"t": what, "node": self.key, **members})))

    # --- time and outputs ---

    def poll_output(self) -> Publish | Arrived | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        return None if self._beat_at is None else Deadline(self._beat_at, "heartbeat")

    def handle_timeout(self, now: float) -> None:
        """Do what is due; harmless when nothing is."""
        if self._beat_at is not None and now >= self._beat_at:
            self._beat(now)
        for key in [k for k, m in self._members.items() if now - m.heard_at >= MEMBER_DEAD_AFTER_S]:
            self._forget(key)

    def _beat(self, now: float) -> None:
        self._beat_at = now + HEARTBEAT_S
        ws, wss = (info and info.to_json() for info in (self._ws, self._wss))
        self._publish("alive", run=self._run, seq=self._seq, ws=ws, wss=wss)
        if self._asked:
            self._tell_all(now)

    def _tell_all(self, now: float) -> None:
        if self._told_at is not None and now - self._told_at < TELL_INTERVAL_S:
            self._asked = True  # with the next heartbeat
            return
        self._asked, self._told_at = False, now
        own = list(self._own)
        parts = [own[i : i + PART_ADDRESSES] for i in range(0, len(own), PART_ADDRESSES)] or [[]]
        for index, part in enumerate(parts):
            self._publish("all", run=self._run, seq=self._seq, part=index, parts=len(parts), addresses=part)

    # --- what the others say ---

    def receive(self, data: bytes, now: float) -> None:
        """Take a message of any member, including our own. Malformed ones are counted and ignored."""
        try:
            message = strict_json.obj(strict_json.load(data))
            key = strict_json.text(message, "node")
            if key != self.key:
                self._take(strict_json.text(message, "t"), key, message, now)
        except RemoteProtocolError:
            self.malformed += 1

    def _take(self, what: str, key: str, message: Mapping[str, Any], now: float) -> None:
        if what == "alive":
            self._take_alive(key, message, now)
            return
        if what == "bye":
            self._forget(key)
            return
        if what == "ask":
            if strict_json.text(message, "of") == self.key:
                self._tell_all(now)
            return
        member = self._members.get(key)
        if member is None:
            return  # unknown until its next heartbeat
        if strict_json.text(message, "run") != member.run:
            return  # from an earlier run
        member.heard_at = now
        seq = _count(message, "seq")
        if what in ("on", "off"):
            self._take_change(key, member, what, seq, _address(message.get("address")), now)
        elif what == "all":
            self._take_all(key, member, seq, message, now)
        else:
            raise RemoteProtocolError(f"cluster: unknown message {what[:20]!r}")

    def _take_alive(self, key: str, message: Mapping[str, Any], now: float) -> None:
        run, seq = strict_json.text(message, "run"), _count(message, "seq")
        ws, wss = (
            None if message.get(name) is None else NodeInfo.from_json(message[name]) for name in ("ws", "wss")
        )
        if {info.public_key for info in (ws, wss) if info is not None} != {key}:
            raise RemoteProtocolError("cluster: a member sent another member's message")
        member = self._members.get(key)
        if member is not None and member.run != run:
            self._forget(key)
            member = None
        if member is None:
            if len(self._members) >= MAX_MEMBERS:
                raise RemoteProtocolError(f"cluster: more than {MAX_MEMBERS} members")
            member = self._members[key] = _Member(ws, wss, run, now)
        member.ws, member.wss, member.heard_at = ws, wss, now
        if member.seq != seq:
            self._ask(key, member, now)

    def _take_change(self, key: str, member: _Member, what: str, seq: int, address: str, now: float) -> None:
        if member.seq is None or seq != member.seq + 1:
            if member.seq is None or seq > member.seq:
                self._ask(key, member, now)
            return
        member.seq = seq
        if what == "off":
            self._remove(key, member, address)
        elif len(member.presence) < MAX_PRESENCE:
            self._add(key, member, address)

    def _take_all(self, key: str, member: _Member, seq: int, message: Mapping[str, Any], now: float) -> None:
        part, parts = _count(message, "part"), _count(message, "parts")
        addresses = message.get("addresses")
        if not isinstance(addresses, list):
            raise RemoteProtocolError("cluster: addresses must be a list")
        if part == 0:
            member.parts, member.parts_seen = [], 0
        if part != member.parts_seen or len(member.parts) + len(addresses) > MAX_PRESENCE:
            member.parts, member.parts_seen = [], 0
            self._ask(key, member, now)
            return
        member.parts += [_address(address) for address in addresses]
        member.parts_seen += 1
        if member.parts_seen < parts:
            return
        present = set(member.parts)
        for address in sorted(member.presence - present):
            self._remove(key, member, address)
        for address in dict.fromkeys(member.parts):
            self._add(key, member, address)
        member.seq, member.parts, member.parts_seen, member.asked_at = seq, [], 0, None

    def _ask(self, key: str, member: _Member, now: float) -> None:
        if member.asked_at is None or now - member.asked_at >= ASK_INTERVAL_S:
            member.asked_at = now
            self._publish("ask", of=key)

    def _add(self, key: str, member: _Member, address: str) -> None:
        if address in member.presence or len(self._where) >= _MAX_ADDRESSES:
            return
        member.presence.add(address)
        there = self._where.get(address, ())
        self._where[address] = (*there, key)
        if not there:
            self._outputs.append(Arrived(address))

    def _remove(self, key: str, member: _Member, address: str) -> None:
        if address not in member.presence:
            return
        member.presence.discard(address)
        left = tuple(k for k in self._where[address] if k != key)
        if left:
            self._where[address] = left
        else:
            del self._where[address]

    def _forget(self, key: str) -> None:
        member = self._members.pop(key, None)
        if member is not None:
            for address in list(member.presence):
                self._remove(key, member, address)


def _count(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise RemoteProtocolError(f"cluster: {name} must be a count")
    return value


def _address(value: object) -> str:
    if not isinstance(value, str) or not 64 <= len(value) <= MAX_ADDRESS_CHARS:
        raise RemoteProtocolError("cluster: not an address")
    return value
