"""The pacer alone, and on a simulated link whose buffer holds a second."""

from __future__ import annotations

import pytest

from nconnect.queueing.pacer import CRUISE, MIN_BURST_BYTES, UNLIMITED_BYTES, Pacer
from tests.queueing.bottleneck import Bottleneck

MBIT = 1e6 / 8


def samples(
    pacer: Pacer,
    since: float,
    until: float,
    *,
    rate: float,
    rtt_s: float,
    in_flight: int = 0,
    unsent: int = 0,
) -> float:
    """Every 10 ms of [since, until): a link that acknowledges at `rate` and shows this round trip."""
    now = since
    while now < until:
        pacer.sample(
            now,
            acked_bytes=int(now * rate),
            in_flight_bytes=in_flight,
            unsent_bytes=unsent,
            rtt_s=rtt_s,
            min_rtt_s=0.020,
        )
        now += 0.010
    return now


def paced(rate: float = 1e6) -> tuple[Pacer, float]:
    """A pacer that has seen a queue of 30 ms at `rate`, drained it, and settled."""
    pacer = Pacer(0.0)
    now = samples(pacer, 0.0, 0.1, rate=rate, rtt_s=0.020)
    now = samples(pacer, now, now + 0.1, rate=rate, rtt_s=0.050, in_flight=int(0.050 * rate))
    now = samples(pacer, now, now + 0.2, rate=rate, rtt_s=0.020, in_flight=int(0.020 * rate))
    assert pacer.rate == pytest.approx(CRUISE * rate, rel=0.01)
    return pacer, now


def test_a_new_link_is_not_paced() -> None:
    pacer = Pacer(5.0)
    assert pacer.rate is None
    assert pacer.budget(5.0) == UNLIMITED_BYTES
    pacer.sent(5.0, UNLIMITED_BYTES)
    assert pacer.next_at(5.0) == 5.0


def test_a_link_without_a_queue_is_never_paced() -> None:
    pacer = Pacer(0.0)
    samples(pacer, 0.0, 20.0, rate=1e8, rtt_s=0.025)
    assert pacer.rate is None


def test_a_short_burst_of_delay_is_not_a_queue() -> None:
    pacer, now = Pacer(0.0), 0.0
    for _ in range(20):
        now = samples(pacer, now, now + 0.020, rate=1e6, rtt_s=0.060, in_flight=60_000)
        now = samples(pacer, now, now + 0.020, rate=1e6, rtt_s=0.020)
    assert pacer.rate is None


def test_while_the_queue_drains_nothing_is_sent() -> None:
    pacer = Pacer(0.0)
    now = samples(pacer, 0.0, 0.1, rate=1e6, rtt_s=0.020)
    now = samples(pacer, now, now + 0.05, rate=1e6, rtt_s=0.120, in_flight=120_000)
    assert pacer.rate is not None
    assert pacer.budget(now) == 0
    assert pacer.next_at(now) > now + 0.08  # 100 kB too much at 1 MB/s


def test_a_link_that_falls_idle_while_its_queue_drains_keeps_its_rate() -> None:
    """What was acknowledged last took less time than lies between the samples."""
    pacer = Pacer(0.0)
    now = samples(pacer, 0.0, 0.1, rate=1e6, rtt_s=0.020)
    now = samples(pacer, now, now + 0.05, rate=1e6, rtt_s=0.120, in_flight=120_000)
    acked = int((now - 0.01) * 1e6) + 120_000  # all of it
    for late_s in (0.2, 0.3):
        pacer.sample(
            now + late_s,
            acked_bytes=acked,
            in_flight_bytes=1500,
            unsent_bytes=0,
            rtt_s=0.1,
            min_rtt_s=0.02,
        )
    assert pacer.rate == pytest.approx(CRUISE * 1e6, rel=0.05)


def test_a_stall_while_the_queue_drains_is_not_the_links_rate() -> None:
    """The last packet was lost: nothing is acknowledged until it has come again, and then all at once."""
    pacer = Pacer(0.0)
    now = samples(pacer, 0.0, 0.1, rate=1e6, rtt_s=0.020)
    now = samples(pacer, now, now + 0.05, rate=1e6, rtt_s=0.120, in_flight=120_000)
    acked = int((now - 0.01) * 1e6)
    for n in range(30):
        pacer.sample(
            now + n * 0.01,
            acked_bytes=acked,
            in_flight_bytes=120_000,
            unsent_bytes=0,
            rtt_s=0.120,
            min_rtt_s=0.02,
        )
    pacer.sample(
        now + 0.3,
        acked_bytes=acked + 120_000,
        in_flight_bytes=0,
        unsent_bytes=0,
        rtt_s=0.120,
        min_rtt_s=0.02,
    )
    assert pacer.rate == pytest.approx(CRUISE * 120_000 / 0.3, rel=0.1)


def test_bursts_with_pauses_between_are_not_a_saturated_link() -> None:
    """The round trip that the kernel has smoothed stays long while nothing is under way."""
    for part, limited in ((0.6, False), (1.0, True)):
        pacer, busy_s = Pacer(0.0), 0.0
        for n in range(200):
            now = n * 0.010
            busy_s += part * 0.010
            pacer.sample(
                now,
                acked_bytes=int(now * 1e6),
                in_flight_bytes=15_000,
                unsent_bytes=0,
                rtt_s=0.020 if n < 20 else 0.040,
                min_rtt_s=0.020,
                busy_s=busy_s,
            )
        assert (pacer.rate is not None) is limited


