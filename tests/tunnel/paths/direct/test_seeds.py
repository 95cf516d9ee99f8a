"""Random networks, traffic and faults: what must hold does, whatever the seed."""

from __future__ import annotations

import pytest

from tests.tunnel.paths.direct.play import play_all, report


@pytest.mark.parametrize("first", [0, 5, 10, 15])
def test_some_seeds(first: int) -> None:
    assert len(play_all(first, 5)) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_seeds() -> None:
    outcomes = play_all(1000, 1000)
    print(report(outcomes))
    taken = sorted(each.time_to_direct_s for each in outcomes if each.time_to_direct_s is not None)
    assert taken[len(taken) // 2] <= 0.35
    assert taken[-1] <= 1.0
