"""The bus: who is told of what, in which order, and what an error does."""

from __future__ import annotations

import pytest

from nconnect.daemon.events import Bus, NetworkChanged, Resumed


def test_each_kind_goes_to_who_asked_for_it_in_the_order_of_asking() -> None:
    bus = Bus()
    told: list[object] = []
    bus.subscribe(Resumed, lambda event: told.append(("first", event.away_s)))
    bus.subscribe(NetworkChanged, lambda _: told.append("network"))
    bus.subscribe(Resumed, lambda _: told.append("second"), lambda _: told.append("third"))
    bus.publish(Resumed(7.0))
    assert told == [("first", 7.0), "second", "third"]
    bus.publish(NetworkChanged())
    assert told[3:] == ["network"]


def test_what_nobody_asked_for_goes_nowhere() -> None:
    Bus().publish(Resumed(7.0))


def test_an_error_reaches_the_publisher_and_ends_the_round() -> None:
    """A public key that the tunnel refuses must not reach what comes behind it."""

    def refuse(_: object) -> None:
        raise ValueError("no key")

    bus, told = Bus(), []
    bus.subscribe(Resumed, refuse, lambda _: told.append("behind"))
    with pytest.raises(ValueError, match="no key"):
        bus.publish(Resumed(7.0))
    assert told == []
