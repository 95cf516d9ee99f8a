"""What others say, on its way to a terminal, a log or a report."""

from __future__ import annotations

from lab.attack.attack import Attack, Result
from lab.attack.stage import Stage
from lab.process import until

FORBIDDEN = ("\x1b", "\x07", "\u202e")
SPOKEN = "evil"  # what is left of the reason


def _hang_up_in_colour(stage: Stage) -> Result:
    side = stage.world.user_side
    daemon = side.daemon
    assert daemon is not None
    stage.programs["node"].do("hang_up_in_colour", side.address())
    until(lambda: SPOKEN in daemon.text(), "the reason in the log", process=daemon)
    side.wait()
    shown = {
        "its log": daemon.text(),
        "nconnect logs": side.try_nconnect("logs").stdout,
        "nconnect status": side.try_nconnect("status").stdout,
        "nconnect doctor": side.try_nconnect("doctor").stdout,
    }
    found = [where for where, text in shown.items() if any(character in text for character in FORBIDDEN)]
    return Result(f"it reaches {', '.join(found)}" if found else "", "cleaned")


ROWS: tuple[Attack, ...] = (
    Attack(
        "node", "reason_with_escapes", "a close reason that clears the terminal", _hang_up_in_colour, "B7"
    ),
)
