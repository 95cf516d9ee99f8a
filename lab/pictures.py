"""`scripts/pictures`: the documentation's terminal pictures, from real runs in namespaces.

Each command runs on a terminal of its own (a pty), so that it shows what it shows a person. What stands in a
picture is what was printed, colours included; only the path of the lab's configuration file becomes the
usual one.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from lab import CHECKOUT
from lab.command import give_back, interrupt_once
from lab.netns import LabError, require_root
from lab.sides import Side
from lab.world import LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, SERVER, USER_PEER, World, world

FOLDER = CHECKOUT / "docs" / "pictures"
WIDTH = 104
PORT = 8000
# Dark, with a background of its own: to be read on a light page as well as on a dark one.
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [(48, 54, 61), (255, 123, 114), (86, 211, 100), (227, 179, 65),
     (121, 192, 255), (210, 168, 255), (86, 212, 221), (230, 237, 243)],
)  # fmt: skip


def take(side: Side, name: str, *commands: Sequence[str]) -> None:
    """Run commands of nconnect, one after the other, and write what the terminal shows to `name`.svg."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for number, words in enumerate(commands):
        if number:
            console.print()
        console.print(Text(f"{side.name}$ sudo nconnect {' '.join(words)}", style="bold"))
        shown = on_terminal(side, words)
        console.print(Text.from_ansi(shown.replace("\r\n", "\n").rstrip("\n")), soft_wrap=False)
    svg = console.export_svg(title=f"{side.name}", theme=THEME, unique_id=name)
    # The browser's own monospaced font: a picture loads nothing from anywhere.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    (FOLDER / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def on_terminal(side: Side, words: Sequence[str]) -> str:
    """What a command prints on a terminal of WIDTH columns; `LabError` when it fails."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    env = {**os.environ, **side.env, "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    env.pop("NO_COLOR", None)
    command = side.namespace.command(side.command(*words))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=CHECKOUT, start_new_session=True
    )
    os.close(theirs)
    shown = bytearray()
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:
        pass  # the terminal's end: nobody has it open any more
    finally:
        os.close(ours)
    text = shown.decode(errors="replace")
    # doctor ends with 1 when it finds something: that is a picture too.
    if process.wait(30) and words[0] != "doctor":
        raise LabError(f"{' '.join(words)}: {text}")
    return text.replace(str(side.config), "/etc/nconnect/nc0.toml")


def take_all(made: World) -> None:
    """The story of the quick start, with its pictures."""
    provider, user = made.provider_side, made.user_side
    made.run_in(made.server, [sys.executable, "-m", "lab.servers", str(PORT)], "server")
    made.node.start()
    provider.nconnect(
        *("init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24"),
        *("--provide", LAN, "--seed-rpc", SEED_RPC),
    )
    provider.start()
    provider.wait()
    allow = f"{SERVER}:{PORT}/tcp,{SERVER}/icmp"
    take(provider, "invite", ("invite", USER_PEER, "--allow", allow))
    (token,) = re.findall(r"nc1-\S+", provider.nconnect("invite", "second", "--allow", allow))
    user.nconnect("join", token, "--identifier", USER_PEER)
    user.start()
    user.wait(PROVIDER_PEER)
    made.user.run(["ping", "-c", "3", "-i", "0.2", SERVER])
    take(user, "status", ("status",))
    take(user, "ping", ("ping", PROVIDER_PEER))
    take(provider, "peers", ("peer", "list"), ("invite", "list"))
    take(user, "doctor", ("doctor",))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/pictures",
        description="Takes the documentation's terminal pictures (docs/pictures) from real runs: a user, a"
        " node and a provider in network namespaces. Needs root.",
    )
    parser.parse_args()
    require_root("scripts/pictures")
    interrupt_once()
    try:
        with world("ncpic") as made:
            take_all(made)
    except LabError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        give_back()
    for path in sorted(Path(FOLDER).glob("*.svg")):
        print(path.relative_to(CHECKOUT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
