"""Repairs: at once, not too often, and not for ever. The kernel is a pipe that says when to look."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from nconnect.daemon import reconciler
from nconnect.daemon.reconciler import MAX_REPAIRS, Reconciler
from nconnect.errors import HostError
from nconnect.io.system.monitor import Change
from tests.loops import until


class FakeMonitor:
    """Says what it was told to say, once."""

    def __init__(self) -> None:
        self._in, self._out = os.pipe()
        os.set_blocking(self._in, False)
        self.fds = (self._in,)
        self.change = Change.NONE
        self.closed = False

    def tell(self, change: Change) -> None:
        self.change |= change
        os.write(self._out, b"x")

    def read(self) -> Change:
        try:
            os.read(self._in, 1000)
        except BlockingIOError:
            pass
        change, self.change = self.change, Change.NONE
        return change

    def close(self) -> None:
        self.closed = True
        os.close(self._in)
        os.close(self._out)


class World:
    def __init__(self) -> None:
        self.monitor = FakeMonitor()
        self.networks = self.surroundings = 0
        self.gone: list[str] = []
        self.error: HostError | None = None
        self.asked: list[float] = []
        self.reconciler = Reconciler(
            lambda: self.monitor,  # type: ignore[arg-type,return-value]
            on_network=self._on_network,
            on_surroundings=self._on_surroundings,
            repair=self._repair,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    async def _on_network(self) -> None:
        self.networks += 1

    def _on_surroundings(self) -> None:
        self.surroundings += 1

    async def _repair(self) -> list[str]:
        self.asked.append(asyncio.get_running_loop().time())
        if self.error is not None:
            raise self.error
        return self.gone


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_SETTLE_S", 0.002)
    monkeypatch.setattr(reconciler, "PAUSE_S", 0.02)
    monkeypatch.setattr(reconciler, "NETWORK_PAUSE_S", 0.06)


def run(test: Callable[[World], Awaitable[None]]) -> World:
    world = World()

    async def main() -> None:
        task = asyncio.create_task(world.reconciler.run())
        try:
            await until(lambda: world.asked)  # it looks once at the start
            await test(world)
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert world.monitor.closed

    asyncio.run(main())
    return world


def test_each_change_goes_where_it_belongs() -> None:
    async def test(world: World) -> None:
        world.monitor.tell(Change.NETWORK)
        await until(lambda: world.networks == 1)
        assert len(world.asked) == 1
        world.gone = ["route 192.168.50.0/24 through nc0"]
        world.monitor.tell(Change.OURS)
        await until(lambda: len(world.asked) == 2)
        assert world.networks == 1
        assert world.reconciler.problem == ""
        before = world.surroundings
        for number, change in enumerate((Change.FIREWALL, Change.POLICY), before + 1):
            world.monitor.tell(change)
            await until(lambda n=number: world.surroundings == n)
        assert (len(world.asked), world.networks) == (2, 1)
        world.monitor.tell(Change.NETWORK)
        await until(lambda: world.networks == 2)
        assert world.surroundings > before + 2

    run(test)


def test_repairs_keep_a_distance() -> None:
    async def test(world: World) -> None:
        for number in range(2, 5):
            world.monitor.tell(Change.OURS)
            await until(lambda n=number: len(world.asked) == n)

    world = run(test)
    gaps = [b - a for a, b in zip(world.asked[1:], world.asked[2:], strict=False)]
    assert min(gaps) >= 0.02 - 0.002


def test_everything_is_looked_at_now_and_then_without_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_LOOK_S", 0.03)

    async def test(world: World) -> None:
        await until(lambda: len(world.asked) >= 3)
        assert world.networks == 0

    run(test)


def test_everything_is_looked_at_while_others_change_something_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "_LOOK_S", 0.05)

    async def test(world: World) -> None:
        while len(world.asked) < 3:
            told = world.surroundings
            world.monitor.tell(Change.FIREWALL)
            await until(lambda n=told: world.surroundings > n)
            assert world.surroundings < 200, "nobody looks at what is ours"

    run(test)


def test_plans_keep_a_greater_distance_and_none_is_lost() -> None:
    async def test(world: World) -> None:
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 0.2:
            world.monitor.tell(Change.NETWORK)
            await asyncio.sleep(0.005)
        assert 2 <= world.networks <= 4
        planned = world.networks
        world.monitor.tell(Change.NETWORK)
        await until(lambda: world.networks > planned)
        assert len(world.asked) == 1, "nothing of ours went"

    run(test)


def test_a_fight_ends_until_a_person_steps_in(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        world.gone = ["nftables table nconnect_nc0", "route"]
        while not world.reconciler.problem:
            asked = len(world.asked)
            world.monitor.tell(Change.OURS)
            await until(lambda n=asked: len(world.asked) > n)
        assert caplog.text.count("set again") == MAX_REPAIRS
        assert "nftables table nconnect_nc0 and 1 more again and again" in world.reconciler.problem
        world.monitor.tell(Change.OURS | Change.NETWORK)
        await until(lambda: world.networks)
        assert len(world.asked) == MAX_REPAIRS + 1, "left alone"
        world.reconciler.forgive()
        assert world.reconciler.problem == ""
        world.monitor.tell(Change.OURS)
        await until(lambda: len(world.asked) == MAX_REPAIRS + 2)

    run(test)
    assert "somebody removed" in caplog.text


def test_what_cannot_be_set_is_tried_again_and_then_said() -> None:
    async def test(world: World) -> None:
        world.error = HostError("the kernel says no")
        world.monitor.tell(Change.OURS)
        await until(lambda: len(world.asked) >= 3)  # without another word from the kernel
        assert "the kernel says no" in world.reconciler.problem
        world.error = None
        await until(lambda: world.reconciler.problem == "")
        asked = len(world.asked)
        await asyncio.sleep(0.06)
        assert len(world.asked) == asked, "nothing left to try"

    run(test)


def test_trying_in_vain_ends_too() -> None:
    async def test(world: World) -> None:
        world.error = HostError("no")
        world.monitor.tell(Change.OURS)
        await until(lambda: "it is left so" in world.reconciler.problem)
        assert len(world.asked) == MAX_REPAIRS + 1

    run(test)
