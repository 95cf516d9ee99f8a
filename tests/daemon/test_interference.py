"""Looking at other programs' firewalls: when they change, and not too often."""

from __future__ import annotations

import asyncio

import pytest

from nconnect.daemon import interference
from nconnect.daemon.interference import Interference


def test_it_looks_at_the_start_and_after_changes_and_says_each_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(interference, "_SETTLE_S", 0.001)
    monkeypatch.setattr(interference, "_PAUSE_S", 0.001)
    answers = [["docker drops"], ["docker drops", "ufw drops"], []]
    looks: list[float] = []

    async def look() -> list[str]:
        looks.append(0)
        return answers[len(looks) - 1]

    async def main() -> None:
        made = Interference(look, lambda: 0.0)
        task = asyncio.create_task(made.run())
        for count in (1, 2, 3):
            async with asyncio.timeout(5):
                while made.problems != answers[count - 1] or len(looks) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert len(looks) == count, "nothing changed"
            made.changed()
            made.changed()
            if count == 3:
                break
        task.cancel()

    asyncio.run(main())
    assert [record.message for record in caplog.records] == ["docker drops", "ufw drops"]


def test_it_does_not_look_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interference, "_SETTLE_S", 0.001)
    looks: list[float] = []

    async def look() -> list[str]:
        looks.append(0)
        return []

    async def main() -> None:
        made = Interference(look, lambda: 0.0)
        task = asyncio.create_task(made.run())
        for _ in range(50):
            made.changed()
            await asyncio.sleep(0.002)
        task.cancel()

    asyncio.run(main())
    assert len(looks) == 1, "the next one is due in two seconds"


def test_it_looks_without_a_change_too_and_rests_longer_after_a_long_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interference, "_SETTLE_S", 0.001)
    monkeypatch.setattr(interference, "_LOOK_S", 0.01)
    rests: list[float] = []
    sleep = asyncio.sleep
    now = 0.0

    async def rest(seconds: float) -> None:
        if seconds != 0.001:
            rests.append(seconds)
        await sleep(0.001)

    monkeypatch.setattr(asyncio, "sleep", rest)

    async def look() -> list[str]:
        nonlocal now
        now += len(rests) * 0.5  # longer each time
        return []

    async def main() -> None:
        task = asyncio.create_task(Interference(look, lambda: now).run())
        async with asyncio.timeout(5):
            while len(rests) < 3:
                await sleep(0.001)
        task.cancel()

    asyncio.run(main())
    assert rests[:3] == [2.0, 15.0, 30.0]
