"""Keeps one port of this machine open at its router, by PCP (RFC 6887) or else NAT-PMP (RFC 6886). Pure.

Contract with its shell, which owns a UDP socket bound to the address on the way to the router:

    mapper = PortMapper(PortRequest(router, own, port), now=now, rng=os.urandom)
    while (data := mapper.poll_output()) is not None: ...       # to (router, pcp.SERVER_PORT)
    mapper.receive(data, source, now) -> bool                   # False: not from the router
    mapper.poll_timeout() -> Deadline | None;  mapper.handle_timeout(now)
    mapper.mappings                                             # by protocol, those in force
    mapper.problem                                              # one line: why one is missing, or ""
    mapper.close()                                              # then send the outputs, which give up all

The router is asked three times within 1.75 s by PCP, then as often by NAT-PMP, then again after ten minutes.
For an IPv6 address PCP alone is asked, and opens the router's firewall for that address and port.
A mapping is asked for 7,200 s and renewed at half of what is granted. The router counts seconds since it lost
its mappings (the epoch); when that count does not go on as our clock does, it has restarted, and everything
is mapped again. What the router says is checked: an answer to what was not asked, with a port that is not
ours or an address that nobody can have outside, is nonsense, and changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, ip_network

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Buffer, Deadline, Rng
from nconnect.wire import pcp
from nconnect.wire.pcp import PcpResult

LIFETIME_S = 7200  # what RFC 6886 recommends
TRY_FOR_S = (0.25, 0.5, 1.0)  # RFC 6886, section 3.1, without the later tries: all nine take two minutes
AGAIN_AFTER_S = 600.0  # guessed: somebody may switch it on in the router
MIN_RENEW_S = 4.0  # RFC 6887, section 11.2.1
MAX_ERROR_S = 1800.0  # RFC 6887, section 7.4: what a server says of errors that last
MAX_LIFETIME_S = 86_400.0  # RFC 6887, section 15: a client may bound it
# Not of the internet: RFC 1918, 6598 (between a provider's NAT and its customers), 3927.
_INNER = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
)


@dataclass(frozen=True, slots=True)
class Router:
    """How a router can be asked for ports: "PCP", "NAT-PMP", "UPnP". `outside`: its address there."""

    address: IPv4Address
    speaks: tuple[str, ...] = ()
    outside: Address | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port that the router sends on to us."""

    address: Address
    port: int
    by: str  # "PCP" or "NAT-PMP"
    renew_at: float
    expires_at: float

    @property
    def is_behind_another_nat(self) -> bool:
        """Whether the router's outer address is none of the internet's."""
        return is_inner(self.address)


def is_inner(address: Address) -> bool:
    """Whether an address that a router has outside belongs to a network behind another NAT."""
    return any(address.version == network.version and address in network for network in _INNER)


def check_outside(address: Address) -> None:
    """Raise `RemoteProtocolError` for an address that nobody can have outside."""
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise RemoteProtocolError(f"its address outside is {address}")


@dataclass(frozen=True, slots=True)
class PortRequest:
    """What is asked of a router: to send on a port to `own`, this machine's address on the way to it.

    Raises `ValueError` for a mapping of port 0, which in PCP means all ports (RFC 6887, section 11.1).
    """

    router: Address
    own: Address
    port: int
    protocols: tuple[str, ...] = ("udp", "tcp")

    def __post_init__(self) -> None:
        if self.protocols and not 0 < self.port < 65536:
            raise ValueError(f"no port to map: {self.port}")


class Mapper:
    """What a machine that keeps a port open holds, however it asks."""

    def __init__(self, request: PortRequest, now: float) -> None:
        self.mappings: dict[str, Mapping] = {}
        self.problem = ""
        self._router = request.router
        self._own = request.own
        self._port = request.port
        self._protocols = request.protocols
        self._tries = 0
        self._due_at = now

    def _drop_expired(self, now: float) -> None:
        """Forget what the router has ended."""
        for protocol in [p for p, mapping in self.mappings.items() if now >= mapping.expires_at]:
            del self.mappings[protocol]


class _State(Enum):
    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    RESTING = "resting"  # nothing is asked until a mapping has to be renewed, or it is worth trying again
    CLOSED = "closed"


