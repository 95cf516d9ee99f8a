"""`scripts/recovery`: the same faults for nconnect and for other tunnels, and how long flows wait after each.

For each tunnel a world is built, and a TCP and a UDP flow to the provider ask every 50 ms. After a fault that
a tunnel, or a flow through it, did not survive, all is made anew for the next one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TextIO

from lab.command import interrupt_once
from lab.flows import Flow, Tcp, Udp
from lab.netns import LabError, require_root
from lab.ping import first_reply
from lab.recovery import page
from lab.recovery.faults import FAULTS, Fault
from lab.recovery.tunnels import TUNNELS, Tunnel, bring_up, missing
from lab.traffic import SERVICE, serve
from lab.world import World, world

LIMIT_S = 60.0
CALM_S = 2.0  # between two faults


def measure(tunnel: Tunnel, lab: World, fault: Fault) -> page.Times:
    """Give one fault; after how many seconds UDP and TCP were answered, None: not within `LIMIT_S`."""
    first_reply(lab.user, tunnel.host, timeout_s=2 * LIMIT_S)  # some take their time after the fault before
    with Tcp(lab.user, tunnel.host) as tcp, Udp(lab.user, tunnel.host) as udp:
        time.sleep(CALM_S)
        fault.do(lab, tunnel)
        back = time.monotonic()
        found = _waited(udp, back), _waited(tcp, back)
    fault.after(lab)
    return found


def _waited(flow: Flow, back: float) -> float | None:
    try:
        return round(flow.answered_after(back, within_s=back + LIMIT_S - time.monotonic()), 3)
    except LabError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/recovery", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--only", metavar="WORD", help="only faults whose name holds this word")
    parser.add_argument("--tunnel", action="append", choices=[t.name for t in TUNNELS], help="only this one")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object last (the rest to stderr)")
    options = parser.parse_args()
    require_root("scripts/recovery")
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    faults = [fault for fault in FAULTS if (options.only or "") in fault.name]
    times: dict[tuple[str, str], page.Times] = {}
    measured = []
    for kind in TUNNELS:
        if options.tunnel and kind.name not in options.tunnel:
            continue
        if why := missing(kind.name):
            print(f"{kind.name} is left out: {why}", file=out)
            continue
        measured.append(kind.name)
        todo = [fault for fault in faults if kind.has_node or not fault.needs_node]
        while todo:
            todo = _on_a_fresh_world(kind, todo, times, out)
    made = page.table([fault.name for fault in faults], measured, times, limit_s=LIMIT_S)
    print(f"\n{made}", file=out)
    if options.docs:
        page.PAGE.write_text(page.place(page.PAGE.read_text(), made))
    if options.json:
        rows = [{"fault": f, "tunnel": t, "udp_s": udp, "tcp_s": tcp} for (f, t), (udp, tcp) in times.items()]
        print(json.dumps({"limit_s": LIMIT_S, "times": rows}))


def _on_a_fresh_world(
    kind: type[Tunnel], todo: list[Fault], times: dict[tuple[str, str], page.Times], out: TextIO
) -> list[Fault]:
    """Give faults until one is not survived; what is left to do then."""
    with world("ncrecover") as lab:
        tunnel = kind(lab)
        serve(lab.provider, lab, SERVICE)
        bring_up(tunnel, lab)
        for number, fault in enumerate(todo):
            found = measure(tunnel, lab, fault)
            times[fault.name, kind.name] = found
            words = ["never" if seconds is None else f"{seconds:.2f} s" for seconds in found]
            print(f"{kind.name:14} {fault.name:45} UDP {words[0]:8} TCP {words[1]}", file=out, flush=True)
            if None in found:
                return todo[number + 1 :]
    return []


if __name__ == "__main__":
    main()
