"""Load for several lanes: flows of numbered packets that keep a window of bytes under way."""

from __future__ import annotations

from collections import Counter

from tests.sim.lanes import LaneHost, LaneNet, Path
from tests.sim.network import packet

USER, SERVER = "10.86.0.2", "192.168.50.10"
RATE = 2.5e6  # 20 Mbit/s
HEADER = 38
PACKET_BYTES = 1444


def put(user: LaneHost, provider: LaneHost, flow: int, number: int, size: int = 1400) -> None:
    """Enqueue one numbered packet of a flow (its source port)."""
    record = bytearray(packet(USER, SERVER, flow.to_bytes(2) + number.to_bytes(4) + bytes(size)))
    record[30:32] = (1000 + flow).to_bytes(2)
    user.tunnel.enqueue(user.peer(provider), record, user.sim.now)


class Load:
    """Flows that each keep a window of bytes under way, as bulk over TCP does; nothing is sent again."""

    def __init__(self, user: LaneHost, provider: LaneHost, flows: int, window: int = 400_000) -> None:
        self.user, self.provider, self.flows, self.window = user, provider, flows, window
        self.seen = 0
        self.next = Counter[int]()
        self.acknowledged = Counter[int]()
        self.heard_at: dict[int, float] = {}

    def run(self, net: LaneNet, seconds: float) -> float:
        """Bytes a second that arrive meanwhile."""
        before, begin = len(self.provider.delivered), net.now
        while net.now < begin + seconds:
            for record in self.provider.delivered[self.seen :]:
                flow, number = int.from_bytes(record[38:40]), int.from_bytes(record[40:44])
                self.acknowledged[flow] = max(self.acknowledged[flow], number + 1)
                self.heard_at[flow] = net.now
            self.seen = len(self.provider.delivered)
            for flow in range(self.flows):
                if net.now - self.heard_at.setdefault(flow, net.now) > 0.3:  # a retransmission time-out
                    self.acknowledged[flow] = self.next[flow]
                    self.heard_at[flow] = net.now
                under_way = self.next[flow] - self.acknowledged[flow]
                for _ in range(max(0, self.window // PACKET_BYTES - under_way)):
                    put(self.user, self.provider, flow, self.next[flow])
                    self.next[flow] += 1
            self.user.flush()
            net.run(0.002)
        return sum(map(len, self.provider.delivered[before:])) / (net.now - begin)


def shaped(links: int, *delays: float, rate: float = RATE) -> LaneNet:
    net = LaneNet()
    for k in range(links):
        net.paths[k, k] = Path(rate, delays[k] if k < len(delays) else 0.01)
    return net
