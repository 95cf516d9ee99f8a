"""`scripts/attack`: everything that a hostile node, peer or stranger can do, while a chat goes on.

    user (chats) ── node (hostile) ── provider ── server (SmolLM2-135M)
    evil: an authorised peer and a stranger, on the internet's machine

Prints a table: the attack, how often its own reason was counted, the chat's longest pause meanwhile. Exits
with 1 if the chat paused for over a second, a daemon grew by over 20 MB, or an attack was not counted under
its own reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise

from lab.attack.commands import Hostile
from lab.attack.report import Outcome, Report, table
from lab.command import give_back, interrupt_once
from lab.netns import LabError, require_root
from lab.process import Process, until
from lab.sides import Side
from lab.world import PROVIDER_PEER, SERVER, World, world
from nconnect.crypto.keys import Identity

PORT = 8000
EVIL, EVIL_TUNNEL = "evil", "10.86.0.66"
SETTLE_S = 1.2  # how long the chat is watched after each attack: above the pause that it may not make
LOCAL_SEED_RPC = "http://127.0.0.1:30003"


@dataclass(frozen=True, slots=True)
class Attack:
    """What `by` does; `reason` is what must be counted at `victim`, empty where there is nothing to count."""

    by: str
    name: str
    reason: str
    what: str
    victim: str = "provider"


ATTACKS = (
    Attack("node", "replay", "replayed", "the last frames again"),
    Attack("node", "duplicate", "replayed", "one frame 200 times"),
    Attack("node", "flip_bits", "not_authentic", "new counters, a bit changed"),
    Attack("node", "truncate", "malformed", "frames cut short"),
    Attack("node", "late", "no_session", "frames of a session that is over"),
    Attack("node", "reflect", "no_session", "a client's own frames back to it", victim="user"),
    Attack("node", "replay_handshake", "handshake_replayed", "an old initiation again"),
    Attack("node", "forge_sender", "not_authentic", "boxes nobody sealed, in the peer's name"),
    Attack("node", "plain_text", "not_ours", "messages without encryption"),
    Attack("node", "no_messages", "malformed", "payloads that are no NKN messages"),
    Attack("node", "unknown_senders", "unknown_peer", "5,000 senders nobody knows"),
    Attack("node", "bad_frames", "bad_frames", "frames that do not parse"),
    Attack("node", "bomb", "bad_frames", "200 MB of zeros in 1 MB"),
    Attack("node", "actions", "ignored_actions", "actions that mean nothing"),
    Attack("node", "pings", "", "2,000 websocket pings: answered, not counted"),
    Attack("node", "oversized", "", "a frame above 4 MiB: the link is opened anew"),
    Attack("node", "hang_up", "", "the link closed: it is opened anew"),
    Attack("stranger", "unknown_key", "unknown_peer", "2,000 messages of a key nobody knows"),
    Attack("peer", "spoofed_sources", "spoofed_source", "others' addresses as source"),
    Attack("peer", "mapped_sources", "spoofed_source", "IPv4-mapped sources"),
    Attack("peer", "no_packets", "bad_packet", "noise in place of packets"),
    Attack("peer", "bad_offload", "bad_offload_header", "virtio headers that lie"),
    Attack("peer", "bad_records", "bad_record", "records longer than their batch"),
    Attack("peer", "forbidden", "refused", "connections to what is not allowed"),
    Attack("peer", "ping_flood", "", "20,000 pings in a batch: one is answered"),
    Attack("peer", "big_garbage", "not_authentic", "30 MB that do not authenticate"),
    Attack("peer", "no_session", "no_session", "keys that were never agreed"),
    Attack("peer", "wrong_version", "wrong_version", "frames of other versions"),
    Attack("peer", "handshake_flood", "handshake_flood", "500 handshakes at once"),
    Attack("peer", "other_key", "handshake_refused", "a handshake under another key"),
)


@dataclass
class Stage:
    """What the attacks run against."""

    world: World
    programs: dict[str, Hostile]
    reader: Process

    def side(self, name: str) -> Side:
        return self.world.provider_side if name == "provider" else self.world.user_side

    def run(self, attack: Attack) -> Outcome:
        side = self.side(attack.victim)
        before = _drops(side).get(attack.reason, 0)
        started = time.monotonic()
        words = [attack.name]
        if attack.by == "node":
            words.append(side.address())
            if attack.name == "reflect":
                words.append(self.world.provider_side.address())
        self.programs[attack.by].do(*words)
        counted = 0
        deadline = time.monotonic() + 5
        while attack.reason and not counted and time.monotonic() < deadline:
            counted = _drops(side).get(attack.reason, 0) - before
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        if attack.reason:
            counted = _drops(side).get(attack.reason, 0) - before
        return Outcome(
            attack.by, attack.name, attack.what, attack.reason, counted, round(self.pause_s(started), 3)
        )

    def pause_s(self, since: float) -> float:
        """The longest time without a token from shortly before `since` until now."""
        times = self.token_times()
        times = [since, *(moment for moment in times if moment > since), time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    def token_times(self) -> list[float]:
        """When each token of the chat came; what else the reader said is not one."""
        lines = self.reader.text().splitlines()
        return [float(line) for line in lines if line.replace(".", "").isdigit()]

    def rss(self) -> dict[str, int]:
        found = {}
        for name in ("user", "provider"):
            daemon = self.side(name).daemon
            assert daemon is not None
            found[name] = daemon.rss_bytes()
        return found


def _drops(side: Side) -> dict[str, int]:
    status = side.status()
    found = dict(status["drops"])
    for peer in status["peers"]:
        for reason, count in peer["drops"].items():
            found[reason] = found.get(reason, 0) + count
    return found


@contextmanager
def stage() -> Iterator[Stage]:
    """The world with a hostile node in its middle, the tunnel up, the chat under way, the senders ready."""
    with world("ncattack") as made, ExitStack() as undo:
        seeds = {"peer": os.urandom(32), "stranger": os.urandom(32)}

        def hostile(name: str, module: str, *arguments: str) -> Hostile:
            program = Hostile(made.internet, module, arguments, made.folder / f"{name}.log", {})
            undo.callback(program.stop)
            program.wait("ready")
            return program

        made.configure()
        evil = f"{EVIL}.{Identity(seeds['peer']).public_key.hex()}"
        made.provider_side.nconnect(
            *(
                "peer",
                "add",
                EVIL,
                evil,
                "--allowed-ips",
                f"{EVIL_TUNNEL}/32",
                "--allow",
                f"{SERVER}:{PORT}/tcp",
            )
        )
        programs = {"node": hostile("node", "lab.attack.node")}
        made.up()
        command = [sys.executable, "-m", "lab.model_server", SERVER, str(PORT)]
        model = made.run_in(made.server, command, "model")
        until(lambda: "serving" in model.text(), "the model", timeout_s=60, process=model)
        chat = [sys.executable, "-m", "lab.attack.chat", SERVER, str(PORT)]
        reader = made.run_in(made.user, chat, "chat")
        built = Stage(made, programs, reader)
        until(lambda: len(built.token_times()) > 20, "the chat", timeout_s=30, process=reader)
        # The node has now frames of a session that is about to end.
        made.user_side.down()
        made.user_side.start()
        made.user_side.wait(PROVIDER_PEER)
        seen = len(built.token_times())
        until(lambda: len(built.token_times()) > seen + 40, "the chat again", timeout_s=30, process=reader)
        for name, identifier in (("peer", EVIL), ("stranger", "nobody")):
            programs[name] = hostile(
                name, "lab.attack.sender", LOCAL_SEED_RPC, seeds[name].hex(), identifier,
                made.provider_side.address(), EVIL_TUNNEL,
            )  # fmt: skip
        programs["peer"].do("session")
        yield built


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/attack",
        description="Attacks a live tunnel in every way that a hostile node, peer or stranger has, while a"
        " chat goes on through it, and prints what became of each.",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, the rest on stderr"
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="this attack alone; may be repeated")
    options = parser.parse_args()
    require_root("scripts/attack")
    unknown = set(options.only or ()) - {attack.name for attack in ATTACKS}
    if unknown:
        parser.error(f"there is no attack {', '.join(sorted(unknown))}")
    interrupt_once()
    out = sys.stderr if options.json else sys.stdout
    report = Report()
    try:
        with stage() as built:
            before = built.rss()
            for attack in ATTACKS:
                if not options.only or attack.name in options.only:
                    report.outcomes.append(built.run(attack))
                    print(table(report.outcomes[-1:]), file=out, flush=True)
            report.grown_bytes = {name: size - before[name] for name, size in built.rss().items()}
            if not report.ok:
                print(built.world.logs(), file=sys.stderr)
    except LabError as error:
        print(f"attack: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        give_back()
    print(report.verdict(), file=out)
    if options.json:
        print(json.dumps({"ok": report.ok, **asdict(report), "problems": report.problems()}))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
