from __future__ import annotations

import os
from dataclasses import replace

import pytest

from nconnect.cli import watch
from tests.control.fake import STATUS


def test_rates_between() -> None:
    laptop, phone = STATUS.peers
    later = replace(
        STATUS, peers=(replace(laptop, rx_bytes=laptop.rx_bytes + 100), replace(phone, name="new"))
    )
    assert watch.rates_between(STATUS, later, 2.0) == {"laptop": (50.0, 0.0)}
    assert watch.rates_between(STATUS, later, 0.0) == {}


def test_counters_that_began_anew_have_no_rate() -> None:
    laptop, phone = STATUS.peers
    assert "laptop" not in watch.rates_between(
        STATUS, replace(STATUS, peers=(replace(laptop, rx_bytes=0), phone)), 1
    )


@pytest.mark.parametrize(("typed", "ends"), [(b"q", True), (b"xQ", True), (b"x", False), (b"", False)])
def test_q_ends_it(typed: bytes, ends: bool) -> None:
    reader, writer = os.pipe()
    os.write(writer, typed)
    os.close(writer)
    try:
        assert watch._Keys(reader)(0.05) is ends
    finally:
        os.close(reader)


def test_without_keys_it_waits() -> None:
    assert watch._Keys(None)(0.01) is False
