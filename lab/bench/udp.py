"""UDP from user to provider: how much of a flood arrives, and the highest rate without much loss."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from lab.bench.bed import FLOOD_PORT, Bed
from lab.netns import LabError
from lab.process import Process, until

SKIP_S = 0.3
TOO_MUCH_LOSS = 0.01
KEEPS_UP = 0.95  # of what is sent must arrive in the same time; otherwise a queue grows and drops later


def flood(bed: Bed, host: str, size: int, seconds: float, rate: float = 0) -> tuple[float, float]:
    """Send for `seconds` and a little; (packets a second that arrived, share that was lost).

    With a `rate`, what falls behind it for more than the window's edges explain counts as lost too.
    """
    program = [sys.executable, "-m", "lab.bench.flood"]
    log = bed.folder / "flood-receive.log"
    log.unlink(missing_ok=True)
    receiver = Process(bed.provider, [*program, "receive", str(FLOOD_PORT), str(SKIP_S), str(seconds)], log)
    try:
        until(lambda: "listening" in receiver.text(), "the receiver", process=receiver)
        sending = str(seconds + SKIP_S + 0.2)
        done = bed.user.run([*program, "send", host, str(FLOOD_PORT), str(size), sending, str(rate)])
        if done.returncode:
            raise LabError(f"flood: {done.stderr.strip()}")
        receiver.wait(seconds + 10)
        found = json.loads(receiver.text().splitlines()[-1])
    finally:
        receiver.stop()
    if not found["sent"]:
        return 0.0, 1.0
    arrived, loss = found["packets"] / found["seconds"], 1 - found["packets"] / found["sent"]
    if rate:
        behind = 1 - arrived / float(json.loads(done.stdout)["rate"])
        if behind > 1 - KEEPS_UP:
            loss = max(loss, behind)
    return arrived, loss


def highest_rate(
    measure: Callable[[float], tuple[float, float]], least: float, most: float, probes: int
) -> float:
    """The best rate that arrived with less than 1 % of loss, in `probes` halvings between two bounds.

    `measure` gives (arrived packets a second, loss) for a rate. 0 when even the lowest was lost.
    """
    best = 0.0
    for _ in range(probes):
        rate = (least + most) / 2
        arrived, loss = measure(rate)
        if loss < TOO_MUCH_LOSS:
            least, best = rate, max(best, arrived)
        else:
            most = rate
    return best
