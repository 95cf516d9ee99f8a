"""`up`, `down` and `wait`: start and stop the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from nconnect.cli.options import ConfigOption, asked, chosen, interface_there
from nconnect.errors import ControlError, NetworkError, UsageError

if TYPE_CHECKING:
    from nconnect.control.schema import PeerStatus
    from nconnect.daemon.up import OnReady

STOP_TIMEOUT_S = 20.0  # guessed: a daemon removes what it set in well under one second
SET_UP_TIMEOUT_S = 30.0  # guessed: what `up -d` waits for interface and rules, on a very slow machine
LINK_TIMEOUT_S = 5.0  # what it then waits for a link to a node
PEERS_TIMEOUT_S = 1.0  # and for peers, some of which may be off
NAMES_TIMEOUT_S = 3.0  # and for what peers that are there offer, and for its names


def up(
    ctx: typer.Context,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Run in the background.")] = False,
    keep_trying: Annotated[
        bool,
        typer.Option(
            "--keep-trying", help="Keep trying if no node can be reached; with -d, do not wait for one."
        ),
    ] = False,
    log_format: Annotated[
        str, typer.Option("--log-format", metavar="text|json", help="What log lines look like.")
    ] = "text",
    config: ConfigOption = None,
) -> int:
    """Start the tunnel. In the foreground, Ctrl-C ends it.

    In a terminal it shows each step with its time, and then one line that is updated; otherwise it logs.
    With -d it returns when there is a link to a node, and the names of the peers that are there resolve. If
    there is no link within 5 seconds it says why, with status 1, and the daemon goes on trying: `nconnect
    wait` returns when it is up.
    """
    import os
    import sys

    from nconnect.cli import output, preflight
    from nconnect.cli.detach import detached
    from nconnect.cli.logs import FORMATS, log_to_stderr
    from nconnect.config.proxy import of_config
    from nconnect.io.files import config_file, paths
    from nconnect.io.net.proxy_search import hint

    if log_format not in FORMATS:
        raise UsageError(f"--log-format: {log_format!r} is unknown, write {' or '.join(FORMATS)}")
    path = chosen(ctx, config)
    checked = config_file.load(path)
    has_proxy = of_config(checked, os.environ).proxy is not None or checked.network.proxy == "none"
    unused = "" if has_proxy else hint(path)  # now: later, without root's rights, it cannot be found
    preflight.check()
    path = path.absolute()  # a detached daemon leaves this folder
    persistent = keep_trying or "NOTIFY_SOCKET" in os.environ  # systemd started us: nobody reads an error

    def run(is_detached: bool, on_ready: OnReady, *, logs: bool = True) -> int:
        from nconnect.io.files.config_source import ConfigSource

        # First: the helper that it forks shares only what is loaded so far.
        with ConfigSource.start(path, checked.interface) as source:
            from nconnect.daemon.up import run as run_daemon

            if logs:
                log_to_stderr(dated=is_detached, form=log_format)
            preflight.warn_of_the_clock()
            try:
                return run_daemon(
                    path,
                    checked,
                    source,
                    keep_trying=persistent or is_detached,
                    on_ready=on_ready,
                )
            except NetworkError as error:
                raise NetworkError(f"{error}{unused}") from error

    if not detach:
        if output.can_move(sys.stderr) and log_format == "text":
            return _in_terminal(lambda on_ready: run(False, on_ready, logs=False))
        return run(False, lambda _: None)
    if paths.is_locked(checked.interface):
        paths.acquire_lock(checked.interface)  # raises and says which process holds it
    log = paths.make_state_dir(checked.interface) / paths.log_path(checked.interface).name
    if not detached(log, lambda on_ready: run(True, lambda _: on_ready()), timeout_s=SET_UP_TIMEOUT_S):
        raise ControlError(f"{checked.interface} is not set up after {SET_UP_TIMEOUT_S:g} s: see {log}")
    if keep_trying:
        print(f"{checked.interface} runs, and connects when it can (log: {log})")
        return 0
    _wait_for_link(checked.interface, unused)
    _wait_for_peers(checked.interface, with_names=checked.names)
    print(f"{checked.interface} is up (log: {log})")
    return 0


def _wait_for_link(interface: str, hint: str) -> None:
    """Return when a detached daemon has a link. Raises `NetworkError`, which says why it has none."""
    from nconnect.control.client import ControlClient, ControlTimeout

    try:
        ControlClient(interface).wait(None, LINK_TIMEOUT_S)
    except ControlTimeout as error:
        raise NetworkError(
            f"{error}{hint}; the daemon of {interface} goes on trying: `nconnect wait` returns when it is up"
        ) from None


def _wait_for_peers(interface: str, *, with_names: bool) -> None:
    """Return when peers have said what they offer and its names resolve; see the bounds above."""
    import time

    from nconnect.control.client import ControlClient

    def is_settled(peer: PeerStatus, waited_s: float) -> bool:
        if peer.state != "up" and waited_s >= PEERS_TIMEOUT_S:
            return True
        return peer.offers.told and (not with_names or all(each.names for each in peer.offers.servers))

    client = ControlClient(interface)
    began_at = time.monotonic()
    while (waited_s := time.monotonic() - began_at) < NAMES_TIMEOUT_S:
        if all(is_settled(peer, waited_s) for peer in client.status().peers):
            return
        time.sleep(0.05)


def _in_terminal(run: Callable[[OnReady], int]) -> int:
    """Run with steps and a live line instead of a log."""
    import shutil
    import sys

    from nconnect.cli.output import use_colour
    from nconnect.cli.progress import LiveLine, Progress

    progress = Progress(sys.stderr, colour=use_colour(sys.stderr))
    progress.install()
    live = LiveLine(progress, width=shutil.get_terminal_size().columns)
    try:
        return run(live.start)
    finally:
        live.stop()


def down(ctx: typer.Context, config: ConfigOption = None) -> None:
    """Stop the tunnel and remove what it set up."""
    from nconnect.control.client import ControlClient, NotRunning
    from nconnect.io.files import paths

    interface = interface_there(chosen(ctx, config))
    client = ControlClient(interface)
    try:
        client.down()
    except NotRunning:
        if paths.is_locked(interface):
            raise ControlError(
                f"the daemon of {interface} is starting or stopping: try again in a moment"
            ) from None
        _clean_up(interface)
        return
    _wait_until_gone(interface)
    print(f"{interface} is down")


def _wait_until_gone(interface: str) -> None:
    import time

    from nconnect.io.files import paths

    deadline = time.monotonic() + STOP_TIMEOUT_S
    while paths.is_locked(interface) or paths.socket_path(interface).exists():
        if time.monotonic() > deadline:
            raise ControlError(f"the daemon of {interface} has not ended: see {paths.log_path(interface)}")
        time.sleep(0.02)


def _clean_up(interface: str) -> None:
    """Remove what a killed daemon left, while no other daemon can start."""
    import os

    from nconnect.io.files import paths
    from nconnect.io.process.privileges import may_administer
    from nconnect.io.system import hosts_file
    from nconnect.io.system.host import Host

    was_killed = paths.lock_path(interface).exists() or paths.socket_path(interface).exists()
    lock = paths.acquire_lock(interface)
    try:
        if may_administer():  # without, the tunnel was in a namespace that has gone
            Host(interface, paths.state_dir(interface)).remove()
        if not os.geteuid():
            hosts_file.put(interface, {})
        for path in (paths.socket_path(interface), paths.door_path(interface)):
            path.unlink(missing_ok=True)
    finally:
        paths.release_lock(interface, lock)
    removed = "; what a killed daemon had left is removed" if was_killed else ""
    print(f"{interface} was not up{removed}")


def wait(
    ctx: typer.Context,
    peer: Annotated[str | None, typer.Argument(metavar="[PEER]", help="Also wait for this peer.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, max=86_400, help="Give up after S seconds.")
    ] = 30.0,
    config: ConfigOption = None,
) -> None:
    """Wait until the tunnel is up.

    It is up when the interface has its address and a link and, if a peer is named, a session with it.
    """
    import time

    from nconnect.control.client import NotRunning

    client = asked(ctx, config)
    deadline = time.monotonic() + timeout
    while True:
        left_s = deadline - time.monotonic()
        try:
            client.wait(peer, max(0.0, left_s))
            return
        except NotRunning:
            if left_s <= 0:
                raise
            time.sleep(min(0.05, left_s))  # it may be about to start
