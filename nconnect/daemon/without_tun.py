"""A daemon for streams alone, by which an ordinary user reaches what peers provide without a TUN.

It is the same daemon as `up`'s, with its lock, control socket and links, where the interface is nothing
(`io.system.no_network`): peers' packets are dropped, and streams run inside the sessions.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from nconnect.daemon import up
from nconnect.daemon.up import ServeStreams
from nconnect.io.files.config_source import ConfigSource
from nconnect.io.system.no_network import NoNetwork
from nconnect.model import Config


def run(
    path: Path, config: Config, source: ConfigSource, *, serve: ServeStreams, keep_trying: bool = True
) -> int:
    """Run `serve` with a dialler until it ends, or a signal or `nconnect down` comes; the exit status.

    `serve` starts at once: a stream's `open` waits for the session up to 10 s. Raises `NconnectError` when
    the daemon cannot start, or what `serve` raises.
    """
    return up.run(
        path,
        config,
        source,
        keep_trying=keep_trying,
        on_ready=lambda _: None,
        network_of=lambda interface, _: closing(NoNetwork(interface)),
        serve=serve,
    )
