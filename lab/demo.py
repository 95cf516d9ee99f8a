"""`scripts/demo`: a chat through the tunnel with a model that only the provider's subnet can reach.

Every part is real: four network namespaces, the product's own commands, a language model. It removes all it
made, also when it fails or is interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab import leftovers
from lab.chat import Chat, chat_from
from lab.command import give_back, interrupt_once
from lab.netns import LabError, require_root
from lab.ping import first_reply, round_trips
from lab.process import Process
from lab.snapshot import differences, snapshot
from lab.tap import Tap
from lab.traffic import serve_model
from lab.world import (
    LAN,
    LAN_INTERFACE,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SERVER,
    USER_PEER,
    World,
    world,
)

PREFIX = "ncdemo"
PORT = 8000
PROMPT = "In one paragraph: why does a ship made of steel float on the sea?"
SHOWN_TOKENS = 96
COMPARED_TOKENS = 64
ROUNDS = 5


@dataclass
class Result:
    """What `--json` prints; times in milliseconds unless the name says seconds."""

    ok: bool = False
    up_to_first_reply_s: float | None = None
    ping_ms: float | None = None
    ttft_ms: float | None = None
    ttft_direct_ms: float | None = None
    tokens: int = 0
    tokens_per_s: float | None = None
    tokens_per_s_direct: float | None = None
    node_bytes: int = 0
    plaintext_seen: bool = False
    leftovers: list[str] = field(default_factory=list)


class Demo:
    def __init__(self, console: Console, *, keep: bool) -> None:
        self.console = console
        self.keep = keep
        self.result = Result()

    def run(self) -> None:
        """Play all steps. Raises `LabError` for what did not hold."""
        with self.step("four machines that do not know each other: user, internet, provider, server"):
            stack = contextlib.ExitStack()
            made = stack.enter_context(world(PREFIX, capture=True, node_options=(), keep=self.keep))
        with stack:
            try:
                self.play(made)
            except LabError:
                self.console.print(Text(made.logs(), style="dim"))
                raise

    def play(self, made: World) -> None:
        with self.step(f"a language model on the server, {SERVER}:{PORT}"):
            model = serve_model(made.server, made, SERVER, PORT)
        with self.step("without the tunnel the user cannot reach it"):
            self.note(self.refused(made))
        with self.step("both sides: nconnect init, address, peer add"):
            made.configure()
        with self.step("the internet: nconnect node --listen 0.0.0.0"):
            made.node.start()
        before = {side.name: snapshot(side.namespace) for side in (made.user_side, made.provider_side)}
        with self.step("the provider: nconnect up"):
            made.provider_side.start()
            made.provider_side.wait()
        with self.step("the user: nconnect up, until the provider answers a ping"):
            started = time.monotonic()
            made.user_side.start()
            answered = first_reply(made.user, PROVIDER_TUNNEL, timeout_s=20)
            self.result.up_to_first_reply_s = round(answered - started, 3)
        made.user_side.wait(PROVIDER_PEER)
        with self.step(f"ping {SERVER}, the server behind the provider"):
            trips = round_trips(made.user, SERVER)
            self.result.ping_ms = trips.p50_ms
        self.chat(made)
        self.status(made)
        self.table()
        if self.keep:
            self.explain_keep(made)
            return
        with self.step("nconnect down on both sides, and a look at what is left"):
            self.end(made, before, model)

    def refused(self, made: World) -> str:
        """Try to connect from the user's machine, and say how that failed."""
        with made.user.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect((SERVER, PORT))
            except OSError as error:
                return f"connect {SERVER}:{PORT}: {error.strerror or error}"
        raise LabError(f"the user reaches {SERVER}:{PORT} without the tunnel: the demo would prove nothing")

    def chat(self, made: World) -> None:
        """The completion, the comparison with a client beside the server, and the search for the prompt."""
        out = self.console
        with Tap(made.provider, LAN_INTERFACE) as lan:
            out.print(Text.assemble(("  user: ", "bold"), PROMPT))
            out.print(Text("  model: ", style="bold"), end="")
            shown = chat_from(
                made.user,
                SERVER,
                PORT,
                PROMPT,
                max_tokens=SHOWN_TOKENS,
                on_token=lambda piece: out.print(Text(piece, style="cyan"), end="", soft_wrap=True),
            )
            out.print()
        self.result.tokens = shown.tokens
        with self.step(
            f"the same question {ROUNDS} times in turn, through the tunnel and from the provider's own LAN"
        ):
            tunnel: list[Chat] = []
            direct: list[Chat] = []
            for _ in range(ROUNDS):
                for namespace, chats in ((made.provider, direct), (made.user, tunnel)):
                    chats.append(chat_from(namespace, SERVER, PORT, PROMPT, max_tokens=COMPARED_TOKENS))
        self.result.ttft_ms = round(statistics.median(chat.ttft_ms for chat in tunnel), 2)
        self.result.ttft_direct_ms = round(statistics.median(chat.ttft_ms for chat in direct), 2)
        self.result.tokens_per_s = round(statistics.median(chat.tokens_per_s for chat in tunnel), 1)
        self.result.tokens_per_s_direct = round(statistics.median(chat.tokens_per_s for chat in direct), 1)
        self.result.node_bytes = sum(
            made.internet.counters(name)["rx_bytes"] for name in ("user", "provider")
        )
        with self.step(
            "search for the question's text in all that passed through the node, and on the provider's LAN"
        ):
            self.search(made, bytes(lan.data))

    def search(self, made: World, lan: bytes) -> None:
        needle = PROMPT.encode()
        if needle not in lan:
            raise LabError(
                "the question's text is not on the provider's LAN either: the search itself is broken"
            )
        assert made.node.capture is not None
        relayed = made.node.capture.read_bytes()
        if len(relayed) < self.result.node_bytes // 4:
            carried = f"{len(relayed):,} of {self.result.node_bytes:,} bytes"
            raise LabError(f"the node's capture holds {carried} only: the search would prove nothing")
        self.result.plaintext_seen = needle in relayed
        if self.result.plaintext_seen:
            raise LabError("the question's text passed through the node in clear")

    def status(self, made: World) -> None:
        done = made.user_side.nconnect("status")
        self.console.print(Text("\n  user$ nconnect status", style="bold"))
        self.console.print(
            Text("\n".join(f"  {line}" for line in done.splitlines()), style="dim"), soft_wrap=True
        )

    def table(self) -> None:
        result = self.result
        table = Table(
            title="through the tunnel, by way of the node", title_justify="left", title_style="bold"
        )
        table.add_column("")
        for column in ("tunnel", "direct"):
            table.add_column(column, justify="right")
        table.add_row("up to first answered ping", f"{result.up_to_first_reply_s:.2f} s", "")
        table.add_row("ping to the server, median", f"{result.ping_ms:.2f} ms", "")
        table.add_row("time to first token", f"{result.ttft_ms:.1f} ms", f"{result.ttft_direct_ms:.1f} ms")
        table.add_row("tokens a second", f"{result.tokens_per_s:.1f}", f"{result.tokens_per_s_direct:.1f}")
        table.add_row("bytes the node carried", f"{result.node_bytes:,}", "")
        table.add_row("the question's text, seen by the node", "yes" if result.plaintext_seen else "no", "")
        table.add_row("the question's text, seen on the provider's LAN", "", "yes")
        self.console.print()
        self.console.print(table)

    def explain_keep(self, made: World) -> None:
        side = made.user_side
        settings = " ".join(f"{name}={value}" for name, value in side.env.items())
        nconnect = Path(sys.prefix, "bin", "nconnect")
        self.console.print("\nIt is left running. As root, try:")
        for line in (
            f"ip netns exec {made.user.name} ping -c 3 {SERVER}",
            f"ip netns exec {made.user.name} curl -N http://{SERVER}:{PORT}/v1/chat/completions"
            """ -d '{"stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'""",
            f"{settings} {nconnect} status -c {side.config}",
            "scripts/demo --end      # ends it and removes everything",
        ):
            self.console.print(Text(f"  {line}"), soft_wrap=True)

    def end(self, made: World, before: dict[str, frozenset[str]], model: Process) -> None:
        for side in (made.user_side, made.provider_side):
            side.down()
            self.result.leftovers += [
                f"{side.name}: {line}" for line in differences(before[side.name], snapshot(side.namespace))
            ]
        made.node.stop()
        model.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        self.notes: list[str] = []
        with self.console.status(title) if self.console.is_terminal else contextlib.nullcontext():
            try:
                yield
            except BaseException:
                self.console.print(Text.assemble(("  failed ", "red"), title))
                raise
        took = f"{time.monotonic() - started:6.2f} s  "
        self.console.print(Text.assemble((took, "green"), title), soft_wrap=True)
        for note in self.notes:
            self.console.print(Text(f"          {note}", style="dim"), soft_wrap=True)

    def note(self, text: str) -> None:
        self.notes.append(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="A chat with a language model that only a provider's private subnet can reach, through"
        f" nconnect: four network namespaces, a node, {USER_PEER}, and {PROVIDER_PEER} with {LAN} behind it."
        " Needs root.",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running, and print what to try")
    parser.add_argument("--end", action="store_true", help="end and remove what --keep left")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object last (the rest goes to stderr)"
    )
    options = parser.parse_args()
    require_root("scripts/demo")
    interrupt_once()
    console = Console(stderr=options.json, highlight=False, emoji=False)
    if options.end:
        removed = leftovers.remove_kept(PREFIX)
        console.print(f"removed: {', '.join(removed)}" if removed else "nothing was left to remove")
        return
    started = time.monotonic()
    machine = leftovers.machine()
    demo = Demo(console, keep=options.keep)
    status = 0
    try:
        demo.run()
        demo.result.ok = True
    except LabError as error:
        console.print(Text(f"demo: {error}", style="red"), soft_wrap=True)
        status = 1
    except KeyboardInterrupt:
        console.print("\ninterrupted: removing everything")
        status = 130
    if not (options.keep and status == 0):
        demo.result.leftovers += leftovers.of_lab(f"{PREFIX}{os.getpid()}-")
        demo.result.leftovers += differences(machine, leftovers.machine())
        if demo.result.leftovers:
            console.print(
                Text("left behind: " + "; ".join(demo.result.leftovers), style="red"), soft_wrap=True
            )
            demo.result.ok, status = False, status or 1
        elif status == 0:
            console.print(f"Nothing is left behind. {time.monotonic() - started:.1f} s in all.")
    give_back()
    if options.json:
        print(json.dumps(asdict(demo.result)), flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
