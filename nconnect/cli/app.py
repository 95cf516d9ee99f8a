"""The tree of commands, and the one place where an error becomes a line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from nconnect.cli import (
    completion,
    daemon,
    doctor,
    forward,
    inspect,
    invite,
    join,
    leave,
    node,
    offers,
    peer,
    pending,
    provide,
    run,
    servers,
    setup,
    socks,
    transfer,
    tunnel,
    usage,
)
from nconnect.cli import config as config_commands
from nconnect.cli.groups import Grouped, explain
from nconnect.cli.options import ConfigOption, enter_group, group
from nconnect.errors import ConfigError, NconnectError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def _print_version(given: bool) -> None:
    if given:
        inspect.version()
        raise typer.Exit


def _enter(
    ctx: typer.Context,
    config: ConfigOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    enter_group(ctx, config)


app = group(
    "A tunnel between a device and somebody else's GPUs, over the NKN network.", Grouped, callback=_enter
)
app.command("init")(setup.init)
app.command("join")(join.join)
app.command("leave")(leave.leave)
app.command("up")(daemon.up)
app.command("down")(daemon.down)
app.command("wait")(daemon.wait)
app.command("status")(inspect.status)
app.command("offers")(offers.offers)
app.command("run", context_settings={"allow_interspersed_args": False})(run.run)
app.command("address")(inspect.address)
app.add_typer(peer.app, name="peer")
provide.app.add_typer(servers.app, name="server")
provide.app.add_typer(servers.hosts, name="host")
peer.app.command("pending")(pending.pending)
peer.app.command("approve")(pending.approve)
peer.app.command("export")(transfer.export)
peer.app.command("import")(transfer.import_peers)
app.add_typer(provide.app, name="provide")
app.add_typer(invite.app, name="invite")
app.command("usage")(usage.usage)
app.command("logs")(inspect.logs)
app.command("ping")(inspect.ping)
app.add_typer(node.app, name="node")
app.command("forward")(forward.forward)
app.command("socks")(socks.socks)
app.command("tunnel")(tunnel.tunnel)
app.command("reload")(config_commands.reload)
app.add_typer(config_commands.app, name="config")
app.command("doctor")(doctor.doctor)
app.command("version")(inspect.version)
app.command("completion")(completion.completion)
app.command(completion.NAMES, hidden=True)(completion.peers)
explain(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. `--debug`, anywhere, shows the traceback of an error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    given = [a for i, a in enumerate(given) if a != "--debug" or i > end]
    try:
        status = app(given, prog_name="nconnect", standalone_mode=False)
        sys.stdout.flush()
    except NconnectError as error:
        return _fail(error, error.problems if isinstance(error, ConfigError) else [str(error)], debug)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at exit
        return 1
    except _ClickException as error:
        return _fail(error, [_usage(error)], debug)
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = "" if debug else " (a bug in nconnect: --debug shows where)"
        return _fail(error, [text + hint], debug)
    return status if isinstance(status, int) else 0


# The base of all of click's own errors; click is inside typer or beside it, depending on its version.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def _fail(error: Exception, lines: Sequence[str], debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    for line in lines:
        print(f"nconnect: error: {' '.join(line.split())}", file=sys.stderr)
    status = getattr(error, "exit_status", getattr(error, "exit_code", 1))
    return status if isinstance(status, int) else 1


# Messages of the parser about a number -> ours.
_NUMBERS = (
    (r"Input should be a valid number.*", "write a number"),
    (r"Input should be a valid integer.*", "write a whole number"),
    (r"Input should be greater than or equal to ([\d.]+).*", r"write \1 or more"),
    (r"Input should be less than or equal to ([\d.]+).*", r"write \1 at most"),
)


def _usage(error: Exception) -> str:
    import re

    message = error.format_message() if hasattr(error, "format_message") else str(error)
    for theirs, ours in _NUMBERS:
        message = re.sub(theirs, ours, message)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "nconnect"
    message = message.strip().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (see `{path} --help`)"
