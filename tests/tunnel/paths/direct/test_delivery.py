"""What the reports of the peer say about a path."""

from __future__ import annotations

import random

import pytest

from nconnect.tunnel.paths.direct.delivery import MAX_RUNS, Delivery


def test_silence_is_counted_from_the_oldest_unreported_data() -> None:
    delivery = Delivery(0.0)
    assert delivery.unreported_since is None
    delivery.sent(100, 1.0)
    delivery.sent(100, 1.1)
    assert delivery.unreported_since == 1.0
    delivery.reported(100, 100, 1.2)
    assert delivery.unreported_since == 1.1
    delivery.reported(200, 200, 1.3)
    assert delivery.unreported_since is None


def test_without_reports_memory_is_bounded_and_the_silence_is_remembered() -> None:
    delivery = Delivery(0.0)
    for number in range(10_000):
        delivery.sent(100, 1.0 + number / 10)
    assert len(delivery._log) == MAX_RUNS
    assert delivery.unreported_since == 1.0
    delivery.reported(1_000_000, 1_000_000, 1001.0)
    assert delivery.unreported_since is None


def test_a_report_of_what_was_never_sent_means_nothing() -> None:
    delivery = Delivery(0.0)
    delivery.sent(100, 1.0)
    delivery.reported(10**9, 10**9, 1.1)
    assert delivery.unreported_since is None
    delivery.sent(100, 2.0)
    delivery.reported(200, 200, 2.1)
    assert delivery.unreported_since is None
    delivery.sent(100, 3.0)
    assert delivery.unreported_since == 3.0


def test_lost_data_is_no_silence_and_four_times_in_a_row_it_is_dropping() -> None:
    delivery = Delivery(0.0)
    for number in range(1, 5):
        assert not delivery.is_dropping
        delivery.sent(100, number)
        delivery.reported(number * 100, 0, number + 0.1)
        assert delivery.unreported_since is None
    assert delivery.is_dropping
    delivery.sent(100, 5.0)
    delivery.reported(500, 100, 5.1)
    assert not delivery.is_dropping


@pytest.mark.parametrize("loss", [0.0, 0.03, 0.05, 0.15, 0.5])
@pytest.mark.parametrize("per_s", [1000, 60])
def test_loss_is_told_from_noise(loss: float, per_s: int) -> None:
    """Ten seconds each, with as many datagrams a second as a call and a small transfer have."""
    verdicts = set()
    for seed in range(20):
        rng, delivery, arrived, found = random.Random(seed), Delivery(0.0), 0, False
        for number in range(per_s * 10):
            now = number / per_s
            delivery.sent(1200, now)
            arrived += 0 if rng.random() < loss else 1200
            if number % max(per_s // 60, 1) == 0:
                delivery.reported(delivery.total_bytes, arrived, now)
                found = found or delivery.is_lossy
        verdicts.add(found)
    if loss <= 0.05:
        assert verdicts == {False}
    elif loss == 0.5 or per_s == 1000:  # among 30 datagrams a slot 15 % cannot be told from 5 %
        assert verdicts == {True}


def test_after_a_mend_it_is_judged_anew() -> None:
    delivery = Delivery(0.0)
    for number in range(1, 300):
        delivery.sent(1200, number / 100)
        delivery.reported(delivery.total_bytes, delivery.total_bytes // 2, number / 100)
    assert delivery.is_lossy
    delivery.forgive()
    assert not delivery.is_lossy
    delivery.restart(3.0)
    for number in range(300, 600):
        delivery.sent(1200, number / 100)
        delivery.reported(delivery.total_bytes, delivery.total_bytes - 179_400, number / 100)
    assert not delivery.is_lossy
