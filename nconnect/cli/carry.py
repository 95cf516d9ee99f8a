"""What `forward` and `socks` share: whose streams they use, and the listeners' life."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nconnect.cli.options import Values
from nconnect.errors import ConfigError, HostError, UsageError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from nconnect.crypto.shadowsocks import ShadowCipher
    from nconnect.model import Config
    from nconnect.streams.dialler import Dialler
    from nconnect.streams.listener import ListenPlace, Owners, Serve

JOIN_TIMEOUT_S = 20.0
MAX_PASSWORD_BYTES = 255  # RFC 1929, section 2

TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="nc1-…|-",
        help="An invitation, or - for stdin: the first use joins, later ones use what was kept.",
        show_default=False,
    ),
]
AnyUserOption = Annotated[
    bool, typer.Option("--any-user", help="Serve all users of this machine. [default: only you]")
]
NconnectOption = Annotated[
    str | None,
    typer.Option(
        "--nconnect",
        metavar="ADDRESS",
        help="Use an official nConnect server instead: its admin address. It resolves names.",
        show_default=False,
    ),
]
CipherOption = Annotated[
    str | None,
    typer.Option("--cipher", metavar="NAME", help="The server's. [default: chacha20-ietf-poly1305]"),
]
PasswordOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file", metavar="FILE", help="The server's password. [default: none]", readable=False
    ),
]
SeedFileOption = Annotated[
    Path | None,
    typer.Option(
        "--seed-file", metavar="FILE", help="Keep the key for the server here. [default: a new key each time]"
    ),
]
SeedRpcOption = Annotated[
    Values,
    typer.Option("--seed-rpc", metavar="URL", help="A seed of its network. [default: the public network's]"),
]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Log what the tunnel does.")]


def listen_and_serve(
    listening: Sequence[tuple[ListenPlace, Owners, Serve, str]],
    ctx: typer.Context,
    config: Path | None,
    token: str | None,
    server: OfficialServer | None,
    *,
    verbose: bool,
) -> int:
    """Listen, and serve until a signal. The last of each four is what is printed after the address."""
    import logging
    from contextlib import ExitStack

    from nconnect.cli.logs import log_to_stderr
    from nconnect.cli.options import chosen
    from nconnect.io.process import descriptors
    from nconnect.streams.listener import bind_listener

    log_to_stderr(level=logging.INFO if verbose else logging.WARNING)
    with ExitStack() as stack:
        bound = [
            (stack.enter_context(bind_listener(place)), owners, serve, text)
            for place, owners, serve, text in listening
        ]
        descriptors.take_all()
        if server is not None:
            return _serve_official(bound, server)
        path = chosen(ctx, config, to_make=token is not None)
        if token is not None:
            _join(token, path)
        return _run(bound, path)


def owners(place: ListenPlace, *, any_user: bool) -> Owners:
    """Whose programs a listener serves. Other machines' have no user here."""
    from nconnect.streams.listener import Owners

    return Owners.of_process() if place.is_loopback and not any_user else Owners(None)


def read_password(path: Path) -> bytes:
    """The first line of a file that only its owner can read. Raises `ConfigError`."""
    from nconnect.io.files import config_file

    text = config_file.read(path, mend="write a password to it, and chmod 600 it")
    password = text.split("\n", 1)[0].rstrip("\r").encode()
    if not 0 < len(password) <= MAX_PASSWORD_BYTES:
        raise ConfigError(f"{path} holds no password: its first line has 1 to {MAX_PASSWORD_BYTES} bytes")
    return password


@dataclass(frozen=True, slots=True)
class OfficialServer:
    """An official nConnect server, and as whom it is asked."""

    address: str
    cipher: ShadowCipher
    password: str
    seed: bytes
    seed_rpc: tuple[str, ...]

    @classmethod
    def of_options(
        cls,
        address: str | None,
        cipher: str | None,
        password_file: Path | None,
        seed_file: Path | None,
        seed_rpc: Values,
        token: str | None,
    ) -> OfficialServer | None:
        """None without `--nconnect`. Raises `ConfigError` and `UsageError`."""
        from nconnect.config.values import parse_peer_address
        from nconnect.crypto.shadowsocks import ShadowCipher
        from nconnect.io.files.seed_file import kept_seed
        from nconnect.model import PUBLIC_SEED_RPC

        if address is None:
            if cipher is not None or password_file is not None or seed_file is not None or seed_rpc:
                raise UsageError("--cipher, --password-file, --seed-file and --seed-rpc are for --nconnect")
            return None
        if token is not None:
            raise UsageError("an invitation is from one of ours, and --nconnect is for an official server")
        try:
            parse_peer_address(address)
        except ConfigError as error:
            raise ConfigError(f"--nconnect: {error}") from None
        names = [each.value for each in ShadowCipher]
        chosen = names[0] if cipher is None else cipher
        if chosen not in names:
            raise UsageError(f"--cipher: {chosen!r} is unknown, write {', '.join(names)}")
        password = "" if password_file is None else read_password(password_file).decode()
        return cls(
            address, ShadowCipher(chosen), password, kept_seed(seed_file), tuple(seed_rpc or PUBLIC_SEED_RPC)
        )