class PortMapper(Mapper):
    """The mappings of one port, at one router."""

    def __init__(self, request: PortRequest, *, now: float, rng: Rng) -> None:
        super().__init__(request, now)
        self._nonces = {protocol: rng(pcp.PCP_NONCE_BYTES) for protocol in request.protocols}
        self._wanted: set[str] = set()  # asked for, and not answered
        self._failures: dict[str, str] = {}  # of what was asked last, by protocol
        self._nonsense = ""  # what makes no sense in the newest such answer
        self._again_s = AGAIN_AFTER_S
        self._address: Address | None = None  # that NAT-PMP told
        self._unplaced: dict[str, pcp.Mapped] = {}  # NAT-PMP's, whose address is not told yet
        self._epoch: tuple[int, float] | None = None  # the router's, and when it was told
        self._speaks = _State.PCP  # what is asked first: what was answered last
        self._state = _State.RESTING
        self._outputs: deque[bytes] = deque()
        self._start(request.protocols, now)

    @property
    def is_asking(self) -> bool:
        """Whether an answer is awaited, so that `mappings` and `problem` may change soon."""
        return self._state in (_State.PCP, _State.NAT_PMP)

    def poll_output(self) -> bytes | None:
        """The next datagram for the router; None: no more for now."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        if self._state is _State.CLOSED:
            return None
        why = "a port mapping is due" if self._state is _State.RESTING else "the router is silent"
        return Deadline(self._due_at, why)

    def handle_timeout(self, now: float) -> None:
        """Ask again, go on to NAT-PMP, give up for now, or renew. Does nothing when it is early."""
        if self._state is _State.CLOSED or now < self._due_at:
            return
        self._drop_expired(now)
        if self._state is _State.RESTING:
            if not self.mappings:
                self._speaks = _State.PCP
            self._start((p for p in self._nonces if not self._is_fresh(p, now)), now)
        elif self._tries < len(TRY_FOR_S):
            self._ask(now)
        elif self._state is _State.PCP and self._own.version == 4:
            self._speak(_State.NAT_PMP, now)
        else:
            silent = "answers neither PCP nor NAT-PMP" if self._own.version == 4 else "does not answer PCP"
            self._fail(self._wanted, self._nonsense or f"the router {silent}", now)

    def receive(self, data: Buffer, source: tuple[Address, int], now: float) -> bool:
        """Take a datagram; False if it is not the router's. Never raises."""
        if source != (self._router, pcp.SERVER_PORT):
            return False
        if self._state is not _State.CLOSED:
            try:
                self._take(pcp.decode(data), now)
            except RemoteProtocolError as error:
                if self.is_asking:
                    self.problem = self._nonsense = f"the router's answer makes no sense ({error})"
        return True

    def close(self) -> None:
        """Give up what is mapped, or may be: the outputs say so to the router, once."""
        self._outputs.clear()
        if self._state is not _State.CLOSED:
            for protocol in sorted({*self.mappings, *self._wanted}):
                self._outputs.append(self._request(protocol, lifetime_s=0))
        self._state = _State.CLOSED
        self.mappings.clear()

    # --- asking ---

    def _start(self, protocols: Iterable[str], now: float) -> None:
        self._wanted = set(protocols)
        self._failures.clear()
        self._nonsense = ""
        self._again_s = AGAIN_AFTER_S
        self._address = None
        self._unplaced.clear()
        self._speak(self._speaks, now)

    def _speak(self, state: _State, now: float) -> None:
        self._state = state
        self._tries = 0
        self._ask(now)

    def _ask(self, now: float) -> None:
        if self._state is _State.NAT_PMP and self._address is None:
            self._outputs.append(pcp.pmp_address_request())
        for protocol in sorted(self._wanted):
            self._outputs.append(self._request(protocol, lifetime_s=LIFETIME_S))
        self._due_at = now + TRY_FOR_S[self._tries]
        self._tries += 1

    def _request(self, protocol: str, *, lifetime_s: int) -> bytes:
        held = self.mappings.get(protocol)
        if (self._speaks if self._state is _State.RESTING else self._state) is _State.NAT_PMP:
            port = held.port if held is not None else None
            return pcp.pmp_map_request(protocol, self._port, lifetime_s=lifetime_s, external_port=port)
        external = (held.address, held.port) if held is not None else None
        if self._own.version == 6:
            external = (self._own, self._port)
        return pcp.map_request(
            self._own,
            protocol,
            self._port,
            nonce=self._nonces[protocol],
            lifetime_s=lifetime_s,
            external=external if lifetime_s else None,
        )

    def _fail(self, protocols: Iterable[str], why: str, now: float) -> None:
        self._failures.update(dict.fromkeys(protocols, why))
        self._wanted -= self._failures.keys()
        self._rest_when_done(now)

    def _rest_when_done(self, now: float) -> None:
        if self._wanted:
            return
        self.problem = next(iter(self._failures.values()), "")
        self._state = _State.RESTING
        self._outputs.clear()
        times = [self._next_renewal(mapping, now) for mapping in self.mappings.values()]
        if len(self.mappings) < len(self._nonces):
            times.append(now + self._again_s)
        self._due_at = min(times)

    @staticmethod
    def _next_renewal(mapping: Mapping, now: float) -> float:
        """At half of the time; after a failure at half of what is left of it (RFC 6887, section 11.2.1)."""
        if now < mapping.renew_at:
            return mapping.renew_at
        return now + max(MIN_RENEW_S, (mapping.expires_at - now) / 2)

    def _is_fresh(self, protocol: str, now: float) -> bool:
        held = self.mappings.get(protocol)
        return held is not None and now < held.renew_at

    # --- answers ---

    def _take(self, answer: pcp.PcpAnswer, now: float) -> None:
        if isinstance(answer, pcp.Refused):
            self._refused(answer, now)
            return
        if isinstance(answer, pcp.Mapped):
            self._check_ours(answer)
        elif answer.external_address is None:
            return  # an ANNOUNCE, which nobody asked for and which has no nonce
        restarted = self._has_restarted(answer.epoch_s, now)
        self._epoch = (answer.epoch_s, now)
        lost = {p for p in self.mappings if p not in self._wanted} if restarted else set()
        if isinstance(answer, pcp.Mapped):
            self._mapped(answer, now)
        elif self._state is _State.NAT_PMP:
            self._address = answer.external_address
            self._place(now)
        if lost:
            self._start(lost | self._wanted, now)

    def _check_ours(self, answer: pcp.Mapped) -> None:
        """Raise for another port or another nonce than ours: not even the epoch is believed then."""
        nonce = b"" if answer.external_address is None else self._nonces.get(answer.protocol)
        if answer.internal_port != self._port or answer.nonce != nonce:
            raise RemoteProtocolError("it maps another port than ours")

    def _mapped(self, answer: pcp.Mapped, now: float) -> None:
        is_pcp = answer.external_address is not None
        if answer.protocol not in self._wanted or is_pcp != (self._state is _State.PCP):
            return  # late, or twice
        if not answer.external_port or answer.lifetime_s < 2 * MIN_RENEW_S:
            raise RemoteProtocolError("it maps no port, or for no time")
        if self._own.version == 6 and (answer.external_address, answer.external_port) != (
            self._own,
            self._port,
        ):
            raise RemoteProtocolError("it opens another address or port than ours")
        if is_pcp:
            self._address = answer.external_address
        self._unplaced[answer.protocol] = answer
        self._place(now)

    def _place(self, now: float) -> None:
        """Put in force what is mapped, once the outer address is known."""
        address = self._address
        if address is None:
            return
        try:
            check_outside(address)
        except RemoteProtocolError:
            self._address = None
            self._unplaced.clear()
            raise
        self._speaks = self._state
        for protocol, answer in self._unplaced.items():
            lasts_s = min(float(answer.lifetime_s), MAX_LIFETIME_S)
            times = (now + lasts_s / 2, now + lasts_s)
            self.mappings[protocol] = Mapping(address, answer.external_port, self._state.value, *times)
            self._wanted.discard(protocol)
        self._unplaced.clear()
        self._rest_when_done(now)

    def _refused(self, answer: pcp.Refused, now: float) -> None:
        if self._state is _State.PCP and answer.result in (
            PcpResult.UNSUPPORTED_VERSION,  # also of a router that knows NAT-PMP alone
            PcpResult.UNSUPPORTED_OPCODE,
        ):
            if self._own.version == 4:
                self._speak(_State.NAT_PMP, now)
            else:
                self._fail(self._wanted, f"the router refuses to open a port by PCP: {answer.why}", now)
            return
        if self._state is _State.RESTING or answer.is_pcp != (self._state is _State.PCP):
            return  # late
        if answer.result == PcpResult.UNSUPPORTED_VERSION:
            return  # to another PCP request of ours: there is one for each protocol
        if answer.protocol is not None and answer.nonce not in (b"", self._nonces.get(answer.protocol)):
            return  # another client's
        of = self._wanted if answer.protocol is None else self._wanted & {answer.protocol}
        self._again_s = min(max(float(answer.lifetime_s), AGAIN_AFTER_S), MAX_ERROR_S)
        self._fail(of, f"the router refuses to map a port by {self._state.value}: {answer.why}", now)

    def _has_restarted(self, epoch_s: int, now: float) -> bool:
        """RFC 6887, section 8.5: the router's seconds must go on as ours, within a sixteenth and 2 s."""
        if self._epoch is None:
            return False
        before_s, told_at = self._epoch
        theirs, ours = epoch_s - before_s, now - told_at
        if theirs < -1:
            return True
        return ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16
