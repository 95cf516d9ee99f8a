"""What reaches the log, and whom, when links and sessions come and go."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from nconnect.daemon.counters import CounterKeeper
from nconnect.daemon.events import Reports
from nconnect.daemon.expiry import ExpiryNotices
from nconnect.daemon.host_state import HostState
from nconnect.daemon.log_rate_limit import FIRST_S
from nconnect.model import Config, NetworkConfig
from nconnect.nkn.outputs import DownReason
from nconnect.wire.jsonrpc import NodeInfo

NODE = NodeInfo("203.0.113.7:30002", "203.0.113.7:30003", "ab" * 32, "cd" * 32)
REFUSED = DownReason.UNREACHABLE


class Parts:
    """Everything around it, and what that was told."""

    def __init__(self, *, links: int = 1, keep_trying: bool = False) -> None:
        self.now = 0.0
        self.told: list[object] = []
        self.up: dict[int, int] = {}
        self.is_ready = False
        self.count = links  # of `Links`
        self.spare_was_up = False
        self.spare_helps = False
        self.reports = Reports(
            lambda: Config("nc7", bytes(32), "gpu", (), network=NetworkConfig(links=links)),
            enforcement=cast(HostState, self),
            expiry=cast(ExpiryNotices, self),
            counters=cast(CounterKeeper, self),
            keep_trying=keep_trying,
            clock=lambda: self.now,
        )
        for name in ("links", "driver", "waiting", "reception"):
            setattr(self.reports, name, self)

    @property
    def is_up(self) -> bool:
        return bool(self.up)

    def spare_may_help(self) -> bool:
        return self.spare_helps

    def tags(self) -> dict[int, int]:
        return self.up

    def notify(self) -> None:
        self.told.append("notify")

    def link_failed(self, why: str) -> None:
        self.told.append(("failed", why))

    def on_link_up(self) -> None:
        self.told.append("link up")

    def set_links(self, tags: dict[int, int]) -> None:
        self.told.append(("links", dict(tags)))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.message for record in caplog.records]
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_an_outage_is_said_once_and_then_rarely(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.is_ready = True
    for parts.now in range(int(FIRST_S)):
        parts.reports.on_down("203.0.113.7:30002: connection refused", REFUSED, 0)
    assert lines(caplog) == ["no link to a node: 203.0.113.7:30002: connection refused"]
    parts.now = FIRST_S
    parts.reports.on_down("203.0.113.7:30002: connection refused", REFUSED, 0)
    assert len(lines(caplog)) == 1
    parts.up = {0: 7}
    parts.reports.on_up(NODE)
    assert lines(caplog) == ["logged in at node 203.0.113.7:30002"]
    parts.up = {}
    parts.reports.on_down("203.0.113.7:30002: connection refused", REFUSED, 0)
    assert len(lines(caplog)) == 1, "the next outage is news"


def test_the_node_that_is_found_again_is_said_as_rarely(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.is_ready = True
    for _ in range(20):
        parts.reports.on_found(NODE)
    assert lines(caplog) == ["node found: 203.0.113.7:30002"]
    parts.up = {0: 7}
    parts.reports.on_up(NODE)
    lines(caplog)
    parts.reports.on_found(NODE)
    assert lines(caplog) == ["node found: 203.0.113.7:30002"]


def test_one_link_of_several_is_said_as_rarely(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(links=2)
    parts.is_ready = True
    parts.up = {0: 7}
    for _ in range(20):
        parts.reports.on_down("no answer", REFUSED, 1)
    assert lines(caplog) == ["link 1 is down, others are up: no answer"]
    assert parts.told.count(("links", {0: 7})) == 20


def test_before_it_is_ready_a_failure_is_the_error_that_ends_it_and_no_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts()
    parts.reports.on_down("no answer", REFUSED, 0)
    assert lines(caplog) == []
    assert parts.told == [("failed", "no answer"), "notify"]
    parts = Parts(keep_trying=True)
    parts.reports.on_down("no answer", REFUSED, 0)
    assert lines(caplog) == ["no link to a node: no answer"]


def test_a_node_that_cannot_be_reached_is_no_failure_while_a_spare_link_may_come_up() -> None:
    parts = Parts()
    parts.spare_helps = True
    parts.reports.on_down("silent", DownReason.UNREACHABLE, 0)
    assert parts.told == ["notify"]
    parts.spare_helps = False
    parts.reports.on_down("silent too", DownReason.TIMED_OUT, 1)
    assert parts.told == ["notify", ("failed", "silent"), "notify"]
    parts = Parts()
    parts.spare_helps = True
    parts.reports.on_down("no seed", DownReason.NO_SEED, 0)
    assert parts.told == [("failed", "no seed"), "notify"]


def test_peers_are_told_of_a_spare_link() -> None:
    parts = Parts()
    parts.up = {1: 7}
    parts.spare_was_up = True
    parts.reports.on_up(NODE)
    assert ("links", {1: 7}) in parts.told


def test_the_end_of_the_daemon_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(keep_trying=True)
    parts.is_ready = True
    parts.reports.on_down("stopped", DownReason.STOPPED, 0)
    assert lines(caplog) == []


def test_the_first_link_that_is_up_sets_the_peers_going(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(links=2)
    parts.up = {1: 7}
    parts.reports.on_up(NODE)
    assert parts.told == ["notify", ("links", {1: 7}), "link up"]
    assert lines(caplog) == [], "a start is one line, said when all is up"
    parts.told.clear()
    parts.up = {0: 8, 1: 7}
    parts.reports.on_up(NODE)
    assert "link up" not in parts.told
