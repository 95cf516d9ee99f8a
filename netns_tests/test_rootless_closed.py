"""With `fail_closed` nothing that runs inside an ordinary user's tunnel is seen on the ordinary network.

user (uid 61234)  ──── wan0 ──── internet ──── provider ──── server
a namespace of its own: nc0, and pasta's machine0

A command inside sends a secret to the server all the time, while the tunnel ends in each way that it can end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.process import Process, until
from lab.rootless import UID, RootlessSide
from lab.tap import Tap
from lab.traffic import SERVICE, serve
from lab.world import NODE_HOST, PROVIDER_PEER, SERVER, WAN_INTERFACE, World, world
from netns_tests.test_rootless import processes

pytestmark = pytest.mark.skipif(shutil.which("pasta") is None, reason="needs passt")

OWN_UID = UID + 1
SECRET, OPEN = b"what the tunnel is for", b"what is for everybody"
# Sends until it is told to end; prints a line whenever another 50 have been tried.
SEND = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(100_000):
    for what, host in (({SECRET!r}, {SERVER!r}), ({OPEN!r}, {NODE_HOST!r})):
        try:
            s.sendto(what, (host, {SERVICE}))
        except OSError:
            pass
    if n % 50 == 0:
        print("tried", flush=True)
    time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("ncrclose") as found:
        found.folder.chmod(0o755)
        serve(found.server, found, SERVICE)
        found.user_side = RootlessSide("user", found.user, found.folder / "user", uid=OWN_UID)
        found.configure()
        config = found.user_side.config
        config.write_text(config.read_text().replace("[interface]\n", "[interface]\nfail_closed = true\n", 1))
        found.node.start()
        found.provider_side.start()
        found.provider_side.wait()
        yield found


@pytest.mark.parametrize("way", ["down", "terminated", "daemon killed", "inside killed"])
def test_nothing_leaks_when_the_tunnel_ends(made: World, way: str) -> None:
    side = made.user_side
    assert isinstance(side, RootlessSide)
    daemon = side.start()
    side.wait(PROVIDER_PEER)
    inside = int(Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()[0])
    command = side.command("run")
    sender = Process(
        side.namespace, [*command, "--", sys.executable, "-c", SEND], made.folder / "send.log", env=side.env
    )
    try:
        with Tap(made.user, WAN_INTERFACE) as outside:
            until(lambda: OPEN in outside.data, "the ordinary network", process=sender)
            if way == "down":
                side.nconnect("down")
            elif way == "terminated":
                daemon.signal(signal.SIGTERM)
            elif way == "inside killed":
                os.kill(inside, signal.SIGKILL)
            else:
                daemon.signal(signal.SIGKILL)
            until(
                lambda: not daemon.running and processes(OWN_UID) == [sender.pid],
                "the tunnel to end",
                process=sender,
            )
            tried = sender.text().count("tried")
            until(lambda: sender.text().count("tried") > tried + 2, "more to be sent", process=sender)
        assert SECRET not in outside.data
    finally:
        sender.stop()
        side.stop()
        side.try_nconnect("down")
    assert processes(OWN_UID) == []
