from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lab.man_pages import _text, pages
from nconnect.cli.app import app
from nconnect.cli.groups import EXAMPLES, GROUPS, OTHERS, arranged
from nconnect.cli.tree import tree

FOLDER = Path(__file__).parents[2] / "packaging" / "man"


def test_the_pages_are_current() -> None:
    there = {path.name: path.read_text() for path in FOLDER.glob("*.1")}
    wanted = pages(tree(app))
    assert there.keys() == wanted.keys(), "run scripts/man"
    assert not [name for name in wanted if wanted[name] != there[name]], "run scripts/man"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_roff_has_nothing_to_say_about_them() -> None:
    for name, text in pages(tree(app)).items():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), name


def test_every_command_and_option_is_described() -> None:
    for command in tree(app).walk():
        assert command.summary, command.path
        for option in command.options:
            assert option.help, (command.path, option.names)


def test_examples_and_groups_name_commands_that_exist() -> None:
    root = tree(app)
    paths = {command.path for command in root.walk()}
    assert set(EXAMPLES) <= paths
    assert {f"nconnect {name}" for group in GROUPS.values() for name in group} <= paths


def test_examples_use_options_that_exist() -> None:
    commands = {command.path: command for command in tree(app).walk()}
    for lines in EXAMPLES.values():
        for line in lines:
            words = line.removeprefix("sudo ").partition(" -- ")[0].split()
            path = max((p for p in commands if f"{' '.join(words)} ".startswith(f"{p} ")), key=len)
            known = {name for o in commands[path].options for name in o.names} | {"-c"}
            for below in commands[path].commands:  # `invite NAME` is `invite new NAME`
                known |= {name for o in below.options for name in o.names}
            assert {word for word in words if word.startswith("-")} <= known, line


def test_a_command_in_no_group_comes_last() -> None:
    assert list(arranged(("brand-new", "up"))) == ["Run", OTHERS]


def test_text_is_no_roff_command() -> None:
    assert _text(".TH") == "\\&.TH"
    assert _text("a\\b --c") == "a\\eb \\-\\-c"
