"""Where a foreground process's log goes."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(*, dated: bool = False, level: int = logging.INFO) -> None:
    """Log to standard error; `dated` for a file that is read days later."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(message)s", None if dated else "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
