"""Flows over lanes of different rates and round trips, in virtual time."""

from __future__ import annotations

from nconnect.crypto.keys import Identity
from nconnect.model import NknAddress
from nconnect.tunnel.constants import QUEUE_BYTES
from nconnect.tunnel.paths.feedback import LATELY_S, REPORT_BYTES, UNDER_WAY_BYTES, Arrivals
from nconnect.tunnel.paths.lanes import Lanes
from nconnect.tunnel.paths.scheduler import Scheduler
from tests.sim.lanes import LaneHost, LaneNet, Path, joined
from tests.sim.load import HEADER, RATE, Load, put, shaped


def numbers(provider: LaneHost) -> dict[int, list[int]]:
    """What was delivered: flow -> packet numbers in the order of arrival."""
    found: dict[int, list[int]] = {}
    for record in provider.delivered:
        data = record[HEADER:]
        found.setdefault(int.from_bytes(data[:2]), []).append(int.from_bytes(data[2:6]))
    return found


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
    assert provider.peer(user).relayed.striped.held_bytes < 1 << 20


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


def test_a_lane_whose_peer_has_to_catch_up_waits_and_is_looked_at_again_soon() -> None:
    lanes = Lanes(NknAddress("peer", Identity(bytes(32)).public_key), 0.0)
    spread = Scheduler(lanes, 0.0)
    lane = lanes.best
    spread.enqueue(1, bytearray(1000), 0.0)
    assert spread.next_lane(0, 0.0) is not None
    arrivals = Arrivals()
    lane.sending.sent(1, 0, REPORT_BYTES, 0.0)
    assert arrivals.received(1, 0, REPORT_BYTES, 0.02)
    lane.sending.on_report(arrivals.report(0.02, busy=True), 0.02, busy=False)
    lane.sending.sent(1, 1, 2 * UNDER_WAY_BYTES, 0.02)
    assert spread.next_lane(0, 0.03) is None
    assert 0.03 < spread.next_at(0.03) < 0.04, "nothing else may wake us"
    assert spread.next_lane(0, 0.02 + LATELY_S) is not None


def test_when_the_load_ends_one_lane_is_enough_again() -> None:
    net = shaped(4)
    user, provider = joined(net, 4, 4)
    Load(user, provider, 4).run(net, 2)
    assert user.peer(provider).path.scheduler is not None
    net.run(4)
    assert user.peer(provider).path.scheduler is None
    assert user.peer(provider).path.bytes_held == 0


def test_what_waits_stays_bounded_when_all_lanes_are_dead() -> None:
    net = shaped(4)
    user, provider = joined(net, 4, 4)
    for path in net.paths.values():
        path.cut = True
    for number in range(20_000):
        put(user, provider, number % 7, number)
    user.flush()
    net.run(1)
    assert user.peer(provider).path.bytes_held <= 5 * QUEUE_BYTES
