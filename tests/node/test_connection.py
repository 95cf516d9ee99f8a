"""The states of a connection: the whole table, and every entry that is not in it."""

from __future__ import annotations

import itertools

import pytest

from nconnect.node.connection import TRANSITIONS, Connection, Event, State
from nconnect.node.egress import Pool
from nconnect.node.sources import Sources
from nconnect.queueing.turns import Turns
from tests.node.fakes import INFO, FakeTransport


def make(state: State) -> Connection:
    source = Sources(Turns(), Pool(1000)).of("192.0.2.1")
    connection = Connection(1, FakeTransport(), INFO, bytes(32), source, 0.0)
    connection.state = state
    return connection


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_entry_of_the_table(state: State, event: Event) -> None:
    connection = make(state)
    assert connection.move(event) is ((state, event) in TRANSITIONS)
    assert connection.state is TRANSITIONS.get((state, event), state)


def test_the_way_of_a_client() -> None:
    connection = make(State.CHALLENGED)
    assert connection.move(Event.LOGGED_IN)
    assert connection.state is State.CLIENT
    assert not connection.move(Event.LOGGED_IN)
    assert connection.move(Event.CLOSED)
    assert not connection.move(Event.CLOSED)
    assert not connection.move(Event.LOGGED_IN)


def test_a_closed_connection_stays_closed() -> None:
    assert not any(state is State.CLOSED for state, _ in TRANSITIONS)
