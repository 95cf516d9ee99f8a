"""Keeps one port of this machine open at a router that speaks UPnP alone (IGD:1, IGD:2). Pure.

Contract with its shell:

    mapper = UpnpMapper(PortRequest(router, own, port), now=now, rng=os.urandom)
    while (output := mapper.poll_output()) is not None: ...     # an MSearch to send, or an HttpCall to make
    mapper.receive(data, source_address, now) -> bool           # a datagram at the search's socket
    mapper.answered(body, now);  mapper.failed(why, now)        # each call ends in one of them
    mapper.poll_timeout() -> Deadline | None;  mapper.handle_timeout(now)
    mapper.mappings, mapper.problem                             # as a PortMapper's
    mapper.close()                                              # then make the calls, which give up all

    search -> description -> outer address -> a mapping for each protocol -> rest, until half of the time

Without any protocols it asks for the outer address, which changes nothing at the router, and rests: `outside`
and `is_answered` say what came of it.

One call is under way at a time. UPnP tells nothing of a router's restart: renewing makes a lost mapping anew.
A mapping is asked for 7,200 s. Routers of IGD:1 may take permanent ones only (error 725); those are made,
renewed as often, and given up at the end as any. Where another device has the outer port (718), three others
are tried.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address, Buffer, Deadline, Rng
from nconnect.nat.port_mapping import (
    AGAIN_AFTER_S,
    LIFETIME_S,
    TRY_FOR_S,
    Mapper,
    Mapping,
    PortRequest,
    check_outside,
)
from nconnect.wire import upnp
from nconnect.wire.upnp import Fault, UpnpService

CALL_S = 10.0  # guessed; the shell should end a call sooner
MAX_PORTS = 4  # tried outside
_CONFLICT, _PERMANENT_ONLY = 718, 725  # WANIPConnection:1, section 2.4.16
_DYNAMIC_PORTS = 49152  # RFC 6335, section 6: to 65535


@dataclass(frozen=True, slots=True)
class MSearch:
    """A datagram for the router's port 1900."""

    data: bytes


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A GET without a body, else a POST."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class UpnpStep(Enum):
    SEARCH = auto()
    DESCRIPTION = auto()
    ADDRESS = auto()
    MAP = auto()
    REST = auto()
    CLOSED = auto()


