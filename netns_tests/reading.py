"""A page of the documentation, typed by somebody who follows it: each command runs on its machine.

Each line of a `sh` block is a command, without a prompt, so that it can be copied; the block's title names
the machine. Placeholders are replaced as a reader would: `NODE` by the node's address; a token or an address
with `…` in it by what was printed before.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.netns import LabError, Namespace
from lab.process import until
from lab.sides import Side
from lab.world import NODE_HOST, PROVIDER_PEER, USER_PEER, World

NAME = re.compile(r"[a-z0-9.-]+\.internal\b")
ELIDED = re.compile(r"\S+…\S*|\b(?:PROVIDER|USER)-ADDRESS\b")


@dataclass(frozen=True, slots=True)
class Typed:
    """One command of a page."""

    machine: str
    command: str


def section(page: str, title: str, level: str = "##") -> str:
    """The text below a heading, up to the next heading of the same level."""
    found = re.findall(
        rf"^{level} {re.escape(title)}\n(.*?)(?=^#{{2,{len(level)}}} |\Z)", page, re.MULTILINE | re.DOTALL
    )
    if len(found) != 1:
        raise LabError(f"the page has no section {title!r}, or several")
    return str(found[0])


def blocks(text: str, language: str = "") -> list[str]:
    """The code blocks of a language."""
    found = re.findall(r"^```(\w*)(?: .*)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


def commands(text: str) -> list[Typed]:
    """All commands in the shell's blocks, in their order; "" is the machine of a block without a title."""
    blocks_of = re.findall(r'^```sh(?: title="(\w+)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return [
        Typed(machine, line.strip()) for machine, block in blocks_of for line in block.splitlines() if line
    ]


class Reader:
    """Types the commands. `words` are further placeholders."""

    def __init__(self, world: World, *, words: Mapping[str, str] | None = None) -> None:
        self.world = world
        self.sides: dict[str, Side] = {"provider": world.provider_side, "user": world.user_side}
        self.machines: dict[str, Namespace] = {
            "provider": world.provider, "user": world.user, "server": world.server,
        }  # fmt: skip
        self.names = {
            "provider": PROVIDER_PEER,
            "user": USER_PEER,
        }  # else it would be the one of the testing machine
        self.words = {"NODE": NODE_HOST, **(words or {})}
        self.answers: list[str] = []  # of curl
        self._left_out: dict[str, str] = {}  # printed addresses and tokens, by their first characters

    def run_all(self, typed: Sequence[Typed]) -> None:
        for one in typed:
            self.run(one.machine, one.command)

    def run(self, machine: str, command: str) -> str:
        """Run one command, which must succeed; return its output."""
        text = ELIDED.sub(self._fill_in, command)
        for word, meant in self.words.items():
            text = re.sub(rf"\b{re.escape(word)}\b", meant, text)
        arguments = shlex.split(text)
        if arguments[0] == "sudo":
            arguments = arguments[1:]
        if machine == "node":
            assert arguments == ["nconnect", "node", "--listen", "0.0.0.0"]
            self.world.node.start()
            return ""
        if arguments[0] == "nconnect":
            return self._nconnect(machine, arguments[1:])
        for name in NAME.findall(text):  # there before a person has typed it
            until(lambda name=name: name in self._hosts(machine), f"the name {name}", timeout_s=20)
        done = self.try_plain(machine, arguments)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if arguments[0] == "curl":
            self.answers.append(done.stdout)
        return done.stdout

    def try_plain(self, machine: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self.machines[machine].run(arguments)

    def _hosts(self, machine: str) -> str:
        return Path("/etc/netns", self.machines[machine].name, "hosts").read_text()

    def _nconnect(self, machine: str, arguments: list[str]) -> str:
        side = self.sides[machine]
        if "-c" in arguments:  # a second tunnel of this machine: its interface is named like the file
            at = arguments.index("-c")
            interface = arguments[at + 1].rpartition("/")[2].removesuffix(".toml")
            arguments = arguments[:at] + arguments[at + 2 :]
            side = self.sides.setdefault(
                f"{machine} {interface}",
                Side(interface, side.namespace, side.folder.parent / interface, interface=interface),
            )
        name = self.names[machine]
        if arguments[0] == "init" or (arguments[0] == "join" and not side.config.exists()):
            arguments = [*arguments, "--identifier", name]
        # A person's shell stays in `up`: here it goes to the background.
        if arguments == ["up"]:
            arguments = ["up", "-d"]
        output = side.nconnect(*arguments)
        if arguments[0] == "address":
            self._left_out[name] = self._left_out[f"{machine.upper()}-ADDRESS"] = output.strip()
        if token := re.search(r"nc1-\S+", output):
            self._left_out["nc1-"] = token[0]
        return output

    def _fill_in(self, match: re.Match[str]) -> str:
        found = [value for begin, value in self._left_out.items() if match[0].startswith(begin)]
        assert found, f"nothing printed so far stands for {match[0]}"
        return found[0]

    def end(self) -> None:
        """Run `down` wherever `up` was typed."""
        for side in self.sides.values():
            if side.config.exists():
                side.try_nconnect("down")
