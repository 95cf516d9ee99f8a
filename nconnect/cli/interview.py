"""What `init` asks at a terminal, and what it finds: networks, and servers if it is told to search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nconnect.errors import UsageError

if TYPE_CHECKING:
    from nconnect.doctor.inference import Server
    from nconnect.model import ProvidedServer

Ask = Callable[[str, str], str]  # question and default -> answer
Say = Callable[[str], object]

ROLES = ("user", "provider")
# Interfaces without a network of the provider's own to offer.
_NOT_OURS = re.compile(
    r"lo|nc\d+|docker\d*|br-.*|veth.*|virbr\d*|tun\d*|tap\d*|wg\d*|tailscale\d*|cni.*|flannel.*"
)
_TRIES = 3

INVITATION = (
    "Did somebody invite you? Paste the invitation (it begins with nc1-),\nor press Enter if you have none."
)
NODE = "Which node? Press Enter for the public network, or give the URL of a node that\nyou or a friend runs."
PUBLIC = "public"
NOTHING = (
    "Nothing is offered yet: `nconnect provide server add` offers a server, and\n"
    "`nconnect provide add` a subnet."
)
JOIN_LATER = (
    "To use what somebody else offers, ask for an invitation (`nconnect invite NAME` on\n"
    "the other side), and run `sudo nconnect join`."
)


@dataclass(slots=True)
class Answers:
    """What was given by options, and what the interview adds."""

    role: str | None = None
    address: list[str] = field(default_factory=list)
    provide: list[str] = field(default_factory=list)
    service: list[str] = field(default_factory=list)
    expose: list[str] = field(default_factory=list)
    server: list[ProvidedServer] = field(default_factory=list)
    seed_rpc: list[str] = field(default_factory=list)
    scan: bool = False

    @property
    def offers(self) -> bool:
        return bool(self.provide or self.service or self.expose or self.server)


@dataclass(frozen=True, slots=True)
class Found:
    """The servers found by a search: on this machine (and whether on loopback only), and in the subnets."""

    here: tuple[tuple[Server, bool], ...] = ()  # server, listens on loopback only
    there: tuple[Server, ...] = ()
    passed_over: tuple[str, ...] = ()  # subnets too large to be searched


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that may be offered: one of a server with a name, a port of this machine, and a subnet."""

    text: str
    server: ProvidedServer | None = None
    service: str = ""
    provide: str = ""
    is_default: bool = False


def invitation(ask: Ask) -> str | None:
    """The first question: the text of an invitation's token, if the person has one."""
    answer = ask(INVITATION, "none")
    if answer.lower() in ("y", "yes"):
        answer = ask("Paste it:", "none")
    return None if answer.lower() in ("none", "n", "no") else answer


def interview(
    answers: Answers,
    *,
    ask: Ask,
    say: Say,
    networks: Callable[[], Sequence[tuple[str, str]]],
    look: Callable[[Sequence[str]], Found],
) -> None:
    """Ask for what options did not say. `networks` returns (prefix, interface), `look` searches prefixes."""
    if not answers.seed_rpc:
        answers.seed_rpc = _node(ask)
    if answers.scan:
        add_found(answers, look(answers.provide), say)
    elif answers.role != "user" and not answers.offers:
        _look_and_choose(answers, networks(), ask, say, look)
    if answers.role is None:
        answers.role = "provider" if answers.offers else "user"


def _look_and_choose(
    answers: Answers,
    networks: Sequence[tuple[str, str]],
    ask: Ask,
    say: Say,
    look: Callable[[Sequence[str]], Found],
) -> None:
    where = "".join(f",\nand in {prefix} ({interface})" for prefix, interface in networks)
    question = f"Look for subnets and inference servers to offer? It searches this machine{where} (y/n)"
    if ask(question, "y").lower() not in ("y", "yes"):
        say(f"{NOTHING}\n{JOIN_LATER}")
        return
    found = look([prefix for prefix, _ in networks])
    choices = [*server_choices(found), *subnet_choices(networks, found)]
    for text in not_reached(found):
        say(text)
    if not choices:
        say(f"No inference server and no subnet was found.\n{NOTHING}\n{JOIN_LATER}")
        return
    say("found:")
    for number, choice in enumerate(choices, 1):
        say(f"  {number}  {choice.text}")
    chosen = _choose(ask, choices)
    _offer(answers, chosen)
    if not chosen:
        say(NOTHING)