def _join(given: str, path: Path) -> None:
    """Use the invitation, unless its provider is known already. What is said goes to standard error."""
    import sys
    from contextlib import redirect_stdout

    from nconnect.cli.join import enrol, join_another, read_token
    from nconnect.cli.setup import default_identifier
    from nconnect.io.files import config_file, peer_table

    token = read_token([given])
    with redirect_stdout(sys.stderr):
        if not config_file.exists(path):
            welcome, _ = enrol(token, path, default_identifier(), token.seeds, timeout=JOIN_TIMEOUT_S)
            print(f"joined {welcome.provider_name} as {welcome.name}: made {path}")
            return
        peers = peer_table.load(path).config.peers
        if all(peer.address.public_key != token.provider.public_key for peer in peers):
            join_another(token, path, None, JOIN_TIMEOUT_S, as_json=False)


def _run(bound: Sequence[tuple[socket.socket, Owners, Serve, str]], path: Path) -> int:
    """Find who carries the streams, and serve."""
    from nconnect.io.files import config_file, paths

    interface = config_file.interface_of(path)
    try:
        config = config_file.load(path)
    except ConfigError:
        if not _is_here(interface, None):
            if not config_file.exists(path):
                raise ConfigError(
                    f"there is no tunnel and no {path}: give an invitation with --token, or name a"
                    " configuration with -c"
                ) from None
            raise
        config = None  # root's, whose tunnel every user may use
    if _is_here(interface, config):
        from nconnect.streams.kernel import KernelDialler

        return _serve_beside(bound, KernelDialler(interface))
    if paths.is_locked(interface):
        from nconnect.streams.socket_dialler import SocketDialler

        return _serve_beside(bound, SocketDialler(paths.socket_path(interface)))
    assert config is not None
    return _serve_alone(bound, path, config)


def _is_here(interface: str, config: Config | None) -> bool:
    """Whether the tunnel's interface is in this network: with this configuration's addresses, if known."""
    from nconnect.io.system.netlink import Netlink

    with Netlink() as netlink:
        index = next((link.index for link in netlink.links() if link.name == interface and link.up), 0)
        if not index:
            return False
        there = {each.address.ip for each in netlink.addresses(index)}
    return config is None or {address.ip for address in config.address} <= there


def _serve_alone(
    bound: Sequence[tuple[socket.socket, Owners, Serve, str]], path: Path, config: Config
) -> int:
    """Hold the session in this process."""
    from nconnect.io.files.config_source import ConfigSource

    # First: the helper that it forks shares only what is loaded so far.
    with ConfigSource.start(path.absolute(), config.interface) as source:
        from nconnect.daemon import without_tun

        async def serve(dialler: Dialler) -> None:
            await _listen(bound, dialler)

        return without_tun.run(path.absolute(), config, source, serve=serve)


def _serve_official(bound: Sequence[tuple[socket.socket, Owners, Serve, str]], server: OfficialServer) -> int:
    """Use an official server, which is asked first whether it would serve."""
    from nconnect.ncp.settings import STREAM_MTU_BYTES
    from nconnect.nkn import MultiClient
    from nconnect.streams.nconnect_dialler import NconnectDialler

    async def work() -> None:
        async with MultiClient(server.seed, seed_rpc=server.seed_rpc, mtu=STREAM_MTU_BYTES) as client:
            dialler = NconnectDialler(client, server.address, cipher=server.cipher, password=server.password)
            await dialler.check()
            await _listen(bound, dialler, all_names=True)

    return _until_signal(work)


def _serve_beside(bound: Sequence[tuple[socket.socket, Owners, Serve, str]], dialler: Dialler) -> int:
    """Use what another process carries."""
    return _until_signal(lambda: _listen(bound, dialler))


def _until_signal(work: Callable[[], Awaitable[None]]) -> int:
    """Run on a loop of its own; the exit status."""
    import asyncio
    import signal
    from contextlib import suppress

    import uvloop

    from nconnect.io.process.notify import ServiceManager

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        service = ServiceManager()
        service.ready("listening")
        try:
            await work()
        finally:
            service.stopping()
            service.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, suppress(asyncio.CancelledError):
        runner.run(serve())
    return 0


async def _listen(
    bound: Sequence[tuple[socket.socket, Owners, Serve, str]], dialler: Dialler, *, all_names: bool = False
) -> None:
    from nconnect.model import join_addr
    from nconnect.streams.listener import Listeners

    for sock, _, _, text in bound:
        print(f"Listening at {join_addr(*sock.getsockname()[:2])}{text}", flush=True)
    await Listeners(dialler, all_names=all_names).run([(sock, who, serve) for sock, who, serve, _ in bound])


def check_system(command: str) -> None:
    """Raise `HostError` where the command cannot work."""
    import sys

    if not sys.platform.startswith("linux"):
        raise HostError(
            f"`nconnect {command}` needs Linux: on this system there are `nconnect tunnel` and the SDK"
        )
