"""The commands as a tree of values, for everything that is generated from the source of `--help`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer.main


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]  # as written, the long one last
    metavar: str  # "" for a flag
    help: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    metavar: str  # in brackets when it may be left out
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command or group; `path` begins with nconnect."""

    path: str
    help: str  # paragraphs, a blank line between them
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    commands: tuple[Command, ...] = ()

    @property
    def name(self) -> str:
        return self.path.rpartition(" ")[2]

    @property
    def summary(self) -> str:
        """The help's first sentence."""
        first = " ".join(self.help.split("\n\n")[0].split())
        return first.partition(". ")[0].rstrip(".")

    def walk(self) -> Iterator[Command]:
        """This command and all below it, in the order of `--help`."""
        yield self
        for command in self.commands:
            yield from command.walk()


def tree(app: typer.Typer) -> Command:
    """The whole tree of an application."""
    return _command(typer.main.get_command(app), "nconnect")


def tree_around(ctx: typer.Context) -> Command:
    """The whole tree that contains a running command."""
    return _command(ctx.find_root().command, "nconnect")


def _command(command: Any, path: str) -> Command:
    options, arguments = [], []
    for param in command.params:
        if getattr(param, "hidden", False):
            continue
        text = " ".join((getattr(param, "help", None) or "").split())
        if param.param_type_name == "argument":
            name = param.metavar or str(param.name).upper()
            arguments.append(Argument(name if param.required or name[0] == "[" else f"[{name}]", text))
        else:
            names = tuple(sorted((*param.opts, *param.secondary_opts), key=len))
            metavar = "" if param.is_flag else (param.metavar or str(param.name).upper())
            options.append(Option(names, metavar, text, _default(param)))
    options.append(Option(("-h", "--help"), "", "Show this message and exit."))
    below = getattr(command, "commands", {})
    return Command(
        path,
        (command.help or "").strip(),
        tuple(options),
        tuple(arguments),
        tuple(_command(each, f"{path} {name}") for name, each in below.items() if not each.hidden),
    )


def _default(param: Any) -> str:
    default = param.default
    if param.is_flag or default is None or callable(default) or default in ((), []):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)
