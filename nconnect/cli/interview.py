"""What `init` asks at a terminal, and what it finds: networks, and servers if it is told to search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nconnect.errors import UsageError

if TYPE_CHECKING:
    from nconnect.doctor.inference import Server

Ask = Callable[[str, str], str]  # question and default -> answer
Say = Callable[[str], object]

ROLES = ("user", "provider")
ADDRESS_OF = {"provider": "10.86.0.1/24", "user": "10.86.0.2/24"}
# Interfaces without a network of the provider's own to offer.
_NOT_OURS = re.compile(
    r"lo|nc\d+|docker\d*|br-.*|veth.*|virbr\d*|tun\d*|tap\d*|wg\d*|tailscale\d*|cni.*|flannel.*"
)
_TRIES = 3


@dataclass(slots=True)
class Answers:
    """What was given by options, and what the interview adds."""

    role: str | None = None
    address: list[str] = field(default_factory=list)
    provide: list[str] = field(default_factory=list)
    service: list[str] = field(default_factory=list)
    expose: list[str] = field(default_factory=list)
    scan: bool = False

    @property
    def offers(self) -> bool:
        return bool(self.provide or self.service or self.expose)


@dataclass(frozen=True, slots=True)
class Found:
    """The servers found by a search: on this machine (and whether on loopback only), and in the subnets."""

    here: tuple[tuple[Server, bool], ...] = ()  # server, listens on loopback only
    there: tuple[Server, ...] = ()
    passed_over: tuple[str, ...] = ()  # subnets too large to be searched


def interview(
    answers: Answers,
    *,
    ask: Ask,
    say: Say,
    networks: Callable[[], Sequence[tuple[str, str]]],
    look: Callable[[Sequence[str]], Found],
) -> None:
    """Ask for what options did not say. `networks` returns (prefix, interface), `look` searches prefixes."""
    if answers.role is None:
        answers.role = "provider" if answers.offers else _role(ask)
    if not answers.address:
        answers.address = [_address(ask, ADDRESS_OF[answers.role])]
    if answers.role == "provider" and not answers.offers:
        for prefix, interface in networks():
            if _yes(ask, f"offer the network {prefix} ({interface}) to your peers?", False):
                answers.provide.append(prefix)
        if not answers.scan:
            where = "this machine and the networks above" if answers.provide else "this machine"
            answers.scan = _yes(ask, f"look for inference servers on {where}?", False)
    if answers.scan:
        add_found(answers, look(answers.provide), say, lambda text: _yes(ask, text, True))


def add_found(answers: Answers, found: Found, say: Say, agree: Callable[[str], bool]) -> None:
    """Say what was found, and offer servers on this machine if `agree` says so."""
    from nconnect.model import join_addr

    for server in found.there:
        say(f"found {_named(server)}: reachable by its own address once its network is offered")
    for prefix in found.passed_over:
        say(f"{prefix} has too many addresses to search each: not searched")
    for server, loopback in found.here:
        entry = join_addr(server.host, server.port) if loopback else f"{server.port}/tcp"
        wanted = answers.expose if loopback else answers.service
        say(f"found {_named(server)}{', on loopback only' if loopback else ''}")
        if entry not in wanted and agree(
            f"offer it to your peers ({'expose' if loopback else 'service'} {entry})?"
        ):
            wanted.append(entry)
    if not found.here and not found.there:
        say("no inference server was found")


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
            host = str(addresses[0]) if not any_address else "127.0.0.1"
            server = await inference.probe(host, port)
            if server is not None:
                here.append((server, loopback))
        return Found(tuple(here), tuple(await inference.scan(hosts)), tuple(passed))

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


def _role(ask: Ask) -> str:
    for _ in range(_TRIES):
        answer = ask(
            "does this device provide something, or use what somebody else provides? (provider/user)", "user"
        )
        matching = [role for role in ROLES if role.startswith(answer.lower())]
        if len(matching) == 1:
            return matching[0]
    raise UsageError("the answer was neither provider nor user: give --role")


def _address(ask: Ask, default: str) -> str:
    from nconnect.config.values import parse_addresses
    from nconnect.errors import ConfigError

    problem = ""
    for _ in range(_TRIES):
        answer = ask(f"{problem}this device's address in the tunnel?", default)
        try:
            parse_addresses([answer])
        except ConfigError as error:
            problem = f"{error}\n"
        else:
            return answer
    raise UsageError(f"{problem.strip()} (or give --address)")


def _yes(ask: Ask, question: str, default: bool) -> bool:
    return ask(f"{question} (y/n)", "y" if default else "n").lower() in ("y", "yes")


def _named(server: Server) -> str:
    from nconnect.model import join_addr

    models: Iterable[str] = server.models[:3]
    return f"{server.name} at {join_addr(server.host, server.port)}" + (
        f" ({', '.join(models)})" if server.models else ""
    )