def add_found(answers: Answers, found: Found, say: Say) -> None:
    """Without a person to ask: offer each server that was found, and say what was found.

    Those in subnets are in ones that are offered already.
    """
    choices = server_choices(found)
    for choice in choices:
        say(f"found {choice.text}")
    _offer(answers, choices)
    for text in not_reached(found):
        say(text)
    for prefix in found.passed_over:
        say(f"{prefix} was not searched: it has too many addresses")
    if not found.here and not found.there:
        say("no inference server was found")


def server_choices(found: Found) -> list[Choice]:
    """The servers, each by a name of its own; usually those of this machine are offered.

    One that listens on a single address of this machine, not loopback, is offered as a port.
    """
    from ipaddress import ip_address

    from nconnect.config import servers
    from nconnect.doctor.inference import server_label
    from nconnect.model import join_addr

    choices = []
    taken: set[str] = set()
    for server, is_here in [*((s, True) for s, _ in found.here), *((s, False) for s in found.there)]:
        is_loopback = ip_address(server.host).is_loopback
        if is_here and not is_loopback:
            port = f"{server.port}/tcp"
            choices.append(Choice(f"{_named(server)}, port {port} here", service=port, is_default=True))
            continue
        if (is_loopback and ":" in server.host) or len(taken) == servers.MAX_SERVERS:
            continue
        name = server_label(server.name, taken)
        taken.add(name)
        provided = servers.parse_server(name, f"http://{join_addr(server.host, server.port)}")
        choices.append(Choice(f"{_named(server)}, as {name}", server=provided, is_default=is_here))
    return choices


def not_reached(found: Found) -> list[str]:
    """A sentence for each server that cannot be offered as it listens."""
    return [
        f"{_named(server)} listens on ::1 alone, where no peer can reach it: let it listen on 127.0.0.1"
        for server, _ in found.here
        if server.host == "::1"
    ]


def subnet_choices(networks: Sequence[tuple[str, str]], found: Found) -> list[Choice]:
    """The subnets. None is offered unless a person says so."""
    return [
        Choice(
            f"all of the subnet {prefix} ({interface})"
            + (", too large to search" if prefix in found.passed_over else ""),
            provide=prefix,
        )
        for prefix, interface in networks
    ]


def _offer(answers: Answers, choices: Sequence[Choice]) -> None:
    """Add them to the answers; a server in no subnet that is offered brings its own address as one."""
    from ipaddress import ip_network

    for into in ("provide", "service"):
        wanted = getattr(answers, into)
        wanted += [entry for c in choices if (entry := getattr(c, into)) and entry not in wanted]
    for server in (choice.server for choice in choices if choice.server is not None):
        offered = [ip_network(prefix.partition("=")[0]) for prefix in answers.provide]
        if not server.is_local and not any(server.host in prefix for prefix in offered):
            answers.provide.append(f"{server.host}/{server.host.max_prefixlen}")
        answers.server.append(server)


def check_role(role: str | None) -> None:
    if role is not None and role not in ROLES:
        raise UsageError(f"--role: {role!r} is unknown, write user or provider")


def is_own_network(interface: str) -> bool:
    """Whether an interface's network may be the person's own network."""
    return not _NOT_OURS.fullmatch(interface)


def local_networks() -> list[tuple[str, str]]:
    """This machine's networks, without those of containers and other tunnels."""
    from nconnect.io.system.netlink import Netlink

    with Netlink() as netlink:
        names = {link.index: link.name for link in netlink.links() if link.up}
        held = netlink.addresses()
    found: dict[str, str] = {}
    for each in held:
        name, network = names.get(each.index, ""), each.address.network
        usable = not (network.is_link_local or network.is_loopback) and network.num_addresses > 1
        if name and usable and is_own_network(name):
            found.setdefault(str(network), name)
    return list(found.items())


