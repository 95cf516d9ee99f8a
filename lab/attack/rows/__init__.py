"""The attacks, by the part of the product that they attack."""

from __future__ import annotations

from lab.attack.attack import Attack
from lab.attack.rows import (
    direct,
    files,
    flows,
    leaks,
    node,
    packets,
    session_streams,
    siege,
    strangers,
    streams,
    terminal,
    tunnel,
)

PARTS: dict[str, tuple[Attack, ...]] = {
    "strangers": strangers.ROWS,  # first, while the list of pending peers is empty
    "tunnel": tunnel.ROWS,
    "terminal": terminal.ROWS,
    "files": files.ROWS,
    "leaks": leaks.ROWS,
    "flows": flows.ROWS,
    "packets": packets.ROWS,
    "session streams": session_streams.ROWS,
    "direct": direct.ROWS,
    "node": node.ROWS,
    "streams": streams.ROWS,
    "siege": siege.ROWS,
}
