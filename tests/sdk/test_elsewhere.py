"""SDK and `nconnect tunnel` can be imported where uvloop, pytun and CLOCK_BOOTTIME are missing (macOS)."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, time
for name in ("uvloop", "pytun"):
    sys.modules[name] = None
del time.CLOCK_BOOTTIME
from nconnect.nkn import Client, MultiClient, Stream, StreamServer
from nconnect.io.clock import boottime
from nconnect.sdk.tunnel import StreamTunnel
from nconnect.cli.app import main
boottime()
Client(), MultiClient()
sys.exit(main(["tunnel", "--help"]))
"""


def test_the_sdk_needs_nothing_of_linux_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--accept" in done.stdout
