"""`nconnect tunnel`: TCP connections through NKN streams, as nkn-tunnel does it, without a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nconnect.cli.options import UnusedConfigOption, Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nconnect.model import NknAddress
    from nconnect.sdk.tunnel import TcpPlace, TunnelEnd


def tunnel(
    to: Annotated[
        str, typer.Option("--to", metavar="HOST:PORT|ADDRESS", help="The TCP server, or the other side.")
    ],
    source: Annotated[
        str,
        typer.Option("--from", metavar="nkn|[HOST:]PORT", help="What is accepted: streams, or connections."),
    ] = "nkn",
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept",
            metavar="KEY,…|all",
            help="Who may open streams: public keys or addresses; all: everybody. [default: nobody]",
            show_default=False,
        ),
    ] = None,
    seed_file: Annotated[
        Path | None,
        typer.Option("--seed-file", metavar="FILE", help="Keep the key here. [default: a new key each time]"),
    ] = None,
    identifier: Annotated[
        str, typer.Option("--identifier", metavar="NAME", help="The part of the address before the key.")
    ] = "",
    seed_rpc: Annotated[
        Values,
        typer.Option("--seed-rpc", metavar="URL", help="A seed or node. [default: the public network's]"),
    ] = None,
    mtu: Annotated[
        int | None,
        typer.Option("--mtu", metavar="BYTES", min=1, help="The largest packet. [default: 60000]"),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log what becomes of streams.")] = False,
    _config: UnusedConfigOption = None,
) -> int:
    """Carry TCP connections through NKN.

    It runs until Ctrl-C, and needs no root and no configuration. The other side is this command or
    nkn-tunnel. One side listens on NKN (--from nkn), connects to a TCP server, and prints its address; the
    other one listens on a TCP port and has that address as --to.
    """
    import logging

    from nconnect.cli.logs import log_to_stderr
    from nconnect.errors import ConfigError
    from nconnect.io.files.seed_file import kept_seed
    from nconnect.sdk.tunnel import TcpPlace, parse_source, parse_target

    begin, end = parse_source(source), parse_target(to)
    if isinstance(begin, TcpPlace) and isinstance(end, TcpPlace):
        raise ConfigError("nothing would go through NKN: give --from nkn, or an NKN address as --to")
    if accept is not None and begin != "nkn":
        raise ConfigError("--accept is for --from nkn: it says who may open streams")
    accepted = _accepted(accept or ())
    log_to_stderr(level=logging.DEBUG if verbose else logging.WARNING)
    seed = kept_seed(seed_file)
    return _run(begin, end, accepted, seed, identifier, seed_rpc, mtu)


def _accepted(given: Sequence[str]) -> Literal["all"] | list[str]:
    """The keys and addresses; raises `ConfigError`."""
    from nconnect.errors import ConfigError
    from nconnect.model import NknAddress

    entries = [entry.strip() for text in given for entry in text.split(",") if entry.strip()]
    if entries == ["all"]:
        return "all"
    for entry in entries:
        try:
            NknAddress.parse(entry)
        except ConfigError:
            raise ConfigError(
                f"--accept {entry}: write public keys of 64 hex digits, addresses, or the word all alone"
            ) from None
    return entries


def _run(
    begin: TunnelEnd,
    end: TcpPlace | NknAddress,
    accepted: Literal["all"] | list[str],
    seed: bytes,
    identifier: str,
    seed_rpc: Values,
    mtu: int | None,
) -> int:
    import asyncio
    import importlib.util
    import signal
    import sys
    from contextlib import suppress

    from nconnect.model import PUBLIC_SEED_RPC
    from nconnect.ncp.settings import STREAM_MTU_BYTES
    from nconnect.nkn import MultiClient
    from nconnect.sdk.tunnel import StreamTunnel

    def listening(address: str) -> None:
        print(f"Listening at {address}", flush=True)
        if begin == "nkn" and not accepted:
            print(
                "nconnect: nobody is accepted: name the other side's key with --accept, or everybody with"
                " --accept all",
                file=sys.stderr,
            )

    async def serve() -> None:
        client = MultiClient(
            seed,
            identifier=identifier,
            seed_rpc=tuple(seed_rpc or PUBLIC_SEED_RPC),
            mtu=STREAM_MTU_BYTES if mtu is None else mtu,
        )
        task = asyncio.current_task()
        assert task is not None
        with suppress(NotImplementedError):  # Windows has no such signal
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with client:
            await StreamTunnel(client, begin, end, accepted).run(listening)

    factory = None
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner, suppress(asyncio.CancelledError):
        runner.run(serve())
    return 0
