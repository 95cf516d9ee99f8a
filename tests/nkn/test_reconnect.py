"""Which node a link tries after a loss."""

from __future__ import annotations

from nconnect.nkn.reconnect import ReconnectPolicy
from nconnect.wire.jsonrpc import NodeInfo

NODE = NodeInfo("203.0.113.1:30002", "203.0.113.1:30003", "01" * 32, "")


def test_without_a_node_every_attempt_is_a_whole_one_and_for_the_seeds() -> None:
    way = ReconnectPolicy()
    for _ in range(3):
        way.found_nothing()
        assert way.choose() is None
        assert way.share == 1.0


def test_a_node_that_closed_is_first_and_then_they_take_turns() -> None:
    way = ReconnectPolicy()
    way.lost(NODE)
    assert (way.choose(), way.share) == (NODE, 1.0)
    assert way.choose() is NODE, "the seeds named one that was not there"
    way.found_nothing()
    assert [way.choose() for _ in range(4)] == [NODE, None, NODE, None]
    assert way.share == 0.5
    way.lost(NODE)
    assert (way.choose(), way.share) == (NODE, 1.0)


def test_a_node_that_is_given_up_has_no_turn() -> None:
    way = ReconnectPolicy()
    way.lost(NODE)
    way.found_nothing()
    way.lost(None)
    assert [way.choose() for _ in range(2)] == [None, None]
    assert way.share == 1.0
