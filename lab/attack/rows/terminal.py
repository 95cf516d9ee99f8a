"""What others say, on its way to a terminal, a log or a report."""

from __future__ import annotations

from lab.attack.attack import Attack

ROWS: tuple[Attack, ...] = ()
