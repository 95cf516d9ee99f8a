"""Our node under abuse."""

from __future__ import annotations

from lab.attack.attack import Attack

ROWS: tuple[Attack, ...] = ()
