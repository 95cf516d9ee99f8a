"""`nconnect join TOKEN`: makes a new device's identity and configuration from an invitation."""

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

    from nconnect.invite.token import Token
    from nconnect.invite.welcome import Welcome
    from nconnect.io.files.state import StateStore
    from nconnect.model import AcceptRoutes, Prefix

DRAFT = "joining"  # in the state folder: the identity of an application that has not been granted yet


def join(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOKEN]", help="What `nconnect invite` printed; - reads it from stdin. [default: asks]"
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

    This makes the device's identity and configuration; `nconnect up` then starts the tunnel.
    """
    import asyncio
    import os

    from nconnect.cli.output import DIRECT_NOTE, print_json
    from nconnect.cli.setup import default_identifier
    from nconnect.config import values
    from nconnect.config.accept_routes import parse_accept_routes, told
    from nconnect.config.proxy import of_setting
    from nconnect.crypto.keys import Identity
    from nconnect.io.files import config_file, paths
    from nconnect.io.files.state import StateStore
    from nconnect.io.net.proxy_search import hint
    from nconnect.io.nkn import join
    from nconnect.io.nkn.join import NoNode
    from nconnect.model import PUBLIC_SEED_RPC, NknAddress, Proxy

    invitation = _token(words or [])
    path = chosen(ctx, config)
    interface = interface_at(path)
    checks = Checks()
    name = default_identifier() if identifier is None else identifier
    checks.one("--identifier", name, values.check_identifier)
    seeds = checks.many("--seed-rpc", seed_rpc, values.parse_seed_rpc) or invitation.seeds
    setting = read_proxy(checks, proxy)
    accept = checks.one("--accept-routes", accept_routes or "private", parse_accept_routes) or "private"
    checks.finish()
    _check_free(path, force)
    if paths.is_locked(interface):
        raise ConfigError(f"{interface} is up with the old identity: stop it first with `nconnect down`")
    proxies = of_setting(setting, os.environ)
    store = StateStore.of(interface)
    before = store.load(DRAFT)
    seed, name = _identity(store, invitation, name)
    own = Identity(seed)
    if own.public_key == invitation.provider.public_key:
        raise ConfigError("this device made this invitation: use it on another device")

    def apply(accepted: AcceptRoutes) -> Welcome:
        return asyncio.run(
            join.apply(
                invitation,
                own,
                NknAddress(name, own.public_key),
                seeds or PUBLIC_SEED_RPC,
                timeout_s=timeout,
                proxies=proxies,
                say=_say,
                accept=accepted,
            )
        )

    try:
        welcome = _within(accept, apply)
    except NoNode as error:
        if store.load(DRAFT) != before:
            # Nobody has seen this identity. The next try makes another one, for which the network names
            # another node, in case this one's node cannot be reached.
            store.remove(DRAFT)
        unused = "" if proxies.proxy is not None or proxy == "none" else hint()
        raise NetworkError(f"{error}{unused}") from error
    text = _configuration(
        invitation, seed, name, seeds, proxy, welcome, None if accept_routes is None else told(accept)
    )
    made = config_file.check(path, text)
    config_file.create(path, text, force=force)
    store.remove(DRAFT)
    if as_json:
        print_json(
            {
                "interface": interface,
                "config": str(path),
                "name": welcome.name,
                "peer": welcome.provider_name,
                "address": list(welcome.addresses),
                "allowed_ips": list(welcome.allowed_ips),
            }
        )
        return
    option = "" if path == config_file.default_path() else f" -c {path}"
    print(f"joined {welcome.provider_name} as {welcome.name}: made {path}, interface {interface}")
    print(f"this device is {', '.join(welcome.addresses)} and reaches {', '.join(welcome.allowed_ips)}")
    if not isinstance(made.network.proxy, Proxy):
        print(DIRECT_NOTE)
    print("next:")
    print(f"  sudo nconnect{option} up")


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
    at_home = _out_of_own_networks((*offered, *(a.network for a in parse_addresses(welcome.addresses))))
    if accept == "private" and at_home:  # for example the address of a printer in the next room
        _ask(at_home, offered, unwritten, why="is a part of the network that this machine is in")
    return welcome


def _out_of_own_networks(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The prefixes that are part of a wider network that this machine is in now."""
    from nconnect.io.system.netlink import Netlink
    from nconnect.model import within

    try:
        with Netlink() as netlink:
            networks = {held.address.network for held in netlink.addresses()}
    except OSError:
        return ()  # without netlink, no route can be set either
    found = (p for p in prefixes if any(p != network and within(p, network) for network in networks))
    return tuple(dict.fromkeys(found))


def _ask(
    others: tuple[Prefix, ...],
    offered: tuple[Prefix, ...],
    otherwise: str,
    *,
    why: str = "--accept-routes does not say",
) -> None:
    """Ask whether prefixes that are not accepted may be routed; raise `NetworkError` if not."""
    import sys

    named = ", ".join(map(str, others))
    why = f"the provider wants to have {named} routed to it, which {why}"
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


def _token(words: Sequence[str]) -> Token:
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


def _check_free(path: Path, force: bool) -> None:
    """Before the token is used, refuse to overwrite an existing file."""
    from nconnect.io.files.config_file import exists

    if not force and exists(path):
        raise ConfigError(
            f"{path} exists already: choose another file, such as -c {path.with_name('nc1.toml')},"
            " or overwrite it with --force (the old identity is lost)"
        )


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


def _configuration(
    token: Token,
    seed: bytes,
    identifier: str,
    seeds: tuple[str, ...],
    proxy: str | None,
    welcome: Welcome,
    accept_routes: str | list[str] | None,
) -> str:
    from nconnect.config.edit import add_peer, new_file

    text = new_file(
        seed=seed,
        identifier=identifier,
        address=welcome.addresses,
        seed_rpc=seeds,
        proxy=proxy,
        accept_routes=accept_routes,
    )
    return add_peer(
        text,
        name=welcome.provider_name,
        address=str(token.provider),
        allowed_ips=welcome.allowed_ips,
        preshared_key=welcome.preshared_key.hex(),
    )