def test_the_budget_is_the_rate() -> None:
    pacer, now = paced(rate=1e6)
    begin, sent = now, 0
    while now < begin + 1.0:
        allowed = pacer.budget(now)
        if allowed:
            pacer.sent(now, 1500)
            sent += 1500
        else:
            assert pacer.next_at(now) > now
            now = pacer.next_at(now)
    assert sent == pytest.approx(CRUISE * 1e6, rel=0.02)


def test_what_was_not_used_does_not_pile_up() -> None:
    pacer, now = paced(rate=1e6)
    assert pacer.budget(now + 1.0) <= max(MIN_BURST_BYTES, 0.005 * 1e6)


def test_what_is_too_much_is_waited_for() -> None:
    pacer, now = paced(rate=1e6)
    pacer.budget(now)
    pacer.sent(now, 64_000)
    assert pacer.budget(now) == 0
    assert pacer.next_at(now) == pytest.approx(now + 0.064 / CRUISE, abs=0.006)


def test_without_a_taker_the_rate_does_not_climb() -> None:
    pacer, now = paced()
    before = pacer.rate
    samples(pacer, now, now + 20.0, rate=1e5, rtt_s=0.020)
    assert pacer.rate == before


def test_large_messages_do_not_hold_the_rate_down() -> None:
    """At such a rate one of them is paid for in four seconds, in which nothing else is sent."""
    pacer, now = paced(rate=250_000)
    acked, end = int(now * 250_000), now + 8.0
    while now < end:
        if pacer.budget(now):
            pacer.sent(now, 1_000_000)
            acked += 1_000_000
        pacer.sample(now, acked_bytes=acked, in_flight_bytes=0, unsent_bytes=0, rtt_s=0.020, min_rtt_s=0.020)
        now += 0.010
    assert pacer.rate is None or pacer.rate > 2_500_000


def test_a_taker_of_less_than_is_allowed_can_fill_the_link_too() -> None:
    """The rate climbed past what the link carries, as too little stood in that moment to be believed."""
    rate = 1e6
    pacer, now = paced(rate)
    while pacer.rate is not None and pacer.rate < 1.25 * rate:
        pacer.sent(now, int(0.010 * pacer.rate))
        now = samples(pacer, now, now + 0.005, rate=rate, rtt_s=0.026, in_flight=6_000)
    assert pacer.rate is not None
    assert pacer.rate > 1.25 * rate
    begin = now
    while pacer.rate is None or pacer.rate > rate:
        pacer.sent(now, int(0.95 * rate * 0.010))
        stands = now > begin + 0.1
        now = samples(
            pacer,
            now,
            now + 0.005,
            rate=rate,
            rtt_s=0.060 if stands else 0.020,
            in_flight=60_000 if stands else 6_000,
        )
        assert now < begin + 1.0, "the queue is left to stand"


def test_bytes_that_stay_unsent_are_a_queue_too() -> None:
    pacer = Pacer(0.0)
    samples(pacer, 0.0, 3.0, rate=1e6, rtt_s=0.020, in_flight=20_000, unsent=16_000)
    assert pacer.rate is not None


# On a simulated link


def test_the_simulated_link_has_a_standing_queue_without_a_pacer() -> None:
    """What the pacer is for; and that the simulation would show it."""
    link = Bottleneck(10 * MBIT, 0.020, paced=False).run(5).forget().run(20)
    assert link.used(20) > 0.95
    assert link.percentile(0.5) > 0.3


def test_a_slow_link_is_used_and_its_buffer_is_not() -> None:
    link = Bottleneck(10 * MBIT, 0.020).run(5).forget().run(30)
    assert link.used(30) >= 0.85
    assert link.percentile(0.99) < 0.015


@pytest.mark.parametrize(("mbit", "rtt_s"), [(5, 0.050), (50, 0.020), (100, 0.010)])
def test_other_links(mbit: float, rtt_s: float) -> None:
    link = Bottleneck(mbit * MBIT, rtt_s).run(8).forget().run(24)
    assert link.used(24) >= 0.85
    assert link.percentile(0.99) < 0.012 + 3 * link.packet_bytes / link.rate


def test_a_link_that_becomes_faster_is_found_out() -> None:
    link = Bottleneck(10 * MBIT, 0.020).run(5)
    link.rate = 50 * MBIT
    link.run(5).forget().run(15)
    assert link.used(15) >= 0.85
    assert link.percentile(0.99) < 0.015


def test_a_link_that_becomes_slower_is_drained_once() -> None:
    link = Bottleneck(50 * MBIT, 0.020).run(8)
    link.rate = 5 * MBIT
    link.run(3).forget().run(15)
    assert link.used(15) >= 0.85
    assert link.percentile(0.99) < 0.015


def test_a_path_that_becomes_longer_is_not_taken_for_a_queue_for_long() -> None:
    link = Bottleneck(10 * MBIT, 0.020).run(10)
    link.base_rtt_s = 0.080
    link.run(5).forget().run(15)
    assert link.used(15) >= 0.85
    assert link.percentile(0.95) < 0.020


def test_a_link_that_is_faster_than_we_are_is_never_paced() -> None:
    link = Bottleneck(
        10_000 * MBIT, 0.001, packet_bytes=65_536, supply_rate=8_000 * MBIT, unsent_low_bytes=4 << 20
    ).run(3)
    assert set(link.rates) == {None}


def test_a_link_that_is_half_used_is_never_paced() -> None:
    link = Bottleneck(10 * MBIT, 0.020, offered_rate=5 * MBIT).run(10)
    assert set(link.rates) == {None}
    assert link.percentile(1.0) < 0.010
