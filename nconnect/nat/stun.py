"""A STUN client (RFC 8489): what NAT is one UDP socket behind? Pure.

Contract with its shell, which owns the socket:

    probe = StunProbe(servers, now=now, rng=os.urandom)
    while (send := probe.poll_output()) is not None: ...        # a datagram, and where to
    probe.receive(data, source, now) -> bool                    # False: not ours, perhaps the socket's data
    probe.poll_timeout() -> Deadline | None;  probe.handle_timeout(now)
    probe.verdict                                               # None while it is under way

Whether a socket has one mapping for all is told by the answers of at least two servers: the two ports of our
node, or others. They are asked at once, and those that stay silent again, 0.1 and 0.3 s later; 0.7 s
after the start the verdict rests on what has come. It is there sooner when all have answered, or two differ.

An answer counts if it has the transaction id of its question (96 random bits) and comes from where that went.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from nconnect.errors import RemoteProtocolError
from nconnect.model import Buffer, Deadline, Endpoint, Rng
from nconnect.wire import stun
from nconnect.wire.direct import NatVerdict

RETRANSMIT_AFTER_S = (0.1, 0.2, 0.4)  # how long each of the tries waits; a round trip on earth has 0.3 s
REQUEST_BYTES = stun.response_bytes(6)  # not shorter than any answer: our node answers such ones freely
MAX_SERVERS = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe found. `mapped` is the reflexive address; of a hard NAT, one of several."""

    nat: NatVerdict  # UNKNOWN: one server answered, and there is nothing to compare that with
    mapped: Endpoint | None
    at: float  # when it was reached, by the clock of `now`


@dataclass(frozen=True, slots=True)
class StunRequest:
    """A datagram for the shell to send."""

    data: bytes
    to: Endpoint


class StunProbe:
    """One search, for one socket. IPv4 and IPv6 have a socket, and a probe, each."""

    def __init__(self, servers: Sequence[Endpoint], *, now: float, rng: Rng) -> None:
        """The first `MAX_SERVERS` are asked; without any the verdict is UNKNOWN."""
        chosen = tuple(dict.fromkeys(servers))[:MAX_SERVERS]
        self.verdict: Verdict | None = None
        self._asked = {rng(stun.TRANSACTION_BYTES): server for server in chosen}
        self._silent = set(chosen)
        self._mappings: list[Endpoint] = []
        self._outputs: deque[StunRequest] = deque()
        self._tries = 0
        self._due_at = now
        self._ask(now)
        if not chosen:
            self._conclude(NatVerdict.UNKNOWN, now)

    def poll_output(self) -> StunRequest | None:
        """The next datagram to send; None: no more for now."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        """When to call `handle_timeout`; None once there is a verdict."""
        return None if self.verdict is not None else Deadline(self._due_at, "a STUN server is silent")

    def handle_timeout(self, now: float) -> None:
        """Ask again, or conclude. Does nothing when it is early."""
        if self.verdict is not None or now < self._due_at:
            return
        if self._tries < len(RETRANSMIT_AFTER_S):
            self._ask(now)
        else:
            self._conclude_from_what_came(now)

    def receive(self, data: Buffer, source: Endpoint, now: float) -> bool:
        """Take a datagram; False if it is no answer to this probe. Never raises."""
        try:
            message = stun.decode(data)
        except RemoteProtocolError:
            return False
        if self._asked.get(message.transaction) != source:
            return False
        if source in self._silent and self.verdict is None:
            self._silent.discard(source)
            self._take(message, now)
        return True

    def _take(self, message: stun.StunMessage, now: float) -> None:
        try:
            mapped = stun.mapped_address(message)
            if mapped.port and not mapped.address.is_unspecified and not mapped.address.is_multicast:
                self._mappings.append(mapped)
        except RemoteProtocolError:
            pass  # an error: it answers, and tells nothing
        if len(set(self._mappings)) > 1:
            self._conclude(NatVerdict.HARD, now)
        elif not self._silent:
            self._conclude_from_what_came(now)

    def _ask(self, now: float) -> None:
        for transaction, server in self._asked.items():
            if server in self._silent:
                self._outputs.append(
                    StunRequest(stun.encode_request(transaction, size=REQUEST_BYTES), server)
                )
        self._due_at = now + RETRANSMIT_AFTER_S[self._tries]
        self._tries += 1

    def _conclude_from_what_came(self, now: float) -> None:
        if len(self._mappings) > 1:
            self._conclude(NatVerdict.EASY, now)
        elif len(self._silent) == len(self._asked):
            self._conclude(NatVerdict.BLOCKED, now)
        else:
            self._conclude(NatVerdict.UNKNOWN, now)

    def _conclude(self, nat: NatVerdict, now: float) -> None:
        self.verdict = Verdict(nat, self._mappings[0] if self._mappings else None, now)
        self._outputs.clear()
