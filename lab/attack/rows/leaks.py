"""What leaves in the clear, and whom routes are believed."""

from __future__ import annotations

from lab.attack.attack import Attack

ROWS: tuple[Attack, ...] = ()
