"""What a report about datagrams says: any datagram may be named, also one without packets."""

from __future__ import annotations

from math import inf

import pytest

from nconnect.tunnel.paths.direct.sending import DatagramSending
from nconnect.wire.tunnel import FEEDBACK_BODY

INDEX = 7


def report(counter: int, arrived: int) -> bytes:
    return FEEDBACK_BODY.pack(INDEX, 0, counter, arrived, 0)


@pytest.mark.parametrize(
    ("counter", "rtt_s", "reported"),
    [
        (0, 0.5, 100),  # the run's only datagram
        (1, inf, 100),  # one without packets, after it
        (3, 0.2, 100),  # within the next run
        (5, 0.2, 4100),  # that run's last
        (6, inf, 4100),  # one without packets, at the end
    ],
)
def test_a_round_trip_is_that_of_the_datagram_that_was_named(
    counter: int, rtt_s: float, reported: int
) -> None:
    sending = DatagramSending(0.0)
    sending.run_sent(INDEX, 0, 0, 100, 1.0)
    sending.run_sent(INDEX, 2, 5, 4000, 1.3)
    assert sending.on_report(report(counter, 100), 1.5, busy=False) == pytest.approx(rtt_s)
    assert sending.reported_bytes == reported


def test_a_report_about_nothing_that_was_sent_tells_nothing() -> None:
    sending = DatagramSending(0.0)
    sending.run_sent(INDEX, 2, 5, 4000, 1.3)
    assert sending.on_report(report(1, 0), 1.5, busy=False) is None
    assert sending.on_report(report(5, 0), 1.5, busy=False) == pytest.approx(0.2)
    assert sending.on_report(report(5, 0), 1.6, busy=False) is None, "told already"
