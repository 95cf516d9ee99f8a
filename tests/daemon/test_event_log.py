"""What reaches the log, and how often, when links and sessions come and go."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import cast

import pytest

from nconnect.config.values import parse_allow_rule
from nconnect.daemon.event_log import FIRST_S, EventLog
from nconnect.daemon.events import PeerStated, PlanInForce, Ready
from nconnect.daemon.settings import InForce
from nconnect.host.facts import LocalInterface
from nconnect.host.plan import plan
from nconnect.invite.table import PeerTable
from nconnect.io.nkn.links import LinkCameUp, Links, LinkWentDown, NodeFound
from nconnect.model import Config, NknAddress
from nconnect.nkn.outputs import DownReason
from nconnect.offers.statement import Statement
from nconnect.tunnel.outputs import DirectChanged, ExpiryChanged, SessionLost, SessionUp
from nconnect.tunnel.peer import Peer
from nconnect.wire.jsonrpc import NodeInfo
from tests.host.examples import FACTS, USER

PLAN = plan(USER, FACTS)
NODE = NodeInfo("203.0.113.7:30002", "203.0.113.7:30003", "ab" * 32, "cd" * 32)
REFUSED = DownReason.UNREACHABLE


class Parts:
    """The links, as the log asks for them."""

    def __init__(self, *, keep_trying: bool = False) -> None:
        self.now = 0.0
        self.up: dict[int, int] = {}
        self.node: NodeInfo | None = NODE
        self.said = EventLog(
            InForce(PeerTable(Config("nc7", bytes(32), "gpu", ()), {})),
            NknAddress("gpu", bytes(32)),
            cast(Links, self),
            keep_trying=keep_trying,
            clock=lambda: self.now,
        )

    @property
    def is_up(self) -> bool:
        return bool(self.up)

    @property
    def link(self) -> Parts:
        return self

    def tags(self) -> dict[int, int]:
        return self.up

    def down(self, why: str, reason: DownReason = REFUSED, link: int = 0) -> None:
        self.said.link_went_down(LinkWentDown(why, reason, link))

    def came_up(self) -> None:
        self.said.link_came_up(LinkCameUp(NODE))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.message for record in caplog.records]
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_an_outage_is_said_once_and_then_rarely(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.said.ready(Ready())
    lines(caplog)
    for parts.now in range(int(FIRST_S)):
        parts.down("203.0.113.7:30002: connection refused")
    assert lines(caplog) == ["no link to a node: 203.0.113.7:30002: connection refused"]
    parts.now = FIRST_S
    parts.down("203.0.113.7:30002: connection refused")
    assert len(lines(caplog)) == 1
    parts.up = {0: 7}
    parts.came_up()
    assert lines(caplog) == ["logged in at node 203.0.113.7:30002"]
    parts.up = {}
    parts.down("203.0.113.7:30002: connection refused")
    assert len(lines(caplog)) == 1, "the next outage is news"


def test_the_node_that_is_found_again_is_said_as_rarely(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.said.ready(Ready())
    lines(caplog)
    for _ in range(20):
        parts.said.node_found(NodeFound(NODE))
    assert lines(caplog) == ["node found: 203.0.113.7:30002"]
    parts.up = {0: 7}
    parts.came_up()
    lines(caplog)
    parts.said.node_found(NodeFound(NODE))
    assert lines(caplog) == ["node found: 203.0.113.7:30002"]


def test_one_link_of_several_is_said_as_rarely(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.said.ready(Ready())
    lines(caplog)
    parts.up = {0: 7}
    for _ in range(20):
        parts.down("no answer", link=1)
    assert lines(caplog) == ["link 1 is down, others are up: no answer"]


def test_before_it_is_ready_a_failure_is_the_error_that_ends_it_and_no_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts()
    parts.down("no answer")
    assert lines(caplog) == []
    parts = Parts(keep_trying=True)
    parts.down("no answer")
    assert lines(caplog) == ["no link to a node: no answer"]


def test_the_end_of_the_daemon_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(keep_trying=True)
    parts.said.ready(Ready())
    lines(caplog)
    parts.down("stopped", DownReason.STOPPED)
    assert lines(caplog) == []


def test_a_start_is_one_line_said_when_all_is_up(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    parts.up = {0: 7}
    parts.said.node_found(NodeFound(NODE))
    parts.came_up()
    parts.said.plan_in_force(PlanInForce(PLAN))
    assert lines(caplog) == []
    parts.said.ready(Ready())
    (record,) = caplog.records
    assert record.message == f"nc7 is up as gpu.{bytes(32).hex()}, logged in at node {NODE.addr}"
    assert vars(record)["event"] == "up"
    parts.up = {}
    lines(caplog)
    parts.said.ready(Ready())
    assert lines(caplog) == [f"nc7 is up as gpu.{bytes(32).hex()}"]


def test_in_a_terminal_each_step_is_said_and_the_routes_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    parts = Parts()
    for _ in range(2):
        parts.said.plan_in_force(PlanInForce(PLAN))
    (record,) = caplog.records
    assert record.message == f"routes set: {', '.join(map(str, PLAN.state.routes))}"
    assert (record.levelname, vars(record)["event"]) == ("DEBUG", "routes_set")


def test_a_session_names_what_can_be_reached_but_for_skipped_routes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts()
    home = LocalInterface("lan0", (ip_interface("192.168.50.77/24"),))
    skipping = plan(USER, replace(FACTS, interfaces=(*FACTS.interfaces, home)))
    assert skipping.skipped_routes
    peer = cast(Peer, SimpleNamespace(name="gpu", config=USER.peers[0], expired=False))
    parts.said.session_up(SessionUp(peer))
    parts.said.plan_in_force(PlanInForce(skipping))
    again = cast(Peer, SimpleNamespace(**vars(peer)))  # it was removed and added
    for _ in range(3):
        parts.said.session_up(SessionUp(again))
    before, after = caplog.records  # new keys of a session are no news
    assert before.message == "gpu: session up"
    skipped = {str(each.route) for each in skipping.skipped_routes}
    assert set(vars(before)["allowed_ips"]) - set(vars(after)["allowed_ips"]) == skipped
    lines(caplog)
    parts.said.session_lost(SessionLost(peer, "gpu does not answer"))
    parts.said.session_up(SessionUp(again))
    assert lines(caplog) == ["gpu does not answer", "gpu: session up"]
    expired = cast(Peer, SimpleNamespace(name="gpu", expired=True))
    parts.said.expiry_changed(ExpiryChanged(expired))
    parts.said.session_lost(SessionLost(expired, "its access has ended"))
    assert lines(caplog) == ["gpu has expired"], "once"


def test_a_direct_path_is_said_once_when_it_is_used_and_when_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    parts = Parts()
    path = SimpleNamespace(carries_direct=False, why="searching", remote="198.51.100.7:41000")
    event = DirectChanged(cast(Peer, SimpleNamespace(name="gpu", direct=path)))
    parts.said.direct_changed(event)  # a search
    assert lines(caplog) == []
    path.carries_direct, path.why = True, ""
    parts.said.direct_changed(event)
    path.why = "the direct path went silent"  # suspect: both carry
    parts.said.direct_changed(event)
    assert lines(caplog) == ["gpu: packets go directly"]
    path.carries_direct = False
    parts.said.direct_changed(event)
    assert lines(caplog) == ["gpu: packets go by a node again: the direct path went silent"]


def test_a_path_that_comes_and_goes_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parts = Parts()
    path = SimpleNamespace(carries_direct=False, why="idle")
    event = DirectChanged(cast(Peer, SimpleNamespace(name="gpu", direct=path)))
    for _ in range(1000):
        parts.now += 10.0
        path.carries_direct = not path.carries_direct
        parts.said.direct_changed(event)
    assert 2 < len(lines(caplog)) < 30


def test_a_peer_without_a_direct_path_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Parts().said.direct_changed(DirectChanged(cast(Peer, SimpleNamespace(name="gpu", direct=None))))
    assert lines(caplog) == []


def test_what_may_be_reached_is_said_where_it_is_not_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parts, box = Parts(), cast(Peer, SimpleNamespace(name="box"))
    rules = tuple(parse_allow_rule(f"10.0.0.{n}:80/tcp") for n in range(10))
    for allow in (None, rules[:1], rules[:1], (), rules):
        parts.said.stated(PeerStated(box, Statement(allow=allow)))
    first, nothing, many = lines(caplog)
    assert first == "box lets this device reach 10.0.0.0:80/tcp"
    assert nothing == "box lets this device reach nothing"
    assert many.endswith("10.0.0.7:80/tcp and 2 more")
    for number in range(100):  # a peer that changes its mind every second
        parts.now += 1.0
        parts.said.stated(PeerStated(box, Statement(allow=rules[number % 10 : number % 10 + 1])))
    assert len(lines(caplog)) < 20