def drawn_addresses() -> list[str]:
    """Addresses in random networks that this machine is not in, nor has a route to."""
    import os

    from nconnect.config.draw import tunnel_addresses
    from nconnect.io.system.netlink import Netlink

    with Netlink() as netlink:
        taken = [held.address.network for held in netlink.addresses()]
        taken += [route.prefix for route in netlink.routes({})]
    return list(tunnel_addresses(os.urandom, taken))


def search(prefixes: Sequence[str]) -> Found:
    """Search this machine's own ports and each host of the prefixes, by connecting to them."""
    import asyncio
    from ipaddress import ip_network

    from nconnect.io.http import inference
    from nconnect.io.system.netlink import Netlink

    passed = [p for p in prefixes if ip_network(p.partition("=")[0]).num_addresses > inference.MAX_HOSTS]
    listening = inference.listening()
    with Netlink() as netlink:
        own = {str(each.address.ip) for each in netlink.addresses()}
    hosts = [
        str(host)
        for p in prefixes
        if p not in passed
        for host in ip_network(p.partition("=")[0]).hosts()
        if str(host) not in own
    ]

    async def main() -> Found:
        here = []
        for port, addresses in sorted(listening.items()):
            loopback = all(address.is_loopback for address in addresses)
            any_address = any(address.is_unspecified for address in addresses)
            first = min(addresses, key=lambda address: (not address.is_loopback, address.version))
            host = str(first) if not any_address else "127.0.0.1"
            server = await inference.probe(host, port)
            if server is not None:
                here.append((server, loopback))
        with _progress() as step:
            there = await inference.scan(hosts, step=step)
        return Found(tuple(here), tuple(there), tuple(passed))

    return asyncio.run(main())


def at_terminal() -> bool:
    """Whether a person can be asked."""
    import sys

    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_terminal(question: str, default: str) -> str:
    """Read one line from the terminal; Ctrl-D means Ctrl-C."""
    try:
        return input(f"{question} [{default}] ").strip() or default
    except EOFError:
        raise KeyboardInterrupt from None


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A line on the terminal that says how far a search is; nothing elsewhere."""
    from nconnect.cli.output import can_move

    shown = ""

    def step(done: int, of: int) -> None:
        nonlocal shown
        text = f"searching: {100 * done // of} %"
        if text != shown:
            shown = text
            print(f"\r{text}", end="", flush=True)

    if not can_move():
        yield lambda done, of: None
        return
    try:
        yield step
    finally:
        print("\r\x1b[K", end="", flush=True)


def _node(ask: Ask) -> list[str]:
    from nconnect.config.values import parse_seed_rpc
    from nconnect.errors import ConfigError

    problem = ""
    for _ in range(_TRIES):
        answer = ask(f"{problem}{NODE}", PUBLIC)
        if answer == PUBLIC:
            return []
        try:
            return [parse_seed_rpc(answer)]
        except ConfigError as error:
            problem = f"{error}\n"
    raise UsageError(f"{problem.strip()} (or give --seed-rpc)")


def _choose(ask: Ask, choices: Sequence[Choice]) -> list[Choice]:
    """Those that the person names by their numbers."""
    usual = ",".join(str(n) for n, choice in enumerate(choices, 1) if choice.is_default) or "none"
    problem = ""
    for _ in range(_TRIES):
        answer = ask(f"{problem}Offer which? (numbers such as 1,2, or all, or none)", usual).lower()
        if answer in ("all", "none"):
            return list(choices) if answer == "all" else []
        words = re.split(r"[,\s]+", answer.strip(" ,"))
        if all(word.isdecimal() and 1 <= int(word) <= len(choices) for word in words):
            return [choice for n, choice in enumerate(choices, 1) if str(n) in words]
        problem = f"{answer!r} is not understood.\n"
    raise UsageError("the answer was no list of numbers: give --provide, --service or --expose")


def _named(server: Server) -> str:
    from nconnect.model import join_addr

    more = f" and {len(server.models) - 3} more" if len(server.models) > 3 else ""
    models = f" ({', '.join(server.models[:3])}{more})" if server.models else ""
    return f"{server.name} at {join_addr(server.host, server.port)}{models}"
