"""Flows over lanes of different rates and round trips, in virtual time."""

from __future__ import annotations

from collections import Counter

from nconnect.tunnel.constants import QUEUE_BYTES
from tests.sim.lanes import LaneHost, LaneNet, Path, joined
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


def numbers(provider: LaneHost) -> dict[int, list[int]]:
    """What was delivered: flow -> packet numbers in the order of arrival."""
    found: dict[int, list[int]] = {}
    for record in provider.delivered:
        data = record[HEADER:]
        found.setdefault(int.from_bytes(data[:2]), []).append(int.from_bytes(data[2:6]))
    return found


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


def test_a_bulk_flow_is_striped_over_four_lanes_and_arrives_in_order() -> None:
    net = shaped(4, 0.010, 0.014, 0.012, 0.020)
    user, provider = joined(net, 4, 4)
    load = Load(user, provider, 1)
    load.run(net, 3)
    provider.delivered.clear()
    load.seen = 0
    assert load.run(net, 3) > 2.5 * RATE
    got = numbers(provider)[0]
    assert got == sorted(got)
    assert provider.peer(user).striped.held_bytes < 1 << 20


def test_many_flows_are_pinned_and_use_all_lanes() -> None:
    net = shaped(4)
    user, provider = joined(net, 4, 4)
    load = Load(user, provider, 32, 30_000)
    load.run(net, 3)
    provider.delivered.clear()
    load.seen = 0
    assert load.run(net, 3) > 3.2 * RATE
    assert all(got == sorted(got) for got in numbers(provider).values())


def test_one_link_and_four_understand_each_other() -> None:
    for links in ((1, 4), (4, 1)):
        net = LaneNet()
        user, provider = joined(net, *links)
        load = Load(user, provider, 3, 100_000)
        assert load.run(net, 1) > 1e6
        assert set(numbers(provider)) == {0, 1, 2}
        assert not provider.dropped()


def test_sparse_flows_stay_on_the_quickest_lane() -> None:
    net = shaped(3, 0.050, 0.010, 0.050)
    user, provider = joined(net, 3, 3)
    net.carried.clear()
    for number in range(50):
        put(user, provider, number % 5, number)
        user.flush()
        net.run(0.05)
    assert len(provider.delivered) == 50
    carried = net.carried_by("user")
    assert carried[1, 1] > 0.9 * sum(carried.values())


def test_a_lane_that_is_much_slower_is_not_used_while_the_best_is_enough() -> None:
    net = LaneNet()
    net.paths[0, 0] = Path(12.5e6, 0.01)
    net.paths[1, 1] = Path(0.1e6, 0.4)
    user, provider = joined(net, 2, 2)
    net.carried.clear()
    for number in range(200):
        for flow in range(4):
            put(user, provider, flow, number)
        user.flush()
        net.run(0.005)
    carried = net.carried_by("user")
    assert carried.get((1, 1), 0) < 0.02 * carried[0, 0]


def test_a_silent_lane_hands_its_flows_over_without_a_handshake() -> None:
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    load = Load(user, provider, 8)
    load.run(net, 3)
    sessions = user.peer(provider).session.current
    net.paths[0, 0].cut = True
    load.run(net, 2)
    before = len(provider.delivered)
    assert load.run(net, 1) > 0.8 * RATE
    assert {int.from_bytes(r[HEADER : HEADER + 2]) for r in provider.delivered[before:]} == set(range(8))
    assert user.peer(provider).session.current is sessions
    assert not user.lost()
    dead = [lane for lane in user.peer(provider).lanes.used if lane.dead]
    assert [lane.link for lane in dead] == [0]


def test_a_dead_lane_that_lives_again_is_used_again() -> None:
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    load = Load(user, provider, 8)
    load.run(net, 2)
    net.paths[0, 0].cut = True
    load.run(net, 2)
    net.paths[0, 0].cut = False
    load.run(net, 5)
    assert not any(lane.dead for lane in user.peer(provider).lanes.used)
    assert load.run(net, 2) > 1.5 * RATE


def test_a_link_that_goes_down_takes_nothing_with_it() -> None:
    net = shaped(2)
    user, provider = joined(net, 2, 2)
    load = Load(user, provider, 4)
    load.run(net, 2)
    net.paths[0, 0].cut = True
    user.tunnel.set_links({1: 2}, net.now)
    user.drain()
    net.run(0.3)
    assert [lane.link for lane in user.peer(provider).lanes.used] == [1, 1]
    assert {lane.number for lane in provider.peer(user).lanes.used} == {1, 9}
    before = len(provider.delivered)
    assert load.run(net, 1.5) > 0.7 * RATE
    assert {int.from_bytes(r[HEADER : HEADER + 2]) for r in provider.delivered[before:]} == set(range(4))


def test_when_the_load_ends_one_lane_is_enough_again() -> None:
    net = shaped(4)
    user, provider = joined(net, 4, 4)
    Load(user, provider, 4).run(net, 2)
    assert user.peer(provider).spread is not None
    net.run(4)
    assert user.peer(provider).spread is None
    assert user.peer(provider).bytes_held == 0


def test_what_waits_stays_bounded_when_all_lanes_are_dead() -> None:
    net = shaped(4)
    user, provider = joined(net, 4, 4)
    for path in net.paths.values():
        path.cut = True
    for number in range(20_000):
        put(user, provider, number % 7, number)
    user.flush()
    net.run(1)
    assert user.peer(provider).bytes_held <= 5 * QUEUE_BYTES
