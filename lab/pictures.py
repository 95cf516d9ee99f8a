"""`scripts/pictures`: the documentation's terminal pictures, from real runs in namespaces.

Each command runs on a terminal of its own (a pty), so that it shows what it shows a person. What stands in a
picture is what was printed, colours included; the lab's configuration file and device name are left out.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from lab import CHECKOUT
from lab.command import give_back, interrupt_once
from lab.group import Group, group
from lab.netns import LabError, require_root
from lab.process import until
from lab.sides import Side
from lab.terminal import WIDTH, Ends, on_terminal
from lab.typist import Typist, interview
from lab.world import LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, SERVER, USER_PEER, World, world

FOLDER = CHECKOUT / "docs" / "pictures"
PORT = 8000
OLLAMA = "ollama.gpu-box.internal"
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
# A server that lists models, as Ollama does, on loopback: its port, and the models. /bytes/N: so many bytes.
MODELS = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {
            "/v1/models": {"data": [{"id": m, "owned_by": "library"} for m in sys.argv[2:]]},
            "/api/version": {"version": "0.12.0"} if sys.argv[1] == "11434" else None,
        }.get(self.path)
        self.send_response(200 if found else 404)
        self.end_headers()
        size = int(self.path[7:]) if self.path.startswith("/bytes/") else 0
        self.wfile.write(bytes(size) if size else json.dumps(found or {}).encode())
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Dark, with its own background, so that it is readable on light and dark pages.
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [(48, 54, 61), (255, 123, 114), (86, 211, 100), (227, 179, 65),
     (121, 192, 255), (210, 168, 255), (86, 212, 221), (230, 237, 243)],
)  # fmt: skip


def take(
    side: Side,
    name: str,
    *commands: Sequence[str],
    ends: Ends | None = None,
    key: str = "q",
) -> str:
    """Run commands of nconnect, one after the other, and write what the terminal shows to `name`.svg.

    With `ends` the last of them is one that stays: the picture is taken once its screen is as `ends` wants,
    then `key` is pressed. Returns what the last of them showed.
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


def take_group(made: Group) -> None:
    """The front page's pictures: what living with several friends, and several providers, looks like."""
    (gpu_box, attic), (alice, *_) = made.providers, made.users
    person = Typist(columns=WIDTH)
    server = [sys.executable, "-c", MODELS]
    made.run_in(gpu_box.space, [*server, "11434", "llama3.2:3b", "qwen2.5:7b"], says="serving")
    made.run_in(attic.space, [*server, "8000", "Qwen2.5-32B-Instruct"], says="serving")
    shared = [(line := "sudo nconnect init", person.run(gpu_box, line, *interview(SEED_RPC)))]
    person.run(gpu_box, "sudo nconnect up -d")
    shared.append((line := "sudo nconnect invite alice bob carol --access 30d", person.run(gpu_box, line)))
    for user, token in zip(made.users, re.findall(r"nc1-\S+", shared[-1][1]), strict=True):
        person.run(user, f"sudo nconnect join {token}")
        person.run(user, "sudo nconnect up -d")
    attic.side.nconnect("init", "--identifier", attic.name, "--seed-rpc", SEED_RPC)
    attic.side.nconnect("provide", "server", "add", "vllm", "http://127.0.0.1:8000")
    attic.side.start()
    attic.side.wait()
    line = f"sudo nconnect join {made.invite(attic, alice.name)[alice.name]}"
    used = [(line, person.run(alice, line))]
    until(partial(alice.resolves, "vllm.attic.internal"), "the names", timeout_s=20)
    until(lambda: all(each["models"] for each in alice.offers().values()), "the models", timeout_s=20)
    for line in ("nconnect offers", f"curl http://{OLLAMA}:11434/v1/models"):
        used.append((line, person.run(alice, line)))
    for user, size in zip(made.users, (120 << 20, 20 << 20, 2 << 20), strict=True):
        until(partial(user.resolves, OLLAMA), "the name", timeout_s=20)
        user.space.must("curl", "-sS", "-o", "/dev/null", f"http://{OLLAMA}:11434/bytes/{size}")
    for line in ("nconnect usage", 'sudo nconnect peer pause bob --why "back at 22:00"'):
        shared.append((line, person.run(gpu_box, line)))
    for name, member, steps in (("friends", gpu_box, shared), ("offers", alice, used)):
        lines = [Text("")]
        for typed, shown in steps:
            lines += [
                Text(elided(f"{member.name}$ {typed}"), style="bold"),
                Text.from_ansi(elided(shown)),
                Text(""),
            ]
        write_picture(name, member.name, lines[1:-1])
    for member in (*made.users, gpu_box):
        member.side.nconnect("down")


def elided(text: str) -> str:
    """Without most of a token, and with the file in its usual place."""
    usual = re.sub(r"/\S+/nc0\.toml", "/etc/nconnect/nc0.toml", text).replace(
        " -c /etc/nconnect/nc0.toml", ""
    )
    return re.sub(r"nc1-\w{8,}", "nc1-…", usual)


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
        with group(2, 3, "ncpic") as friends:
            take_group(friends)
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