class UpnpMapper(Mapper):
    """The mappings of one port, at one router."""

    _names = upnp.MAPS_PORTS
    _action = "AddPortMapping"

    def __init__(self, request: PortRequest, *, now: float, rng: Rng) -> None:
        super().__init__(request, now)
        self.outside: Address | None = None  # the router's address there, as told last
        self.is_answered = False  # whether its service has ever answered a call
        self._rng = rng
        self._own6 = request.own if request.own.version == 6 else None
        self._outer = dict.fromkeys(request.protocols, request.port)  # what is asked for outside
        self._asked: dict[str, int] = {}  # outer ports that may be mapped, answered or not, by protocol
        self._lifetime_s = LIFETIME_S
        self._left: deque[str] = deque()  # protocols that are to be mapped, the one under way first
        self._ports_tried = 0
        self._url = ""
        self._service: UpnpService | None = None
        self._outputs: deque[MSearch | HttpCall] = deque()
        self._step = UpnpStep.SEARCH
        self._search(now)

    @property
    def is_asking(self) -> bool:
        """Whether an answer is awaited, so that `mappings` and `problem` may change soon."""
        return self._step not in (UpnpStep.REST, UpnpStep.CLOSED)

    def poll_output(self) -> MSearch | HttpCall | None:
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Deadline | None:
        if self._step is UpnpStep.CLOSED:
            return None
        return Deadline(self._due_at, f"UPnP: {self._step.name.lower()}")

    def handle_timeout(self, now: float) -> None:
        """Search again, give up for now, or renew. Does nothing when it is early."""
        if self._step is UpnpStep.CLOSED or now < self._due_at:
            return
        self._drop_expired(now)
        if self._step is UpnpStep.SEARCH and self._tries < len(TRY_FOR_S):
            self._search(now)
        elif self._step is UpnpStep.REST:
            self._step, self._tries = UpnpStep.SEARCH, 0
            self._search(now)
        else:
            self._give_up("the router does not answer by UPnP", now)

    def receive(self, data: Buffer, source: Address, now: float) -> bool:
        """Take a datagram; False if it is not the router's. Never raises."""
        if source != self._router:
            return False
        if self._step is UpnpStep.SEARCH:
            try:
                self._url = upnp.description_url(data, self._router, self._own6)
            except RemoteProtocolError as error:
                self.problem = str(error)
            else:
                self._outputs.clear()
                self._call(UpnpStep.DESCRIPTION, HttpCall(self._url), now)
        return True

    def answered(self, body: Buffer, now: float) -> None:
        """The call under way has this answer, whatever its HTTP status. Never raises."""
        try:
            if self._step is UpnpStep.DESCRIPTION:
                self._service = upnp.find_service(body, self._url, self._router, self._names, self._own6)
                self._found(now)
            elif self._step is UpnpStep.ADDRESS:
                told = upnp.result(body, "GetExternalIPAddress")
                self.is_answered = True
                self._address_told(told, now)
            elif self._step is UpnpStep.MAP:
                self._mapped(upnp.result(body, self._action), now)
        except RemoteProtocolError as error:
            self._give_up(f"the router's answer makes no sense ({error})", now)

    def failed(self, why: str, now: float) -> None:
        """The call under way had no answer."""
        if self._step in (UpnpStep.DESCRIPTION, UpnpStep.ADDRESS, UpnpStep.MAP):
            self._give_up(f"the router does not answer by UPnP: {why}", now)

    def close(self) -> None:
        """Give up what is mapped, or may be: the outputs are calls that say so, in any order."""
        self._outputs.clear()
        if self._step is not UpnpStep.CLOSED and self._service is not None:
            self._outputs.extend(self._give_back())
        self._step = UpnpStep.CLOSED
        self.mappings.clear()

    def _give_back(self) -> list[HttpCall]:
        return [
            self._http("DeletePortMapping", upnp.unmap_arguments(protocol, port))
            for protocol, port in sorted(self._asked.items())
        ]

    # --- steps ---

    def _found(self, now: float) -> None:
        """There is the service."""
        self._ask(UpnpStep.ADDRESS, "GetExternalIPAddress", {}, now)

    def _search(self, now: float) -> None:
        self._outputs.append(MSearch(upnp.search_request(self._router)))
        self._due_at = now + TRY_FOR_S[self._tries]
        self._tries += 1

    def _call(self, step: UpnpStep, call: HttpCall, now: float) -> None:
        self._step = step
        self._due_at = now + CALL_S
        self._outputs.append(call)

    def _ask(self, step: UpnpStep, action: str, arguments: dict[str, str], now: float) -> None:
        self._call(step, self._http(action, arguments), now)

    def _http(self, action: str, arguments: dict[str, str]) -> HttpCall:
        assert self._service is not None
        headers, body = upnp.call(self._service, action, arguments)
        return HttpCall(self._service.url, tuple(headers.items()), body)

    def _address_told(self, answer: dict[str, str] | Fault, now: float) -> None:
        if isinstance(answer, Fault):
            self._give_up(f"the router tells no address by UPnP: {answer.why}", now)
            return
        address = upnp.external_address(answer)
        check_outside(address)
        self.outside = address
        self._map_all(now)

    def _map_all(self, now: float) -> None:
        self._left = deque(self._protocols)
        self._ports_tried = 0
        self._map_next(now)

    def _map_next(self, now: float) -> None:
        if self._left:
            self._map(now)
        else:
            self._rest("", now, LIFETIME_S / 2)

    def _map(self, now: float) -> None:
        protocol = self._left[0]
        self._ports_tried += 1
        arguments = upnp.map_arguments(
            protocol,
            self._port,
            self._own,
            external_port=self._outer[protocol],
            lifetime_s=self._lifetime_s,
        )
        self._asked[protocol] = self._outer[protocol]
        self._ask(UpnpStep.MAP, self._action, arguments, now)

    def _mapped(self, answer: dict[str, str] | Fault, now: float) -> None:
        protocol = self._left[0]
        if isinstance(answer, Fault):
            held = self.mappings.get(protocol)
            if held is None:
                del self._asked[protocol]
            else:
                self._asked[protocol] = held.port
            if answer.code == _PERMANENT_ONLY and self._lifetime_s:
                self._lifetime_s = 0
            elif answer.code == _CONFLICT and self._ports_tried < MAX_PORTS:
                drawn = int.from_bytes(self._rng(2), "big")
                self._outer[protocol] = _DYNAMIC_PORTS + drawn % (65536 - _DYNAMIC_PORTS)
            else:
                self._give_up(f"the router refuses to map a port by UPnP: {answer.why}", now)
                return
            self._map(now)
            return
        assert self.outside is not None
        self._holds(self.outside, self._outer[protocol], now)

    def _holds(self, address: Address, port: int, now: float) -> None:
        """The protocol under way is mapped: the next."""
        times = now + LIFETIME_S / 2, now + LIFETIME_S
        self.mappings[self._left[0]] = Mapping(address, port, "UPnP", *times)
        self._left.popleft()
        self._ports_tried = 0
        self._map_next(now)

    def _give_up(self, problem: str, now: float) -> None:
        self._rest(problem, now, AGAIN_AFTER_S)

    def _rest(self, problem: str, now: float, for_s: float) -> None:
        self.problem = problem
        self._step = UpnpStep.REST
        self._outputs.clear()
        ends = [mapping.expires_at for mapping in self.mappings.values()]
        self._due_at = min(now + for_s, *ends) if ends else now + for_s
