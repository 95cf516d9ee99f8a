"""Random networks, traffic and faults: what must hold does, whatever the seed."""

from __future__ import annotations

import pytest

from tests.tunnel.paths.direct.play import play_all, report


@pytest.mark.parametrize("first", [0, 5, 10, 15])
def test_some_seeds(first: int) -> None:
    assert len(play_all(first, 5)) == 5


def test_a_router_s_wrong_entry_is_not_kept_alive_for_ever() -> None:
    """With this seed it was, while a lost path was asked without a pause."""
    assert len(play_all(1002, 1)) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_seeds() -> None:
    outcomes = play_all(1000, 1000)
    print(report(outcomes))
    taken = sorted(each.time_to_direct_s for each in outcomes if each.time_to_direct_s is not None)
    assert taken[len(taken) // 2] <= 0.35
    assert taken[-1] <= 1.0
