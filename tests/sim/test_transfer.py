"""What the bench measures over four slow nodes, in virtual time: links add up, for many flows and for one."""

from __future__ import annotations

import pytest

from tests.sim.lanes import LaneHost, joined
from tests.sim.transfer import SlowNet

RATE = 2.5e6  # 20 Mbit/s
NEAR = (0.002,) * 4


def started(links: int, flows: int, trips: tuple[float, ...] = NEAR) -> tuple[SlowNet, LaneHost, LaneHost]:
    net = SlowNet(RATE, trips[:links])
    user, provider = joined(net, links, links)
    net.begin(user, provider, flows)
    return net, user, provider


@pytest.mark.parametrize(("flows", "settle_s", "ratio"), [(32, 2, 3.2), (1, 5, 2.5)])
def test_four_links_carry_more_than_one(flows: int, settle_s: float, ratio: float) -> None:
    got = {}
    for links in (1, 4):
        net, _, _ = started(links, flows)
        net.transfer(settle_s)
        got[links] = net.transfer(2)
        assert got[links] > 0.75 * RATE * (1 if links == 1 else ratio)
    assert got[4] >= ratio * got[1]


@pytest.mark.parametrize(
    ("trips", "settle_s"),  # its window has to grow to the longest round trip first
    [((0.020, 0.030, 0.024, 0.040), 2), ((0.010, 0.100, 0.100, 0.100), 8)],
)
def test_a_single_flow_is_better_off_with_links_that_are_slower(
    trips: tuple[float, ...], settle_s: float
) -> None:
    net, _, _ = started(4, 1, trips)
    flow = net.flows[0]
    net.transfer(settle_s)
    assert net.transfer(2) > 1.2 * 0.85 * RATE, "more than one link can give"
    assert flow.spurious < 0.02 * flow.done, "what waited for its turn was taken for lost"


def test_a_striped_flow_that_one_lane_can_carry_goes_back_to_it_in_order() -> None:
    net, user, provider = started(4, 1)
    net.transfer(4)
    spread = user.peer(provider).path.scheduler
    assert spread is not None
    flow = net.flows[0]
    flow.limit = 4.0
    net.transfer(2)
    lost, spurious = flow.losses, flow.spurious
    net.up[1].carried = net.up[2].carried = net.up[3].carried = 0
    assert net.transfer(1) > 0
    assert (flow.losses, flow.spurious) == (lost, spurious)
    assert sum(net.up[k].carried for k in (1, 2, 3)) < 0.05 * net.up[0].carried
