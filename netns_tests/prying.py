"""`python prying.py`, run as another user: looks at every process, and says which of them shows a secret.

Standard input has the secrets, one a line, and ends. A line of output for each process and place where one
was seen: process id, file of /proc, secret. "watching" is said first.
"""

from __future__ import annotations

import os
import sys
import time

YOUNG_S = 1.0  # a process is looked at all the time for so long, and once in so many seconds from then on
PAUSE_S = 0.001  # far below what any program lives


def main() -> None:
    secrets = [line for line in sys.stdin.buffer.read().split(b"\n") if line]
    print("watching", flush=True)
    seen: set[tuple[str, str, bytes]] = set()
    looked: dict[str, tuple[float, float]] = {}  # when a process was first and last looked at
    while True:
        now = time.monotonic()
        there = list(filter(str.isdigit, os.listdir("/proc")))
        looked = {pid: looked.get(pid, (now, 0.0)) for pid in there}
        for pid in there:
            first, last = looked[pid]
            if now - first > YOUNG_S and now - last < YOUNG_S:
                continue
            looked[pid] = (first, now)
            for place in ("cmdline", "environ", "comm"):
                try:
                    with open(f"/proc/{pid}/{place}", "rb") as file:
                        text = file.read()
                except OSError:
                    continue  # gone, or closed to us
                for secret in secrets:
                    found = (pid, place, secret)
                    if secret in text and found not in seen:
                        seen.add(found)
                        print(pid, place, secret.decode(), flush=True)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
