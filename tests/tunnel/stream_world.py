"""Two tunnel cores in virtual time, and a simple shell on each side.

What is asked for is accepted or refused, what comes is read, what is to be written leaves as there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from nconnect.model import Endpoint
from nconnect.tunnel.outputs import DatagramCame, StreamAsked, StreamMoved
from nconnect.tunnel.streams.stream import StreamState, TunnelStream
from tests.sim.network import Host, Simulation, pair
from tests.tunnel.sides import is_up_within

TARGET = Endpoint(ip_address("192.168.50.10"), 8000)
ROOM = 1 << 18


class End:
    """One end of a stream, and the program that uses it."""

    def __init__(self, host: Host, stream: TunnelStream) -> None:
        self.host = host
        self.stream = stream
        self.got = bytearray()
        self.to_write = bytearray()
        self.ends = False  # once all of it is written
        self.reads = True
        self.saw_eof = False

    def step(self) -> None:
        stream, now, streams = self.stream, self.host.sim.now, self.host.tunnel.streams
        stream.is_told = False
        if self.reads:
            while data := stream.read(1 << 16, now):
                self.got += data
            self.saw_eof = self.saw_eof or (stream.at_eof and not stream.why)
        while self.to_write and stream.can_write and stream.unsent < ROOM:
            stream.write(bytes(self.to_write[:ROOM]))
            del self.to_write[:ROOM]
        if self.ends and not self.to_write and stream.can_write:
            stream.end(now)
        streams.touched(stream, now)


class World:
    """A user who opens streams to a provider."""

    def __init__(self, seed: int = 0) -> None:
        self.sim = Simulation(seed)
        self.user, self.provider = pair(self.sim)
        assert is_up_within(self.sim, 10, self.user, self.provider)
        self.ends: dict[TunnelStream, End] = {}
        self.accepted: list[End] = []
        self.datagrams: list[tuple[Host, DatagramCame]] = []
        self.answer: Callable[[TunnelStream], tuple[int, str] | None] = lambda stream: None
        self.on_accept: Callable[[End], object] = lambda end: None
        self._seen = {self.user: len(self.user.events), self.provider: len(self.provider.events)}

    def open(self, target: Endpoint = TARGET) -> End:
        stream = self.user.tunnel.streams.open(self.user.peer(self.provider), target, self.sim.now)
        end = self.ends[stream] = End(self.user, stream)
        return end

    def opened(self) -> tuple[End, End]:
        """A stream that is open: the user's end and the provider's."""
        end = self.open()
        assert self.run(20, lambda: end.stream.state is StreamState.OPEN)
        return end, self.accepted[-1]

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        def step() -> bool:
            self.step()
            return until()

        return self.sim.run(seconds, step)

    def step(self) -> None:
        for host in (self.user, self.provider):
            events, self._seen[host] = host.events[self._seen[host] :], len(host.events)
            for event in events:
                if isinstance(event, StreamAsked):
                    self._asked(host, event.stream)
                elif isinstance(event, StreamMoved) and event.stream in self.ends:
                    self.ends[event.stream].step()
                elif isinstance(event, DatagramCame):
                    self.datagrams.append((host, event))

    def _asked(self, host: Host, stream: TunnelStream) -> None:
        refusal = self.answer(stream)
        if refusal is None:
            host.tunnel.streams.accept(stream, self.sim.now)
            end = self.ends[stream] = End(host, stream)
            self.accepted.append(end)
            self.on_accept(end)
            end.step()
        else:
            stream.refuse(*refusal, self.sim.now)
            host.tunnel.streams.touched(stream, self.sim.now)


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes in which a part that is lost, doubled or moved shows."""
    blocks = (number.to_bytes(8, "big") + bytes((salt, 7)) for number in range(size // 10 + 1))
    return b"".join(blocks)[:size]
