"""The command line's reference: every command's own `--help`, 80 columns wide."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any
from unittest.mock import patch

import typer

from nconnect.cli.app import app, main

_HEAD = """# Reference: the command line

Written by `scripts/reference` from each command's `--help`.

Exit status: 0 done, 1 failed, 2 a mistake in the command or the configuration. What went wrong is one line on
standard error, and says what to do. `--json` prints one object on standard output. `-c PATH` may stand before
or after the command's name; [configuration](../configuration.md#folders) describes `$NCONNECT_CONFIG`,
`$NCONNECT_RUN_DIR` and `$NCONNECT_STATE_DIR`. `--debug`, anywhere, shows the traceback of an
unexpected error.
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD]
    for words in ((), *_commands(typer.main.get_command(app), ())):
        level = "##" if len(words) < 2 else "###"
        parts.append(f"{level} {' '.join(('nconnect', *words))}\n\n```text\n{help_of(words)}```\n")
    return "\n".join(parts)


def help_of(words: tuple[str, ...]) -> str:
    """What `nconnect WORDS --help` prints."""
    out = io.StringIO()
    width = {"COLUMNS": "80", "NO_COLOR": "1"}
    with patch.dict(os.environ, width), redirect_stdout(out):
        status = main([*words, "--help"])
    if status:
        raise SystemExit(f"nconnect {' '.join(words)} --help: status {status}")
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines()) + "\n"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The names of all commands that are not hidden, in the order of --help."""
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield (*words, name)
            yield from _commands(inner, (*words, name))
