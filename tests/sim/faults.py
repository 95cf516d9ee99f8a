"""Everything that is made to go wrong, and the seeded schedule of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.play import Play

DAY_S = 86_400
YEAR_S = 365 * DAY_S


class Fault(Enum):
    LOSS = "loss"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    CORRUPT = "corrupt"
    REPLAY = "replay"
    PARTITION = "partition"
    ONE_WAY = "one-way partition"
    NETWORK_CHANGE = "network change"
    NODE_RESTART = "node restart"
    NODE_LOST = "node lost in silence"
    USER_KILLED = "user killed"
    PROVIDER_KILLED = "provider killed"
    STOPPED = "daemon stopped and started"
    SLEEP = "sleep"
    CLOCK_JUMP = "clock jump"


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault; times in seconds from the run's start."""

    fault: Fault
    begins: float
    ends: float


def begin(fault: Fault, play: Play, rng: random.Random) -> Callable[[], None]:
    """Make it happen; what is returned ends it."""
    internet, relay = play.internet, play.internet.relay
    machine = rng.choice((play.user, play.provider))
    way = machine.way
    match fault:
        case Fault.LOSS:
            relay.loss = rng.choice((0.05, 0.2, 0.5))
        case Fault.DELAY:
            way.delay_s = rng.uniform(0.2, 1.5)
        case Fault.DUPLICATE:
            relay.duplicate = rng.uniform(0.2, 0.8)
        case Fault.REORDER:
            relay.reorder_s = rng.uniform(0.05, 2.0)
            play.disordered(relay.reorder_s)
        case Fault.CORRUPT:
            relay.corrupt = rng.uniform(0.1, 0.5)
        case Fault.REPLAY:
            relay.replay = rng.uniform(0.3, 0.8)
        case Fault.PARTITION | Fault.NETWORK_CHANGE:
            internet.cut(way, to_node=True, from_node=True)
        case Fault.ONE_WAY:
            to_node = rng.random() < 0.5
            internet.cut(way, to_node=to_node, from_node=not to_node)
            # Without acknowledgements TCP soon sends nothing new in the other direction either.
            play.clock.after(1.0, lambda: _close(play, way))
        case Fault.NODE_RESTART:
            internet.stop_node(silently=False)
        case Fault.NODE_LOST:
            internet.stop_node(silently=True)
        case Fault.USER_KILLED:
            play.user.kill()
        case Fault.PROVIDER_KILLED:
            play.provider.kill()
        case Fault.STOPPED:
            machine.stop()
        case Fault.SLEEP:
            machine.sleep()
        case Fault.CLOCK_JUMP:
            jump_s = rng.choice((-10 * YEAR_S, -DAY_S, DAY_S, 10 * YEAR_S))
            machine.wall_offset_ns += jump_s * 1_000_000_000
    play.fired[fault] += 1

    def end() -> None:
        match fault:
            case Fault.LOSS:
                relay.loss = 0.0
            case Fault.DELAY:
                way.delay_s = 0.02
            case Fault.DUPLICATE:
                relay.duplicate = 0.0
            case Fault.REORDER:
                play.disordered(relay.reorder_s)
                relay.reorder_s = 0.0
            case Fault.CORRUPT:
                relay.corrupt = 0.0
            case Fault.REPLAY:
                relay.replay = 0.0
            case Fault.PARTITION | Fault.ONE_WAY:
                internet.mend(way)
            case Fault.NETWORK_CHANGE:  # another network: what was open before is of no use
                for socket in list(way.sockets):
                    socket.stranded = True
                internet.mend(way)
                machine.network_changed()
            case Fault.NODE_RESTART | Fault.NODE_LOST:
                internet.start_node()
            case Fault.USER_KILLED:
                play.user.start()
            case Fault.PROVIDER_KILLED:
                play.provider.start()
            case Fault.STOPPED:
                machine.start()
            case Fault.SLEEP:
                machine.wake()
            case Fault.CLOCK_JUMP:
                pass

    return end


def _close(play: Play, way: object) -> None:
    """The other direction of a one-way cut, unless it was mended meanwhile."""
    for each in play.internet.ways:
        if each is way and not each.is_open:
            each.cut = {True: True, False: True}


def duration_s(fault: Fault, rng: random.Random) -> float:
    if fault is Fault.CLOCK_JUMP:
        return 0.0
    if fault is Fault.SLEEP:
        return rng.choice((8.0, 40.0, 300.0))
    if fault in (Fault.USER_KILLED, Fault.PROVIDER_KILLED, Fault.STOPPED):
        return rng.uniform(0.1, 10.0)
    return rng.choice((rng.uniform(0.5, 12.0), rng.uniform(12.0, 60.0)))


def schedule(rng: random.Random, rounds: int) -> list[list[Planned]]:
    """For each round one fault, and at times a second one beside it. Times count from the round's start."""
    planned = []
    for _ in range(rounds):
        kinds = rng.sample(list(Fault), 2 if rng.random() < 0.4 else 1)
        row = []
        for kind in kinds:
            begins = rng.uniform(5.0, 20.0)
            row.append(Planned(kind, begins, begins + duration_s(kind, rng)))
        planned.append(row)
    return planned
