"""A wall clock that is wrong by a day or by ten years, and jumps there and back, interrupts no flow.

user ── node ── provider ── server (echoes)

libfaketime gives one daemon a wall clock of its own. Keys are renewed every two seconds, so that handshakes
happen under each of its times.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lab.flows import Flow, Tcp, Udp
from lab.process import Process, until
from lab.sides import Side
from lab.traffic import SERVICE, pings, serve
from lab.world import PROVIDER_PEER, SERVER, World

LIBRARY = "/usr/$LIB/faketime/libfaketimeMT.so.1"  # the loader fills in $LIB
REKEY = {"NCONNECT_REKEY_AFTER_S": "2"}
DAY_S = 86_400
JUMPS = {"+1d": DAY_S, "-1d": -DAY_S, "+3650d": 3650 * DAY_S, "-3650d": -3650 * DAY_S, "+0": 0}
PAUSE_S = 2.0  # no answer for so long is an interruption


class Clock:
    """The wall clock of one daemon. Its monotonic clocks are not changed."""

    def __init__(self, side: Side) -> None:
        self._file = side.folder / "clock"
        self._file.touch(0o644)
        self.set("+0")
        self._starts = 0
        self.env = {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }

    def start(self, side: Side) -> None:
        """Start a daemon with this clock."""
        command = [sys.executable, "-m", "netns_tests.own_clock", "up", "-c", str(side.config)]
        self._starts += 1
        log = side.folder / f"{side.name}-own-clock-{self._starts}.log"
        side.daemon = Process(side.namespace, command, log, env={**side.env, **REKEY, **self.env})

    def set(self, offset: str) -> None:
        """Set the clock. The file is replaced in one step, because the daemon may read it at any time."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset}\n")
        fresh.chmod(0o644)
        fresh.replace(self._file)


@pytest.mark.slow  # about 40 s each: two handshakes after each jump
@pytest.mark.parametrize("whose", ["user", "provider"])
def test_a_clock_that_jumps_interrupts_nothing(fresh: World, whose: str) -> None:
    world = fresh
    serve(world.server, world, SERVICE)
    world.configure()
    world.node.start()
    wrong, right = _sides(world, whose)
    clock = Clock(wrong)
    for side in (world.provider_side, world.user_side):
        clock.start(side) if side is wrong else side.start(env=REKEY)
        side.wait()
    world.user_side.wait(PROVIDER_PEER)
    with Tcp(world.user, SERVER) as tcp, Udp(world.user, SERVER) as udp:
        for offset, ahead_s in JUMPS.items():
            clock.set(offset)
            # Two handshakes: the first may have begun before the jump, the second has the new time.
            for _ in range(2):
                _until_rekeyed(world)
            said = [text for text in right.status()["problems"] if "the clocks here and at" in text]
            assert bool(said) is bool(ahead_s), "whose clock is wrong is said, and no other's"
            for flow in (tcp, udp):
                _never_paused(flow)
        clock.set("+3650d")
        _until_rekeyed(world)
        _until_rekeyed(world)
        kept = _counter_of_user(world)
        assert kept > 0

    # The provider keeps the counter: with the clock set right, a restarted user's handshake is not too old.
    wrong.down()
    clock.set("+0")
    clock.start(wrong)
    wrong.wait()
    world.user_side.wait(PROVIDER_PEER, timeout_s=20)
    until(lambda: pings(world.user, SERVER), "a ping's answer")
    until(lambda: _counter_of_user(world) > kept, "a counter above the last one")
    for side in (world.user_side, world.provider_side):
        assert not side.drops("handshake_replayed")


def _sides(world: World, whose: str) -> tuple[Side, Side]:
    """The side whose clock is wrong, and the other one."""
    sides = (world.user_side, world.provider_side)
    return sides if whose == "user" else sides[::-1]


def _until_rekeyed(world: World) -> None:
    """Wait for a new counter in the file of the provider: the keys themselves cannot be seen."""
    before = _counter_of_user(world)
    until(lambda: _counter_of_user(world) > before, "a handshake", timeout_s=15)


def _counter_of_user(world: World) -> int:
    """The counter of the newest initiation that the provider accepted from the user, as it is on the disk."""
    file = Path(world.provider_side.env["NCONNECT_STATE_DIR"], "nc0", "handshakes.json")
    counters: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    return counters.get(world.user_side.address(), 0)


def _never_paused(flow: Flow) -> None:
    assert not flow.failure, flow.failure
    gaps = [after - before for before, after in zip(flow.answers, flow.answers[1:], strict=False)]
    assert max(gaps) < PAUSE_S, f"the {flow.name} flow paused for {max(gaps):.1f} s"
