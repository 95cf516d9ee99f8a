"""`scripts/pictures`: the documentation's terminal pictures, from real runs in namespaces.

Each command runs on a terminal of its own (a pty), so that it shows what it shows a person. What stands in a
picture is what was printed, colours included; the lab's configuration file and device name are left out.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from lab import CHECKOUT
from lab.command import give_back, interrupt_once
from lab.netns import LabError, require_root
from lab.process import until
from lab.sides import Side
from lab.world import LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, SERVER, USER_PEER, World, world

FOLDER = CHECKOUT / "docs" / "pictures"
WIDTH = 104
PORT = 8000
WATCHED_S = 16
# Downloads of different sizes, as of a person who works with the servers.
TRAFFIC = """
import itertools, socket, sys, time
for turn in itertools.count():
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
        connection.sendall(b"source %d\\n" % (((turn * 7) % 11) ** 3 << 10))
        while connection.recv(1 << 16):
            pass
    time.sleep(0.2)
"""
# A server as Ollama is, on loopback.
OLLAMA = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {
            "/v1/models": {"data": [{"id": m, "owned_by": "library"} for m in ("llama3.2:3b", "qwen2.5:7b")]},
            "/api/version": {"version": "0.12.0"},
        }.get(self.path)
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found or {}).encode())
http.server.ThreadingHTTPServer(("127.0.0.1", 11434), Handler).serve_forever()
"""
# Dark, with its own background, so that it is readable on light and dark pages.
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [(48, 54, 61), (255, 123, 114), (86, 211, 100), (227, 179, 65),
     (121, 192, 255), (210, 168, 255), (86, 212, 221), (230, 237, 243)],
)  # fmt: skip


Ends = Callable[[str], bool]


def take(
    side: Side,
    name: str,
    *commands: Sequence[str],
    ends: Ends | None = None,
    key: str = "q",
    elide: bool = False,
) -> str:
    """Run commands of nconnect, one after the other, and write what the terminal shows to `name`.svg.

    With `ends` the last of them is one that stays: the picture is taken once its screen is as `ends` wants,
    then `key` is pressed. `elide`: leave out what follows the first characters of a token. Returns what the
    last of them showed.
    """
    lines: list[Text] = []
    shown = ""
    for number, words in enumerate(commands):
        is_last = number == len(commands) - 1
        typed = re.sub(r"nc1-\S+", "nc1-…", " ".join(f"'{w}'" if " " in w else w for w in words))
        typed = typed.removesuffix(f" --identifier {USER_PEER}")
        command = side.namespace.command(side.command(*words))
        # doctor ends with 1 when it finds something: that is a picture too.
        shown = on_terminal(
            command, env=side.env, ends=ends if is_last else None, key=key, may_fail=words[0] == "doctor"
        )
        # As if the file were in its usual place.
        shown = shown.replace(f" -c {side.config}", "").replace(str(side.config), "/etc/nconnect/nc0.toml")
        if elide:
            shown = re.sub(r"nc1-\w{8,}", "nc1-…", shown)
        lines += [Text(""), Text(f"{side.name}$ sudo nconnect {typed}", style="bold"), Text.from_ansi(shown)]
    write_picture(name, side.name, lines[1:])
    return shown


