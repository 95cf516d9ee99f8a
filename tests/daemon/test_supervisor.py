"""Named tasks that are started again: with backoff, counted, and ended with their group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from nconnect.daemon import supervisor
from nconnect.daemon.supervisor import Supervisor, first_error
from nconnect.errors import HostError, NetworkError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    made: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        made.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def failing(times: int) -> Callable[[], Awaitable[None]]:
    left = [times]

    async def run() -> None:
        if left[0]:
            left[0] -= 1
            raise ZeroDivisionError("a bug")

    return run


def test_a_task_that_fails_is_started_again_and_counted(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> Supervisor:
        async with asyncio.TaskGroup() as group:
            made = Supervisor(group)
            made.start("link", failing(10))
            made.start("other", failing(0))
        return made

    with caplog.at_level(logging.ERROR):
        made = asyncio.run(test())
    assert made.restarts == {"link": 10}
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert "link failed and is started again in 0.1 s" in caplog.text
    assert "a bug" in caplog.text


def test_a_task_that_ran_long_starts_with_the_first_pause_again(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STEADY_AFTER_S", -1.0)

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            Supervisor(group).start("link", failing(4))

    asyncio.run(test())
    assert pauses == [0.1] * 4


def test_a_normal_return_ends_it_for_good(pauses: list[float]) -> None:
    runs = []

    async def run() -> None:
        runs.append(1)

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            Supervisor(group).start("once", run)

    asyncio.run(test())
    assert len(runs) == 1
    assert not pauses


def test_cancel_ends_all_of_them_and_the_group_without_an_error(pauses: list[float]) -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    async def test() -> Supervisor:
        async with asyncio.TaskGroup() as group:
            made = Supervisor(group)
            made.start("one", forever)
            made.start("two", forever)
            await asyncio.sleep(0)
            assert {task.get_name() for task in made.tasks.values()} == {"one", "two"}
            made.cancel()
        return made

    assert asyncio.run(test()).restarts == {}
    assert len(ended) == 2


def test_a_failure_is_a_problem_for_an_hour(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            made = Supervisor(group)
            made.start("link", failing(2))
            made.start("other", failing(0))
            assert made.problems() == []
        (problem,) = made.problems()
        assert problem.startswith("the task link failed 2 times, last 0 s ago")
        assert "ZeroDivisionError: a bug" in problem
        monkeypatch.setattr(supervisor, "RECENT_S", 0.0)
        assert made.problems() == []

    asyncio.run(test())


def test_the_error_that_a_user_sees_out_of_a_group() -> None:
    wanted = NetworkError("no node")
    assert first_error(BaseExceptionGroup("g", [ZeroDivisionError(), wanted])) is wanted
    nested = BaseExceptionGroup("g", [BaseExceptionGroup("h", [HostError("x")])])
    assert str(first_error(nested)) == "x"
    only = ZeroDivisionError("a bug")
    assert first_error(BaseExceptionGroup("g", [only])) is only
