"""Options that several commands share, and the configuration file that a command uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer
import typer.core

from nconnect.cli.groups import ExplainedGroup
from nconnect.errors import ConfigError, NconnectError

if TYPE_CHECKING:
    from nconnect.control.client import ControlClient
    from nconnect.model import Proxy

_T = TypeVar("_T")
Values = list[str] | None  # of an option that may be given several times


class Declined(NconnectError):
    """The person at the terminal did not confirm."""


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="PATH",
        help="The configuration file ($NCONNECT_CONFIG, else /etc/nconnect/nc0.toml).",
        show_default=False,
        readable=False,  # `io.files.config_file` reports what cannot be read, and what to do
    ),
]
# For commands that do not use it, so that a script can give it to all.
UnusedConfigOption = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="PATH", hidden=True, readable=False)
]
ProxyOption = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="URL",
        help='The way out, kept in the file: http://…, socks5://… or "none". [default: the environment\'s]',
        show_default=False,
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change in the file, and change nothing.")
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def enter_group(ctx: typer.Context, config: ConfigOption = None) -> None:
    """Before a command of a group: keep `-c` for `chosen`, and print the help if there is no command."""
    ctx.obj = config or ctx.obj  # a context begins with its parent's `obj`
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def group(
    text: str,
    cls: type[typer.core.TyperGroup] = ExplainedGroup,
    callback: Callable[..., None] = enter_group,
) -> typer.Typer:
    """A group of commands, which `callback` enters."""
    return typer.Typer(
        help=text,
        cls=cls,
        callback=callback,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
        rich_markup_mode=None,  # rich takes longer to import than all the rest of --help
        pretty_exceptions_enable=False,
    )


def chosen(ctx: typer.Context, config: Path | None, *, to_make: bool = False) -> Path:
    """The file that the command uses: its own `-c`, one given before it, or the default.

    `to_make`: for a command that makes an identity, which is the caller's own.
    """
    from nconnect.io.files.config_file import choose_path

    return choose_path(config or ctx.obj, to_make=to_make)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; do not ask if there is no terminal.

    Raises `Declined` unless the answer is yes.
    """
    import sys

    if yes or not sys.stdin.isatty() or not sys.stderr.isatty():
        return
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("nothing was changed: the answer was not yes (--yes skips the question)")


def interface_at(path: Path) -> str:
    """The interface of a file, which need not exist. Raises `ConfigError` if its name cannot be one."""
    from nconnect.config.values import check_interface_name
    from nconnect.io.files.config_file import interface_of

    return check_interface_name(interface_of(path))


def interface_there(path: Path) -> str:
    """The interface of a file that exists or whose daemon runs. Raises `ConfigError` if there is neither."""
    from nconnect.io.files import paths
    from nconnect.io.files.config_file import refuse_missing

    interface = interface_at(path)
    if not paths.asked_socket_path(interface).exists() and not paths.lock_path(interface).exists():
        refuse_missing(path)
    return interface


def asked(ctx: typer.Context, config: Path | None) -> ControlClient:
    """The running daemon of the file that the command uses."""
    from nconnect.control.client import ControlClient

    return ControlClient(interface_there(chosen(ctx, config)))


def read_proxy(checks: Checks, text: str | None) -> Proxy | Literal["none"] | None:
    """The value of `--proxy`; it may contain a password, so remove it from the process list."""
    from nconnect.config.proxy import parse_proxy_setting
    from nconnect.io.process.process import hide_argument

    if text is None:
        return None
    hide_argument(text)
    return checks.one("--proxy", text, parse_proxy_setting)


class Checks:
    """Checks option values and collects their mistakes, so that all are reported at once."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def one(self, option: str, text: str | None, check: Callable[[str], _T]) -> _T | None:
        """The checked value; None if it is wrong, or if the option is not given."""
        if text is None:
            return None
        try:
            return check(text)
        except ConfigError as error:
            self._problems += [f"{option}: {problem}" for problem in error.problems]
            return None

    def many(
        self, option: str, texts: Sequence[str] | None, check: Callable[[str], object]
    ) -> tuple[str, ...]:
        """The checked values of an option that may be repeated and may contain commas."""
        from nconnect.config.values import split_commas

        found = split_commas(texts or ())
        for text in found:
            self.one(option, text, check)
        return found

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def finish(self) -> None:
        """Raise `ConfigError` if there was a mistake."""
        if self._problems:
            raise ConfigError(self._problems)
