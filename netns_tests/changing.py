"""`python -m netns_tests.changing RATE`: a program that changes the firewall and routes all the time.

It changes a rule, a route and an address in turn, RATE of them a second, by one `nft` and one `ip` that stay.
"""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import count

BEGIN = "add table ip changing\nadd chain ip changing c\n"
RULES = 100  # then they are flushed


def _change(number: int) -> tuple[bool, str]:
    """Whether it is nft's, and the command."""
    turn, kind = divmod(number, 3)
    verb = "del" if turn % 2 else "add"
    if kind == 1:
        return False, f"route {verb} blackhole 172.20.0.1/32\n"
    if kind == 2:
        return False, f"address {verb} 172.21.0.1/32 dev lo\n"
    if turn % RULES == 0:
        return True, "flush chain ip changing c\n"
    return True, f"add rule ip changing c ip daddr 172.22.0.{turn % RULES} counter\n"


def main() -> None:
    interval_s = 1 / float(sys.argv[1])
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, bufsize=1)
        for command in (["ip", "-batch", "-"], ["nft", "-i"])
    ]
    inputs = [program.stdin for program in programs]
    assert inputs[0] is not None
    assert inputs[1] is not None
    inputs[1].write(BEGIN)
    print("changing", flush=True)
    began = time.monotonic()
    for number in count():
        is_rule, command = _change(number)
        into = inputs[is_rule]
        assert into is not None
        into.write(command)
        time.sleep(max(0.0, began + (number + 1) * interval_s - time.monotonic()))


if __name__ == "__main__":
    main()
