"""When a client whose links are stuck needs another identity."""

from __future__ import annotations

import pytest

from nconnect.nkn.spares import STAY_S, STUCK_AFTER_S, USELESS_S, Spares


def test_while_the_links_come_up_no_spare_is_wanted() -> None:
    spares = Spares(2, 2)
    assert spares.wanted(0.0) == set()
    assert not spares.is_watching()
    spares.named(0, "a", 0.0)
    spares.named(1, "b", 0.0)
    assert spares.is_watching()
    assert spares.wanted(STUCK_AFTER_S - 0.1) == set()
    spares.up(0, 1.0)
    spares.failed(1)
    assert spares.wanted(60.0) == set(), "the other link is up"


def test_a_silent_node_is_given_up_for_a_spare_and_that_ones_for_the_next() -> None:
    spares = Spares(1, 2)
    spares.named(0, "a", 10.0)
    assert spares.wanted(10.0 + STUCK_AFTER_S) == {1}
    spares.named(1, "b", 12.0)
    assert spares.wanted(12.0) == {1}
    assert spares.wanted(12.0 + STUCK_AFTER_S) == {1, 2}
    assert spares.may_help(12.0 + STUCK_AFTER_S)
    spares.named(2, "c", 14.0)
    assert not spares.may_help(14.0 + STUCK_AFTER_S)
    spares.up(2, 14.1)
    assert spares.wanted(100.0) == {2}, "one is enough"
    assert spares.may_help(100.0)


def test_a_node_that_refuses_is_given_up_at_once() -> None:
    spares = Spares(1, 2)
    spares.named(0, "a", 0.0)
    spares.failed(0)
    assert spares.wanted(0.0) == {1}
    spares.named(0, "a", 0.5)  # its next attempt does not change that
    assert spares.wanted(0.5) == {1}


def test_without_a_seed_that_names_a_node_a_spare_is_no_help() -> None:
    spares = Spares(1, 2)
    spares.failed(0)
    assert spares.wanted(100.0) == set()
    spares.named(0, "a", 100.0)
    spares.went(0)
    assert spares.wanted(200.0) == set()
    assert not spares.is_watching()


def test_a_spare_that_is_named_a_stuck_links_node_is_left_alone_for_a_while() -> None:
    spares = Spares(1, 2)
    spares.named(0, "a", 0.0)
    spares.failed(0)
    spares.named(1, "a", 0.1)
    assert spares.wanted(0.1) == {2}
    spares.named(2, "a", 0.2)
    assert spares.wanted(0.2) == set()
    assert not spares.may_help(0.2)
    assert spares.wanted(0.1 + USELESS_S) == {1}


def test_a_spare_leaves_a_while_after_a_link_of_the_clients_own_came_up() -> None:
    spares = Spares(1, 2)
    spares.named(0, "a", 0.0)
    spares.failed(0)
    spares.up(1, 1.0)
    spares.up(0, 30.0)
    assert spares.wanted(30.0) == spares.wanted(30.0 + STAY_S - 0.1) == {1}
    assert spares.is_watching()
    assert spares.wanted(30.0 + STAY_S) == set()
    spares.went(1)
    assert not spares.is_watching()


@pytest.mark.parametrize("link", [0, 1])
def test_a_lost_link_begins_anew(link: int) -> None:
    spares = Spares(1, 1)
    spares.up(link, 0.0)
    spares.failed(link)
    assert not spares.is_watching()
    assert spares.wanted(100.0) == set()
