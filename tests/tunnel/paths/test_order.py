"""Order by counters, learnt and forgotten: counters and times in, counters out."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import TCP, UDP, Raw

from nconnect.node.reorder import Reorderer
from nconnect.tunnel.paths.reorder import FORGET_S, HELD_BYTES_MOST, MAX_ORDER_WAIT_S, Order
from tests.ip.packets import ipv4, plain
from tests.sim.network import Faults, ip, packet
from tests.tunnel.hostile import connected

KEYS = 7  # an index
MARK = packet("10.86.0.2", "192.168.50.10")  # what a record begins with
WAY = ("10.86.0.2", "192.168.50.10")


class Path:
    """One direction: what arrives, and when each batch was handed out."""

    def __init__(self) -> None:
        self.order = Order()
        self.newest: dict[int, int] = {}  # of each key index: the highest counter that came
        self.now = 100.0
        self.passed: list[int] = []

    def arrives(self, counter: int, *, after_s: float = 0.0, size: int = 100, index: int = KEYS) -> list[int]:
        """Let it arrive, and all timers before it; what passes because of it."""
        self.run(after_s)
        packet = memoryview(MARK + counter.to_bytes(8, "big"))
        return self._note(self.put(index, counter, [packet], size))

    def put(self, index: int, counter: int, packets: list[memoryview], size: int) -> list[memoryview]:
        """As the receiver does."""
        newest, order = self.newest.get(index, -1), self.order
        self.newest[index] = max(newest, counter)
        if counter == newest + 1 and index == order.index and not order.waits:
            return packets
        return order.put(index, counter, newest, packets, size, self.now)

    def run(self, seconds: float) -> list[int]:
        """Time passes."""
        end, passed = self.now + seconds, []
        while (at := self.order.next_at()) <= end:
            self.now = max(self.now, at)
            passed += self._note(self.order.expire(self.now))
        self.now = end
        return passed

    def disturb(self, late_s: float = 0.004) -> int:
        """Let a batch be late by so much; the next counter."""
        begin = max(self.passed, default=-1) + 1
        self.arrives(begin)
        self.arrives(begin + 2)
        self.arrives(begin + 1, after_s=late_s)
        return begin + 3

    def _note(self, packets: list[memoryview]) -> list[int]:
        numbers = [int.from_bytes(packet[-8:], "big") for packet in packets]
        self.passed += numbers
        return numbers


def test_on_a_path_that_keeps_the_order_nothing_waits_not_even_after_a_loss() -> None:
    path = Path()
    for counter in (0, 1, 2, 5, 6, 40, 41):
        assert path.arrives(counter, after_s=0.001) == [counter]
    assert path.order.next_at() == inf
    assert not path.order.waits


def test_after_one_late_batch_those_that_overtake_wait_for_what_is_missing() -> None:
    path = Path()
    begin = path.disturb(0.004)
    assert path.passed == [0, 2, 1], "the first time shows it"
    assert path.arrives(begin + 1) == path.arrives(begin + 2) == []
    assert path.order.waits
    assert path.arrives(begin, after_s=0.003) == [begin, begin + 1, begin + 2]
    assert not path.order.waits
    assert path.order.next_at() == inf


def test_a_lone_batch_in_its_turn_never_waits() -> None:
    path = Path()
    begin = path.disturb()
    for counter in range(begin, begin + 20):
        assert path.arrives(counter, after_s=1.0) == [counter]


def test_what_is_lost_is_waited_for_twice_the_greatest_lateness() -> None:
    path = Path()
    begin = path.disturb(0.004)
    assert path.arrives(begin + 1) == []
    assert path.run(0.0079) == []
    assert path.run(0.0002) == [begin + 1]
    assert path.arrives(begin) == [begin], "too late for its turn, and not dropped"
    path = Path()
    begin = path.disturb(0.9 * MAX_ORDER_WAIT_S)
    assert path.arrives(begin + 1) == []
    assert path.run(MAX_ORDER_WAIT_S + 1e-6) == [begin + 1], "and never longer than the bound"


def test_a_path_whose_disorder_is_longer_than_the_bound_is_left_alone() -> None:
    path = Path()
    begin = path.disturb(2 * MAX_ORDER_WAIT_S)
    assert path.arrives(begin + 1) == [begin + 1]


def test_a_path_that_has_kept_the_order_for_a_while_is_trusted_again() -> None:
    path = Path()
    begin = path.disturb()
    for counter in range(begin, begin + 20):
        path.arrives(counter, after_s=FORGET_S / 10)
    assert path.arrives(begin + 21) == [begin + 21]


def test_a_greatest_lateness_of_old_fades() -> None:
    path = Path()
    path.disturb(0.020)
    for _ in range(500):
        path.disturb(0.001)
    begin = path.disturb(0.001)
    assert path.arrives(begin + 1) == []
    assert path.run(0.003) == [begin + 1]


def test_new_keys_begin_a_new_count_and_let_go_of_what_waited() -> None:
    path = Path()
    begin = path.disturb()
    assert path.arrives(begin + 1) == []
    assert path.arrives(0, index=8) == [begin + 1, 0]
    assert path.arrives(begin, index=KEYS) == [begin], "of the old keys: passes, and changes nothing"
    assert path.arrives(2, index=8) == []
    assert path.arrives(1, index=8) == [1, 2]
    assert path.arrives(1, index=9) == [], "the first under other keys is missing"
    assert path.arrives(0, index=9) == [0, 1]


def test_tcp_does_not_wait_and_the_rest_of_its_batch_does() -> None:
    path = Path()
    begin = path.disturb()
    tcp = plain(ipv4(TCP(sport=1, dport=2, flags="PA") / Raw(b"data")))
    udp = plain(ipv4(UDP(sport=1, dport=2) / Raw(b"data")))
    assert path.put(KEYS, begin + 1, [tcp, udp, tcp], 1000) == [tcp, tcp]
    assert path.order.waits
    assert path.put(KEYS, begin, [], 0) == [udp]
    assert not path.order.waits


def test_what_waits_is_bounded() -> None:
    path = Path()
    begin = path.disturb()
    for counter in range(begin + 1, begin + 400):
        path.arrives(counter, size=256 << 10)
        assert path.order._queue.held_bytes <= HELD_BYTES_MOST
    path.run(1.0)
    assert sorted(path.passed) == [n for n in range(begin + 400) if n != begin]


@pytest.mark.parametrize("seed", range(5))
def test_what_the_official_node_disturbs_arrives_in_order(seed: int) -> None:
    """Its disorder as `Reorderer` makes it, 4,000 batches a second."""
    path, node = Path(), Reorderer(seed)
    for number in range(4000):
        path.now += 0.00025
        for message in node.push(number.to_bytes(8, "big")):
            path.arrives(int.from_bytes(message, "big"))
    for message in node.flush():
        path.arrives(int.from_bytes(message, "big"))
    path.run(1.0)
    assert sorted(path.passed) == list(range(4000))
    assert _overtakers(path.passed) < 0.02 * 4000


def _overtakers(numbers: list[int]) -> int:
    """How many came after a higher one."""
    return sum(number < top for number, top in zip(numbers, _highest(numbers), strict=True))


def test_a_tunnel_delivers_in_order_over_a_path_that_disturbs_it() -> None:
    sim, user, provider = connected()
    sim.faults = Faults(delay=(0.01, 0.02))
    for number in range(1000):
        user.send_packet(packet(*WAY, number.to_bytes(4)), ip(WAY[1]))
        sim.run(0.0005)
    sim.run(1.0)
    numbers = [int.from_bytes(record[-4:]) for record in provider.delivered[-1000:]]
    assert sorted(numbers) == list(range(1000))
    assert _overtakers(numbers) < 50, "without it four of five"


def test_what_waits_of_a_peer_that_is_removed_is_never_delivered() -> None:
    sim, user, provider = connected()
    sim.faults = Faults(delay=(0.01, 0.02))
    peer = provider.peer(user)
    while not peer.path.order.waits:
        user.send_packet(packet(*WAY), ip(WAY[1]))
        sim.run(0.0005)
    provider.tunnel.set_peers([], sim.now)
    delivered = len(provider.delivered)
    sim.run(1.0)
    assert len(provider.delivered) == delivered


def _highest(numbers: list[int]) -> list[int]:
    top, found = -1, []
    for number in numbers:
        top = max(top, number)
        found.append(top)
    return found


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(7, 9), st.floats(0, 0.05), st.integers(0, 1 << 20)),
        max_size=60,
    )
)
def test_each_batch_is_handed_out_once_whatever_arrives(
    steps: list[tuple[int, int, float, int]],
) -> None:
    path = Path()
    given: set[tuple[int, int]] = set()
    for counter, index, after_s, size in steps:
        if (counter, index) not in given:  # the replay window refuses a second one
            given.add((counter, index))
            path.arrives(counter, after_s=after_s, size=size, index=index)
            assert not path.order.waits or path.order.next_at() - path.now <= MAX_ORDER_WAIT_S + 1e-9
    path.run(1.0)
    assert sorted(path.passed) == sorted(counter for counter, _ in given)
    assert not path.order.waits