def write_picture(name: str, title: str, lines: Sequence[Text]) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in lines:
        console.print(line, soft_wrap=False)
    svg = console.export_svg(title=title, theme=THEME, unique_id=name)
    # The browser's monospaced font, so that the picture loads nothing.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    (FOLDER / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def on_terminal(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    ends: Ends | None = None,
    key: str = "q",
    may_fail: bool = False,
    timeout_s: float = 120,
) -> str:
    """The screen of a terminal of WIDTH columns when a command has ended, or when `ends` is true for it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    full = {**os.environ, **env, "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    full.pop("NO_COLOR", None)
    # A session of its own, whose terminal this is: then Ctrl-C reaches it.
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=full, cwd=CHECKOUT
    )
    os.close(theirs)
    written, taken = bytearray(), ""
    deadline = time.monotonic() + timeout_s
    try:
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (data := os.read(ours, 1 << 16)):
                break
            written += data
            if ends is not None and not taken and ends(screen(written.decode(errors="replace"))):
                taken = screen(written.decode(errors="replace"))
                os.write(ours, key.encode())
    except OSError:
        pass  # EIO: nobody has the terminal open any more
    except BaseException:
        process.kill()
        raise
    finally:
        try:
            status = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LabError(f"{' '.join(command)} does not end") from None
        finally:
            os.close(ours)
    shown = screen(written.decode(errors="replace"))
    if (status and not may_fail) or (ends is not None and not taken):
        raise LabError(f"{' '.join(command)}: {shown}")
    return taken or shown


def screen(written: str) -> str:
    """What is left of all that was written, as a terminal shows it: lines that were written again, and a
    screen that was cleared. Colours stay. Enough of a terminal for what `nconnect` and rich send.
    """
    lines, row, begin = [""], 0, False  # `begin`: the cursor is at the line's begin
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)", written):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\r":
            begin = True
        elif part == "\x1b[2J":
            lines, row, begin = [""], 0, False
        elif re.fullmatch(r"\x1b\[\d*A", part):
            row = max(0, row - int(part[2:-1] or 1))
        elif part in ("\x1b[2K", "\x1b[K", "\x1b[0K"):
            if begin or part == "\x1b[2K":
                lines[row] = ""
        elif part and (not part.startswith("\x1b") or part.endswith("m")):
            lines[row] = ("" if begin else lines[row]) + part
            begin = False
    return "\n".join(line.rstrip() for line in lines).rstrip()


def take_all(made: World) -> None:
    """The story of the quick start, with its pictures."""
    provider, user = made.provider_side, made.user_side
    made.run_in(made.server, [sys.executable, "-m", "lab.servers", str(PORT)], "server")
    made.run_in(made.provider, [sys.executable, "-c", OLLAMA], "ollama")
    made.node.start()
    provider.nconnect(
        *("init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24"),
        *("--provide", LAN, "--seed-rpc", SEED_RPC),
    )
    provider.start()
    provider.wait()
    allow = f"{SERVER}:{PORT}/tcp,{SERVER}/icmp"
    printed = take(provider, "invite", ("invite", "alice", "--allow", allow))
    (token,) = re.findall(r"nc1-\S+", printed)
    take(user, "join", ("join", token, "--identifier", USER_PEER), ("up",), ends=has_live_line, key="\x03")
    user.start()
    user.wait(PROVIDER_PEER)
    made.user.run(["ping", "-c", "3", "-i", "0.2", SERVER])
    take(user, "status", ("status",))
    take(user, "ping", ("ping", PROVIDER_PEER))
    provider.nconnect("invite", "bob", "--expires", "7d")
    take(provider, "peers", ("peer", "list"), ("invite", "list"))
    take(user, "doctor", ("doctor",))
    traffic = made.run_in(made.user, [sys.executable, "-c", TRAFFIC, SERVER, str(PORT)], "traffic")
    take(user, "watch", ("status", "--watch"), ends=lambda shown: graph_length(shown) >= WATCHED_S)
    traffic.stop()
    take_friends(provider, user)


def take_friends(provider: Side, user: Side) -> None:
    """The front page's pictures: what living with several friends looks like."""
    provider.nconnect("provide", "server", "add", "ollama", "http://127.0.0.1:11434")
    provider.nconnect("peer", "set", "alice", "--add-allow", f"{PROVIDER_TUNNEL}:11434/tcp")
    until(lambda: "llama3.2:3b" in user.nconnect("offers"), "the offer", timeout_s=20)
    take(user, "offers", ("offers",))
    take(
        provider,
        "friends",
        ("invite", "carol", "dave", "erin", "--access", "30d"),
        ("usage",),
        ("peer", "pause", "alice", "--why", "back at 22:00"),
        ("peer", "list"),
        elide=True,
    )
    provider.nconnect("peer", "resume", "alice")


def has_live_line(shown: str) -> bool:
    """Whether `up` shows its last line, with rates in it."""
    return "routed through" in shown and shown.endswith("/s out")


def graph_length(shown: str) -> int:
    """How many samples the longest graph of `status --watch` has."""
    return max((len(bars) for bars in re.findall("[▁▂▃▄▅▆▇█]+", shown)), default=0)


def take_demo() -> None:
    command = [sys.executable, "-m", "lab.demo"]
    shown = on_terminal(command, env={}, timeout_s=300)
    write_picture(
        "demo", "scripts/demo", [Text("$ sudo ./scripts/demo", style="bold"), Text.from_ansi(shown)]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/pictures",
        description="Takes the documentation's terminal pictures (docs/pictures) from real runs: a user, a"
        " node and a provider in network namespaces. Needs root.",
    )
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's, which needs the model")
    demo = not parser.parse_args().no_demo
    require_root("scripts/pictures")
    interrupt_once()
    try:
        with world("ncpic") as made:
            take_all(made)
        if demo:
            take_demo()
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
