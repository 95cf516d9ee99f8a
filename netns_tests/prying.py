"""`python prying.py`, run as another user: looks at every process, and reports which of them shows a secret.

Standard input has the secrets, one a line. The program prints "watching", then a line for each process and
place where it sees one: process id, file in /proc, secret.
"""

from __future__ import annotations

import os
import sys
import time

YOUNG_S = 1.0  # seconds for which a process is watched all the time, and the pause between looks after that
PAUSE_S = 0.001  # far less than any program lives


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
                    continue  # it is gone, or not readable for us
                for secret in secrets:
                    found = (pid, place, secret)
                    if secret in text and found not in seen:
                        seen.add(found)
                        print(pid, place, secret.decode(), flush=True)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
