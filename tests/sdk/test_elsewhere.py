"""SDK and `nconnect tunnel` can be imported where uvloop, pytun and CLOCK_BOOTTIME are missing (macOS)."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


# The standard library's own parts for another system are not here: what asks for them is loaded before.
ELSEWHERE = """
import importlib.metadata, shutil, sys, sysconfig
sysconfig.get_config_vars()
sys.platform = "darwin"
for name in ("uvloop", "pytun", "fcntl", "pwd", "grp", "termios", "resource"):
    sys.modules[name] = None
from nconnect.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["version"], 0, "nconnect "),
        (["--help"], 0, "socks"),
        (["socks"], 1, "`nconnect socks` needs Linux: on this system there are `nconnect tunnel`"),
        (["forward", "8000:10.0.0.1:80"], 1, "`nconnect forward` needs Linux"),
    ],
)
def test_the_command_line_says_what_does_not_work_there(arguments: list[str], status: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert says in done.stdout + done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_the_sdk_and_listeners_are_imported_on_windows() -> None:
    """As far as that can be told here: `asyncio` and others are loaded before the system is another one."""
    modules = (
        "streams.listener",
        "streams.proxy",
        "streams.forward",
        "streams.nconnect_dialler",
        "sdk.tunnel",
    )
    code = "import asyncio, socket, ssl, subprocess, concurrent.futures, time\n"
    code += ELSEWHERE.split("from nconnect")[0].replace("darwin", "win32") + "del time.CLOCK_BOOTTIME\n"
    code += "".join(f"import nconnect.{module}\n" for module in modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
