from __future__ import annotations

import asyncio
import dataclasses
import logging
from ipaddress import ip_network
from pathlib import Path

import pytest

from nconnect.daemon.expiry import LOOK_AGAIN_S, ExpiryNotices, warning_from
from nconnect.io.files.state import StateStore
from nconnect.model import NknAddress, PeerConfig
from tests.clocks import HandClock

DAY = 86_400.0
NOW = 1_800_000_000.0
LAPTOP = PeerConfig("laptop", NknAddress("laptop", bytes(32)), (ip_network("10.86.0.2/32"),))


def expiring(at: float | None) -> PeerConfig:
    return dataclasses.replace(LAPTOP, expires_at=at)


def test_when_a_warning_begins() -> None:
    assert warning_from(NOW + 100, NOW) == NOW + 90
    assert warning_from(NOW + 30 * DAY, NOW) == NOW + 27 * DAY
    assert warning_from(NOW + 365 * DAY, NOW) == NOW + 358 * DAY, "at most seven days before"
    assert warning_from(NOW, NOW + 5) == NOW, "set after its end: nothing is left to warn of"


def test_it_is_logged_once_and_shown_until_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock(NOW)
    notices = ExpiryNotices(StateStore(tmp_path), (), clock)
    notices.set_peers([expiring(NOW + 1000), dataclasses.replace(LAPTOP, name="forever")])
    with caplog.at_level(logging.WARNING):
        assert notices.log_new() == 900
        assert notices.warnings() == []
        clock.now += 900
        assert notices.log_new() == LOOK_AGAIN_S
        notices.log_new()
    (warning,) = notices.warnings()
    assert warning.startswith("the access of laptop ends at 2027-01-15 08:16 UTC")
    assert "`nconnect peer set laptop --access 30d`" in warning
    assert [record.message for record in caplog.records] == [warning]
    clock.now += 100
    assert notices.warnings() == [], "what has ended is said by its state"


def test_when_it_was_set_outlives_a_restart(tmp_path: Path) -> None:
    clock = HandClock(NOW)
    first = ExpiryNotices(StateStore(tmp_path), [expiring(NOW + 10 * DAY)], clock)
    asyncio.run(first.save())
    clock.now += 9 * DAY
    again = ExpiryNotices(StateStore(tmp_path), [expiring(NOW + 10 * DAY)], clock)
    assert len(again.warnings()) == 1
    again.set_peers([expiring(NOW + 40 * DAY)])  # prolonged: a tenth of the new time
    assert again.warnings() == []
    again.set_peers([expiring(None)])
    assert again.warnings() == []
    asyncio.run(again.save())
    assert StateStore(tmp_path).load("expiries") == {}


@pytest.mark.parametrize("stored", [7, [], {"x": 1}, {"x": [1]}, {"x": ["a", "b"]}, {"x": [True, 1]}])
def test_a_state_file_that_makes_no_sense_is_none(tmp_path: Path, stored: object) -> None:
    store = StateStore(tmp_path)
    store.save("expiries", stored)
    notices = ExpiryNotices(store, [expiring(NOW + 10)], HandClock(NOW))
    assert notices.warnings() == []
