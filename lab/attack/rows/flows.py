"""What comes in from the tunnel, and the flows of peers."""

from __future__ import annotations

from lab.attack.attack import Attack

ROWS: tuple[Attack, ...] = ()
