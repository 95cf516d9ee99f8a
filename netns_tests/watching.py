"""`python -m netns_tests.watching …`: `nconnect …`, which says in its log what blocks its event loop."""

from __future__ import annotations

import os

from nconnect.cli.app import main
from tests.blocking import WATCH

FOUND, WATCHED = "blocks the loop: ", "the loop is watched"

if __name__ == "__main__":
    WATCH.tell = lambda line: os.write(1, f"{FOUND}{line}\n".encode())
    WATCH.begin()
    print(WATCHED, flush=True)
    main()
