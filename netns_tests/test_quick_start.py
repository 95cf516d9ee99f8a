"""The commands of the README and of docs/quick-start.md work as they are printed.

user ── node ── provider ── server (the model server of the page)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.process import until
from lab.world import SERVER, World
from netns_tests.reading import Reader, Typed, commands, section

README = (CHECKOUT / "README.md").read_text()
PAGE = (CHECKOUT / "docs" / "quick-start.md").read_text()
WAYS = {
    "readme": commands(section(README, "Quick start").partition("\n### ")[0]),
    "readme, by hand": commands(section(README, "By hand", "###")),
    "invited": [
        typed for name in ("For the provider", "For the user") for typed in commands(section(PAGE, name))
    ],
    "by hand": commands(section(PAGE, "By hand, without an invitation")),
}


@pytest.fixture
def machines(fresh: World, tmp_path: Path) -> Iterator[Reader]:
    """A world with a server that answers `/v1/models` at the address of the page's model server."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/models").write_text('{"object": "list", "data": []}')
    command = [sys.executable, "-m", "http.server", "8000", "--directory", str(tmp_path)]
    server = fresh.run_in(fresh.server, command, "models")
    asked = ["curl", "-sf", f"http://{SERVER}:8000/v1/models"]
    until(lambda: fresh.provider.run(asked).returncode == 0, "the server", process=server)
    reader = Reader(fresh)
    yield reader
    reader.end()


@pytest.mark.parametrize("typed", WAYS.values(), ids=WAYS.keys())
def test_the_commands_work_in_their_order(machines: Reader, typed: list[Typed]) -> None:
    assert len(typed) > 6
    if not any(one.machine == "node" for one in typed):
        machines.world.node.start()
    machines.run_all(typed)
    assert machines.answers, "the page never asked the model server"
    assert all('"object": "list"' in answer for answer in machines.answers)


def test_an_invited_user_types_two_commands() -> None:
    """Then the tunnel is up; the third one shows what there is, the fourth is the user's program."""
    typed = [one.command for one in WAYS["readme"] if one.machine == "user"]
    assert [command.split()[:-1] for command in typed[:3]] == [
        ["sudo", "nconnect", "join"],
        ["sudo", "nconnect", "up"],
        ["nconnect"],
    ]
    assert typed[3].startswith("curl ")


def test_the_other_commands_are_well_formed(machines: Reader) -> None:
    """Those for a box that serves by itself, and which daemon is not up."""
    typed = commands(section(PAGE, "One box that serves by itself"))
    assert [one.command.split()[2] for one in typed] == ["init", *("provide",) * 3]
    for one in typed:
        machines.run(one.machine, one.command)
