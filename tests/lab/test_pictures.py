"""What a picture of a terminal shows of all that was written to it."""

from __future__ import annotations

import sys

import pytest

from lab.netns import LabError
from lab.pictures import graph_length, has_live_line
from lab.terminal import on_terminal, screen

STAYS = """
import time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("ended")
"""


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one\r\ntwo\r\n", "one\ntwo"),
        (
            "before\r\n\x1b[?1049h\x1b[?25l\x1b[H\x1b[2Jfirst\x1b[H\x1b[2Jsecond\r\nq ends this",
            "second\nq ends this",
        ),
        ("\r\x1b[Klive 1\r\x1b[Kstep\r\n\r\x1b[Klive 2", "step\nlive 2"),
        ("\r\x1b[2K* working\n\r\x1b[1A\x1b[2K  0.1 s done\r\n", "  0.1 s done"),
        ("12\r3\r\n4", "3\n4"),
        ("\x1b[32mgreen\x1b[0m\r\n", "\x1b[32mgreen\x1b[0m"),
    ],
)
def test_what_is_left_on_the_screen(written: str, shown: str) -> None:
    assert screen(written) == shown


def test_a_command_that_ends() -> None:
    script = "import os, sys; print(os.get_terminal_size().columns, sys.stdout.isatty())"
    assert on_terminal([sys.executable, "-c", script], env={}) == "104 True"
    with pytest.raises(LabError, match="broken"):
        on_terminal([sys.executable, "-c", "import sys; sys.exit('broken')"], env={})


def test_a_command_that_stays_until_a_key() -> None:
    command = [sys.executable, "-c", STAYS]
    assert on_terminal(command, env={}, ends=lambda shown: shown == "ready", key="\x03") == "ready"
    with pytest.raises(LabError):
        on_terminal([sys.executable, "-c", "print('else')"], env={}, ends=lambda shown: shown == "ready")


def test_when_to_take_the_pictures() -> None:
    assert has_live_line("   routed through a: 10.0.0.1\nnc0: a 1 ms, 0 B/s in, 0 B/s out")
    assert not has_live_line("nc0: a 1 ms, 0 B/s in, 0 B/s out")
    assert not has_live_line("   routed through a: 10.0.0.1\nnc0: a 1 ms")
    assert graph_length("link 0  sent  ▁▂█  3 B\nlink 1  sent  ▁▂▁▂  3 B") == 4
    assert graph_length("nothing yet") == 0
