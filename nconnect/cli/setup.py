"""`nconnect init`: a new identity and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nconnect.cli.options import (
    Checks,
    ConfigOption,
    ProxyOption,
    Values,
    YesOption,
    chosen,
    confirm,
    interface_at,
    read_proxy,
)

if TYPE_CHECKING:
    from nconnect.cli.interview import Answers
    from nconnect.model import NknAddress


def init(
    ctx: typer.Context,
    address: Annotated[
        Values,
        typer.Option(
            metavar="IP/LEN", help="This device's address in the tunnel. [default: draws a network]"
        ),
    ] = None,
    identifier: Annotated[
        str | None, typer.Option(help="The first part of the NKN address. [default: the host's name]")
    ] = None,
    provide: Annotated[
        Values, typer.Option(metavar="PREFIX[=SEEN]", help="A subnet to offer to peers: 192.168.50.0/24.")
    ] = None,
    service: Annotated[
        Values, typer.Option(metavar="PORT/PROTO", help="A port of this machine to offer: 8000/tcp.")
    ] = None,
    expose: Annotated[
        Values, typer.Option(metavar="HOST:PORT", help="A loopback server to offer: 127.0.0.1:11434.")
    ] = None,
    seed_rpc: Annotated[
        Values, typer.Option(metavar="URL", help="A node's RPC. [default: the public network's seeds]")
    ] = None,
    proxy: ProxyOption = None,
    role: Annotated[
        str | None,
        typer.Option("--role", metavar="user|provider", help="Which side this is. [default: asks]"),
    ] = None,
    scan: Annotated[
        bool,
        typer.Option("--scan", help="Look for inference servers here and in the subnets, and offer them."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file; the old identity is lost.")
    ] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Make this device's identity and configuration.

    In a terminal it asks for what options do not say; an invitation that is pasted there is joined. It
    searches only with --scan, or if an answer says so.
    """
    import os

    from nconnect.cli import interview
    from nconnect.cli.join import join
    from nconnect.cli.output import DIRECT_NOTE
    from nconnect.config import values
    from nconnect.config.edit import new_file
    from nconnect.io.files import config_file
    from nconnect.model import Proxy

    path = chosen(ctx, config)
    interface_at(path)
    interview.check_role(role)
    ask = interview.at_terminal() and not yes
    if ask and not any((address, provide, service, expose, role, scan)):
        token = interview.invitation(interview.ask_terminal)
        if token is not None:
            join(ctx, [token], identifier, seed_rpc, proxy, force=force, config=config)
            return
    if not force:
        config_file.refuse_existing(path)
    elif config_file.exists(path):
        confirm(f"overwrite {path}, and lose the identity in it?", yes)
    answers = interview.Answers(
        role=role,
        address=list(address or ()),
        provide=list(provide or ()),
        service=list(service or ()),
        expose=list(expose or ()),
        seed_rpc=list(seed_rpc or ()),
        scan=scan,
    )
    _complete(answers, ask=ask)
    address, provide, service, expose = answers.address, answers.provide, answers.service, answers.expose
    seed_rpc = answers.seed_rpc
    checks = Checks()
    name = default_identifier() if identifier is None else identifier
    checks.one("--identifier", name, values.check_identifier)
    read_proxy(checks, proxy)
    lists = {
        "address": checks.many("--address", address, lambda text: values.parse_addresses([text])),
        "provide": checks.many("--provide", provide, values.parse_subnet),
        "services": checks.many("--service", service, values.parse_service),
        "expose": checks.many("--expose", expose, values.parse_expose),
        "seed_rpc": checks.many("--seed-rpc", seed_rpc, values.parse_seed_rpc),
    }
    checks.finish()
    text = new_file(seed=os.urandom(32), identifier=name, proxy=proxy, servers=answers.server, **lists)
    made = config_file.check(path, text)
    config_file.create(path, text, force=force)
    print(f"made {path}, interface {made.interface}")
    own = str(own_nkn_address(made.seed, made.identifier))
    if proxy is None:
        _tell_of_proxies(path)
    if not isinstance(made.network.proxy, Proxy):
        print(DIRECT_NOTE)
    _print_next_steps(path, own, lists["address"], lists["provide"], offers=answers.offers)


def _tell_of_proxies(path: Path) -> None:
    """Say which proxies are set on this machine, and whether `up` will use one."""
    import os

    from nconnect.config.proxy import of_environment
    from nconnect.errors import ConfigError
    from nconnect.io.net.proxy_search import elsewhere

    try:
        ours = of_environment(os.environ)
    except ConfigError as error:
        print(f"note: {error}")
        return
    if ours.proxy is not None:
        print(f"{ours.source} is used when it is set at `nconnect up`: the proxy {ours.proxy}")
        return
    for found in elsewhere()[:1]:
        print(f"a proxy {found.proxy} is set {found.where}; if it is the only way out, {found.mend(path)}")


def _complete(answers: Answers, *, ask: bool) -> None:
    """Complete the answers: by asking, or if there is no terminal, from the role and the search."""
    from nconnect.cli import interview
    from nconnect.config.values import parse_subnet, split_commas

    for name in ("address", "provide", "service", "expose"):
        setattr(answers, name, list(split_commas(getattr(answers, name))))
    if answers.scan:  # then they are used before everything is checked
        checks = Checks()
        checks.many("--provide", answers.provide, parse_subnet)
        checks.finish()
    if ask and not answers.address:
        interview.interview(
            answers,
            ask=interview.ask_terminal,
            say=print,
            networks=interview.local_networks,
            look=interview.search,
        )
    elif answers.scan:
        interview.add_found(answers, interview.search(answers.provide), print)
    answers.address = answers.address or interview.drawn_addresses()


def default_identifier() -> str:
    """The host's name, without characters that an NKN address cannot contain."""
    import re
    import socket

    name = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0]).strip("-")
    return name[:63] if name and not re.fullmatch(r"__\d+__", name) else "nconnect"


def own_nkn_address(seed: bytes, identifier: str) -> NknAddress:
    """The NKN address of a seed."""
    from nconnect.crypto.keys import Identity
    from nconnect.model import NknAddress

    return NknAddress(identifier, Identity(seed).public_key)


def _print_next_steps(
    path: Path, address: str, own: tuple[str, ...], provide: tuple[str, ...], *, offers: bool
) -> None:
    """Print what to run now: first the usual way, with invitations, then the one with keys by hand."""
    from ipaddress import ip_interface

    from nconnect.io.files.config_file import default_path

    option = "" if path == default_path() else f" -c {path}"
    hosts = [f"{i.ip}/{i.ip.max_prefixlen}" for i in map(ip_interface, own)]
    seen = [subnet.rpartition("=")[2] for subnet in provide]
    name = address.rpartition(".")[0].replace(".", "-") or "provider"
    print("next:")
    print(f"  sudo nconnect{option} up -d")
    if offers:
        print(f"  sudo nconnect{option} invite NAME...    (prints what each friend has to run)")
    print("or without an invitation, on the other side and then here:")
    print(f"  nconnect peer add {name} {address} --allowed-ips {','.join([*hosts, *seen])}")
    theirs = "IP/32" if offers else "IP/32,SUBNET"
    print(f"  nconnect{option} peer add NAME ADDRESS --allowed-ips {theirs}")
