"""`python -m netns_tests.own_clock …`: nconnect under libfaketime.

libfaketime's `clock_nanosleep` refuses the monotonic clock where that one is not faked, and `time.sleep`
calls it. Here a sleep is a `select` without files.
"""

from __future__ import annotations

import select
import sys
import time


def _sleep(seconds: float) -> None:
    select.select((), (), (), seconds)


if __name__ == "__main__":
    time.sleep = _sleep  # type: ignore[assignment]
    from nconnect.cli.app import main

    sys.exit(main())
