"""Sleep and standstill, with clocks that are only numbers."""

from __future__ import annotations

import asyncio

import pytest

from nconnect.daemon import resume
from nconnect.daemon.resume import Moment, missed_s


@pytest.mark.parametrize(
    ("boot_s", "monotonic_s", "missed"),
    [
        (2.0, 2.0, 0.0),
        (6.9, 6.9, 0.0),  # a busy machine
        (7.1, 7.1, 5.1),  # stopped
        (200.0, 200.0, 198.0),
        (2.5, 2.0, 0.0),  # clocks that are read one after the other
        (10.0, 2.0, 8.0),  # slept
        (30_000.0, 2.0, 29_998.0),
    ],
)
def test_time_that_passed_without_us(boot_s: float, monotonic_s: float, missed: float) -> None:
    before, after = Moment(1000.0, 500.0), Moment(1000.0 + boot_s, 500.0 + monotonic_s)
    assert missed_s(before, after, 2.0) == pytest.approx(missed)


def test_it_is_told_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "LOOK_EVERY_S", 0.001)
    moments = iter([Moment(0, 0), Moment(0, 0), Moment(0, 0), Moment(60, 0), Moment(60, 0), Moment(90, 30)])
    told: list[float] = []

    async def main() -> None:
        with pytest.raises(RuntimeError):  # the clocks have run out
            await resume.watch(told.append, lambda: next(moments))

    asyncio.run(main())
    assert told == [60, pytest.approx(30, abs=0.01)]


def test_the_clocks_are_the_kernels() -> None:
    first, second = resume.moment(), resume.moment()
    assert 0 <= second.boot - first.boot < 5
    assert 0 <= second.monotonic - first.monotonic < 5
