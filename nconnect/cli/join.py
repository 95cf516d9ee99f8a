"""`nconnect join TOKEN`: an invitation becomes a provider of this device.

The first provider makes this device's identity and configuration. Another one is added to them, and to the
running daemon: with the interface's own key, in its own network, and with nothing of the others changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nconnect.cli.options import (
    Checks,
    ConfigOption,
    JsonOption,
    ProxyOption,
    chosen,
    interface_at,
    read_proxy,
)
from nconnect.errors import ConfigError, NetworkError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Literal

    from nconnect.config.proxy import Proxies
    from nconnect.crypto.keys import Identity
    from nconnect.invite.table import PeerTable
    from nconnect.invite.token import Token
    from nconnect.invite.welcome import Welcome
    from nconnect.io.files.state import StateStore
    from nconnect.model import AcceptRoutes, Config, NknAddress, PeerConfig, Prefix, Proxy

SUB_CLIENT = 63  # from which a device applies whose tunnel is up; its links have the lower numbers
DRAFT = "joining"  # in the state folder: the identity of an application that has not been granted yet


def join(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOKEN", help="What `nconnect invite` printed; - reads it from stdin. [default: asks]"
        ),
    ] = None,
    identifier: Annotated[
        str | None, typer.Option(help="The first part of the NKN address. [default: the host's name]")
    ] = None,
    seed_rpc: Annotated[
        list[str] | None,
        typer.Option("--seed-rpc", metavar="URL", help="Another seed of the provider's network."),
    ] = None,
    proxy: ProxyOption = None,
    accept_routes: Annotated[
        str | None,
        typer.Option(
            "--accept-routes",
            metavar="private|none|all|PREFIX,…",
            help="Which of the provider's subnets to route without asking. [default: private]",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=1, max=3600, help="Give up after S seconds.")
    ] = 20.0,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file; the old identity is lost.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Join a provider, with a token of its `nconnect invite`.

    The first one makes the device's identity and configuration; `nconnect up` then starts the tunnel. Others
    are added to it, while it runs too; -c with another file makes another interface.
    """
    from nconnect.cli.setup import default_identifier
    from nconnect.config import values
    from nconnect.config.accept_routes import parse_accept_routes
    from nconnect.io.files import config_file, paths

    invitation = read_token(words or [])
    path = chosen(ctx, config, to_make=True)
    interface = interface_at(path)
    if not force and config_file.exists(path):
        if identifier is not None or seed_rpc or proxy is not None:
            raise UsageError(
                f"--identifier, --seed-rpc and --proxy are for a new interface, and {path} has one already:"
                f" leave them out, or add -c {path.with_name('nc1.toml')}"
            )
        checks = Checks()
        accept = checks.one("--accept-routes", accept_routes, parse_accept_routes)
        checks.finish()
        join_another(invitation, path, accept, timeout, as_json=as_json)
        return
    checks = Checks()
    name = default_identifier() if identifier is None else identifier
    checks.one("--identifier", name, values.check_identifier)
    seeds = checks.many("--seed-rpc", seed_rpc, values.parse_seed_rpc) or invitation.seeds
    setting = read_proxy(checks, proxy)
    accept = checks.one("--accept-routes", accept_routes, parse_accept_routes)
    checks.finish()
    if paths.is_locked(interface):
        raise ConfigError(f"{interface} is up with the old identity: stop it first with `nconnect down`")
    _join_first(invitation, path, name, seeds, proxy, setting, accept, timeout, force=force, as_json=as_json)


