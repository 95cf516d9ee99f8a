"""`python prying.py`, run as another user: looks at every process, and says which of them shows a secret.

Standard input has the secrets, one a line, and ends. A line of output for each process and place where one
was seen: process id, file of /proc, secret. "watching" is said first.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    secrets = [line for line in sys.stdin.buffer.read().split(b"\n") if line]
    print("watching", flush=True)
    seen: set[tuple[str, str, bytes]] = set()
    while True:
        for pid in filter(str.isdigit, os.listdir("/proc")):
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


if __name__ == "__main__":
    main()
