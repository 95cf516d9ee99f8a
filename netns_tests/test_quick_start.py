"""The commands of docs/quick-start.md, run as they stand, on the machines of `lab.world`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.process import until
from lab.world import NODE_HOST, PROVIDER_PEER, SERVER, USER_PEER, World

PAGE = (CHECKOUT / "docs" / "quick-start.md").read_text()
FOR_BOTH = ("For the provider", "For the user")
BY_HAND = ("By hand, without an invitation",)
# Where the page leaves out the middle: an address, or a token.
ELIDED = re.compile(r"\S+…\S*")


@pytest.fixture
def machines(fresh: World, tmp_path: Path) -> Iterator[World]:
    """A world with a server that answers `/v1/models` where the page has one."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/models").write_text('{"object": "list", "data": []}')
    command = [sys.executable, "-m", "http.server", "8000", "--directory", str(tmp_path)]
    server = fresh.run_in(fresh.server, command, "models")
    asked = ["curl", "-sf", f"http://{SERVER}:8000/v1/models"]
    until(lambda: fresh.provider.run(asked).returncode == 0, "the server", process=server)
    yield fresh
    for side in (fresh.user_side, fresh.provider_side):
        side.try_nconnect("down")


@pytest.mark.parametrize("sections", [FOR_BOTH, BY_HAND], ids=["invited", "by hand"])
def test_the_commands_work_in_their_order(machines: World, sections: tuple[str, ...]) -> None:
    commands = [command for section in sections for command in commands_of(section)]
    assert len(commands) > 8
    if not any(machine == "node" for machine, _ in commands):
        machines.node.start()
    reader = Reader(machines)
    for machine, command in commands:
        reader.run(machine, command)
    assert all('"object": "list"' in answer for answer in reader.answers)
    assert reader.answers, "the page never asked the model server"


def test_the_other_commands_are_well_formed(machines: World) -> None:
    """`init` of the box that serves by itself, in both its forms."""
    reader = Reader(machines)
    commands = commands_of("One box that serves by itself")
    assert len(commands) == 2
    for machine, command in commands:
        reader.run(machine, f"{command} --force")


def commands_of(section: str) -> list[tuple[str, str]]:
    """(machine, command) of each line with a prompt in the section's code blocks."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    lines = [
        line
        for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    found = [re.fullmatch(r"(node|provider|user)\$ +(.*)", line) for line in lines]
    return [(match[1], match[2]) for match in found if match]


class Reader:
    """Who types the page's commands, and puts in what the page leaves out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sides = {"provider": world.provider_side, "user": world.user_side}
        self._left_out: dict[str, str] = {}  # by how it begins: the address or the token
        self.answers: list[str] = []  # of curl

    def run(self, machine: str, command: str) -> None:
        text = ELIDED.sub(self._fill_in, command.replace("NODE", NODE_HOST))
        words = shlex.split(text, comments=True)
        if words[0] == "sudo":
            words = words[1:]
        if machine == "node":
            assert words == ["nconnect", "node", "--listen", "0.0.0.0"]
            self._world.node.start()
        elif words[0] == "nconnect":
            self._nconnect(machine, words[1:])
        else:
            done = self._sides[machine].namespace.run(words)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            if words[0] == "curl":
                self.answers.append(done.stdout)

    def _nconnect(self, machine: str, words: list[str]) -> None:
        name = {"provider": PROVIDER_PEER, "user": USER_PEER}[machine]
        if words[0] in ("init", "join"):
            words = [*words, "--identifier", name]  # else it is the name of the machine that tests
        output = self._sides[machine].nconnect(*words)
        if words[0] == "address":
            self._left_out[name] = output.strip()
        if token := re.search(r"nc1-\S+", output):
            self._left_out["nc1-"] = token[0]

    def _fill_in(self, match: re.Match[str]) -> str:
        (found,) = [value for begin, value in self._left_out.items() if match[0].startswith(begin)]
        return found