def _join_first(
    invitation: Token,
    path: Path,
    name: str,
    seeds: tuple[str, ...],
    proxy: str | None,
    setting: Proxy | Literal["none"] | None,
    accept: AcceptRoutes | None,
    timeout: float,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Make an interface with this provider."""
    from nconnect.cli.output import DIRECT_NOTE
    from nconnect.io.files import config_file
    from nconnect.model import Proxy

    interface = config_file.interface_of(path)
    welcome, made = enrol(
        invitation, path, name, seeds, proxy, setting, accept=accept, timeout=timeout, force=force
    )
    if as_json:
        _print_json(interface, path, welcome, welcome.provider_name)
        return
    option = "" if path == config_file.default_path() else f" -c {path}"
    print(f"joined {welcome.provider_name} as {welcome.name}: made {path}, interface {interface}")
    _say_what_it_is(welcome)
    if not isinstance(made.network.proxy, Proxy):
        print(DIRECT_NOTE)
    _print_next_steps(option, is_up=False)


def enrol(
    invitation: Token,
    path: Path,
    name: str,
    seeds: tuple[str, ...],
    proxy: str | None = None,
    setting: Proxy | Literal["none"] | None = None,
    *,
    accept: AcceptRoutes | None = None,
    timeout: float,
    force: bool = False,
) -> tuple[Welcome, Config]:
    """Apply, and write the configuration of a new interface; what was granted, and what was written.

    `name`: the identifier. `proxy` is what was given, `setting` what it means.
    """
    import os

    from nconnect.config.accept_routes import told
    from nconnect.config.edit import new_file
    from nconnect.config.proxy import of_setting
    from nconnect.crypto.keys import Identity
    from nconnect.io.files import config_file
    from nconnect.io.files.state import StateStore
    from nconnect.io.net.proxy_search import hint
    from nconnect.io.nkn.join import NoNode
    from nconnect.model import PUBLIC_SEED_RPC, NknAddress

    interface = config_file.interface_of(path)
    proxies = of_setting(setting, os.environ)
    store = StateStore.of(interface)
    before = store.load(DRAFT)
    seed, name = _identity(store, invitation, name)
    own = Identity(seed)
    if own.public_key == invitation.provider.public_key:
        raise ConfigError("this device made this invitation: use it on another device")

    address = NknAddress(name, own.public_key)
    try:
        welcome = _within(
            accept or "private",
            _applying(invitation, own, address, seeds or PUBLIC_SEED_RPC, timeout, proxies),
        )
    except NoNode as error:
        if store.load(DRAFT) != before:
            # Nobody has seen this identity. The next try makes another one, for which the network names
            # another node, in case this one's node cannot be reached.
            store.remove(DRAFT)
        unused = "" if proxies.proxy is not None or proxy == "none" else hint()
        raise NetworkError(f"{error}{unused}") from error
    text = new_file(
        seed=seed,
        identifier=name,
        address=(),
        seed_rpc=seeds,
        proxy=proxy,
        accept_routes=None if accept is None else told(accept),
    )
    text = _with_reader(_with_provider(text, invitation, welcome, None))
    made = config_file.check(path, text)
    config_file.create(path, text, force=force)
    store.remove(DRAFT)
    return welcome, made


def join_another(
    invitation: Token, path: Path, accept: AcceptRoutes | None, timeout: float, *, as_json: bool
) -> None:
    """Add this provider to the interface that there is. All is checked before the invitation is used."""
    import os

    from nconnect.cli.change import change_file
    from nconnect.config.proxy import of_config
    from nconnect.control.client import ControlClient, NotRunning
    from nconnect.crypto.keys import Identity
    from nconnect.errors import ControlError
    from nconnect.io.files import config_file, peer_table
    from nconnect.model import NknAddress

    table = peer_table.load(path)
    config = table.config
    own = Identity(config.seed)
    _refuse_known(invitation, own.public_key, config.peers)
    before = config_file.read(path)
    config_file.check(path, _with_provider(before, invitation, _placeholder(), accept, taken=_names(table)))
    address = NknAddress(config.identifier, own.public_key)
    try:
        ControlClient(config.interface).reload()  # what it would refuse afterwards, it refuses now
        address = address.sub_client(SUB_CLIENT)
    except NotRunning:
        pass
    except ControlError as error:
        raise ControlError(f"{error}; nothing was joined, and the invitation is still valid") from None
    proxies = of_config(config, os.environ)
    setting = accept or config.accept_routes
    try:
        welcome = _within(
            setting, _applying(invitation, own, address, config.network.seed_rpc, timeout, proxies)
        )
    except NetworkError as error:
        elsewhere = set(invitation.seeds) - set(config.network.seed_rpc)
        if elsewhere and invitation.seeds and not set(invitation.seeds) & set(config.network.seed_rpc):
            raise NetworkError(
                f"{error}; its network has other seeds than {path} ({', '.join(sorted(elsewhere))}), and an"
                f" interface is in one network: join with another one, -c {path.with_name('nc1.toml')}"
            ) from error
        raise
    name = _free_name(welcome.provider_name, _names(table))
    outcome = change_file(
        path,
        lambda text: _with_reader(_with_provider(text, invitation, welcome, accept, taken=_names(table))),
    )
    if as_json:
        _print_json(config.interface, path, welcome, name)
        return
    print(f"joined {name} as {welcome.name}, on {config.interface}: {outcome.value}")
    _say_what_it_is(welcome)
    option = "" if path == config_file.default_path() else f" -c {path}"
    try:
        peers = ControlClient(config.interface).status().peers
    except ControlError:
        _print_next_steps(option, is_up=False)
        return
    for pair in (pair for peer in peers if peer.name == name for pair in peer.mapped):
        print(f"its {pair.real} is {pair.seen} here: this device has these addresses already")
    _print_next_steps(option, is_up=True)


def _print_next_steps(option: str, *, is_up: bool) -> None:
    """What to run now. `option`: how commands name the file, where it is not the usual one."""
    from nconnect.io.files import paths

    print("next:")
    if not is_up:
        print(f"  {'sudo ' if paths.IS_ROOTS else ''}nconnect{option} up -d")
    print(f"  nconnect{option} offers    (its servers, and what they are called here)")


def _applying(
    invitation: Token,
    own: Identity,
    address: NknAddress,
    seeds: tuple[str, ...],
    timeout: float,
    proxies: Proxies,
) -> Callable[[AcceptRoutes], Welcome]:
    """A function that applies, accepting some routes."""
    import asyncio

    from nconnect.io.nkn import join

    return lambda accepted: asyncio.run(
        join.apply(
            invitation, own, address, seeds, timeout_s=timeout, proxies=proxies, say=_say, accept=accepted
        )
    )


def _refuse_known(invitation: Token, own: bytes, peers: Iterable[PeerConfig]) -> None:
    """Raise `ConfigError` if the invitation is this device's own, or that of a provider that it has."""
    key = invitation.provider.public_key
    if key == own:
        raise ConfigError("this device made this invitation: use it on another device")
    for peer in peers:
        if peer.address.public_key == key:
            raise ConfigError(
                f"the provider of this invitation is {peer.name}, which this device has already: to join it"
                f" anew, leave it first with `nconnect leave {peer.name}`"
            )


def _names(table: PeerTable) -> set[str]:
    return {peer.name for peer in table.config.peers}


def _free_name(name: str, taken: Iterable[str]) -> str:
    """The provider's own name for itself, with a number if another peer has it."""
    from nconnect.config.values import MAX_PEER_NAME

    used, number, free = set(taken), 1, name
    while free in used:
        number += 1
        free = f"{name[: MAX_PEER_NAME - len(f'-{number}')]}-{number}"
    return free


def _say_what_it_is(welcome: Welcome) -> None:
    """The device's addresses, and what it may reach: less than what is routed, if the provider says so."""
    print(f"this device is {', '.join(welcome.addresses)}")
    reach = welcome.allowed_ips if welcome.allow is None else welcome.allow
    print(f"it may reach {', '.join(reach) or 'nothing yet'}")


def _placeholder() -> Welcome:
    """A welcome for trying out whether the file can be edited."""
    from nconnect.invite.welcome import Welcome

    return Welcome("device", "provider", ("10.0.0.2/32",), ("10.0.0.1/32",), bytes(32))


def _print_json(interface: str, path: Path, welcome: Welcome, name: str) -> None:
    from nconnect.cli.output import print_json

    print_json(
        {
            "interface": interface,
            "config": str(path),
            "name": welcome.name,
            "peer": name,
            "address": list(welcome.addresses),
            "allowed_ips": list(welcome.allowed_ips),
        }
    )


def _within(accept: AcceptRoutes, apply: Callable[[AcceptRoutes], Welcome]) -> Welcome:
    """The welcome, with only those routes that are accepted, or that a person accepts now."""
    from nconnect.config.accept_routes import not_accepted
    from nconnect.config.private import is_private_prefix
    from nconnect.config.values import parse_addresses, parse_prefixes
    from nconnect.invite.applicant import RoutesNotAccepted

    unspent = "nothing was joined, and the invitation is still valid"
    try:
        welcome = apply(accept)
    except RoutesNotAccepted as refused:
        offered = parse_prefixes(refused.offered)
        others = not_accepted(accept, offered, ())
        # The provider's tunnel address, which is accepted without asking, may be among them.
        subnets = (
            tuple(p for p in others if p.prefixlen < p.max_prefixlen or not is_private_prefix(p)) or others
        )
        _ask(subnets, offered, unspent)
        accept = (*(p for p in offered if p not in others), *subnets)
        try:
            welcome = apply(accept)
        except RoutesNotAccepted as again:
            raise NetworkError(f"{again}, which is another offer than before: {unspent}") from None
    offered = parse_prefixes(welcome.allowed_ips)
    others = not_accepted(accept, offered, parse_addresses(welcome.addresses))
    unwritten = "no file was written; this device may apply again"
    if others:  # an older provider, or one that offered less than it grants
        _ask(others, offered, unwritten)
    return welcome


def _ask(
    others: tuple[Prefix, ...],
    offered: tuple[Prefix, ...],
    otherwise: str,
) -> None:
    """Ask whether prefixes that are not accepted may be routed; raise `NetworkError` if not."""
    import sys

    named = ", ".join(map(str, others))
    why = f"the provider wants to have {named} routed to it, which --accept-routes does not say"
    option = f"--accept-routes {','.join(map(str, offered))}"
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise NetworkError(f"{why}: {otherwise}; if you want that, repeat with {option} (or all)")
    print(f"nconnect: {why}. What this device sends there goes to the provider.", file=sys.stderr)
    print("Route them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise NetworkError(f"the answer was not yes: {otherwise}")


def _say(why: str) -> None:
    """Say what a person at this machine must do while we keep trying."""
    import sys

    print(f"nconnect: {why}; trying again", file=sys.stderr, flush=True)


def read_token(words: Sequence[str]) -> Token:
    """The token of the command line, of standard input ("-"), or of the terminal.

    It may contain blanks and line breaks, as copies of a long line do. It is removed from the process list,
    where others could see it.
    """
    import sys

    from nconnect.invite.token import MAX_CHARS, Token
    from nconnect.io.process.process import hide_argument

    if words and list(words) != ["-"]:
        for word in words:
            hide_argument(word)
        return Token.parse(" ".join(words))
    if not sys.stdin.isatty():
        text = sys.stdin.read(2 * MAX_CHARS) if words else ""
        if not text.strip():
            raise UsageError(
                "the token is missing: give what `nconnect invite` printed, or - and it on stdin"
            )
        return Token.parse(text)
    print("paste the token (nc1-…), then Enter: ", end="", file=sys.stderr, flush=True)
    text = ""
    while True:
        text += (line := sys.stdin.readline())
        try:
            return Token.parse(text)
        except ConfigError:
            if not line.strip() or not text.lstrip().startswith("nc1-"):  # else a line may be missing
                raise


def _identity(store: StateStore, token: Token, identifier: str) -> tuple[bytes, str]:
    """Seed and identifier. An application without an answer is repeated with the same ones, because the
    provider may have admitted that identity.
    """
    import os

    draft = store.load(DRAFT)
    if isinstance(draft, dict) and draft.get("token_id") == token.token_id.hex():
        try:
            seed = bytes.fromhex(draft["seed"])
            if len(seed) == 32 and isinstance(draft["identifier"], str):
                return seed, draft["identifier"]
        except (KeyError, TypeError, ValueError):
            pass
    seed = os.urandom(32)
    store.save(DRAFT, {"token_id": token.token_id.hex(), "seed": seed.hex(), "identifier": identifier})
    return seed, identifier


def _with_reader(text: str) -> str:
    """The file with who called sudo among those who may read offers and usage; the same for root itself."""
    import os
    import pwd

    from nconnect.config.edit import add_reader
    from nconnect.config.servers import check_reader

    try:
        uid = int(os.environ.get("SUDO_UID", "0"))
        user = check_reader(pwd.getpwuid(uid).pw_name)
    except (ConfigError, KeyError, ValueError, OverflowError):
        return text
    return add_reader(text, user) if os.geteuid() == 0 and uid else text


def _with_provider(
    text: str,
    token: Token,
    welcome: Welcome,
    accept_routes: AcceptRoutes | None,
    *,
    taken: Iterable[str] = (),
) -> str:
    """The file's text with the provider. What it brings is in its section alone: leaving takes it all."""
    from nconnect.config.accept_routes import told
    from nconnect.config.edit import add_peer

    return add_peer(
        text,
        name=_free_name(welcome.provider_name, taken),
        address=str(token.provider),
        allowed_ips=welcome.allowed_ips,
        preshared_key=welcome.preshared_key.hex(),
        local_address=welcome.addresses,
        accept_routes=None if accept_routes is None else told(accept_routes),
    )
