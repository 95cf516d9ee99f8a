"""Several nodes as one, over a NATS server, and sides whose links are spread over them."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Sequence

from lab.netns import LabError, Namespace
from lab.sides import RPC_PORT, Side

NATS_PORT = 4222
MAX_TRIES = 1000


def nats_server() -> str | None:
    """The server's program, where it is installed (`scripts/setup --dev`)."""
    return shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def node_of(asker: Namespace, asked: str, address: str) -> str:
    """The host of the node that the node at `asked` names for an address."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "getwsaddr", "params": {"address": address}}
    request = urllib.request.Request(
        f"http://{asked}:{RPC_PORT}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )

    def ask() -> str:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(json.load(answer)["result"]["addr"]).rpartition(":")[0]

    return asker.enter(ask)


def know_one_another(asker: Namespace, hosts: Sequence[str]) -> bool:
    """Whether each node names every other for some addresses."""
    addresses = [f"x{n}.{'ab' * 32}" for n in range(8 * len(hosts))]
    try:
        named = [{node_of(asker, host, address) for address in addresses} for host in hosts]
    except OSError:
        return False
    return all(found == set(hosts) for found in named)


def place(
    asker: Namespace,
    asked: str,
    side: Side,
    other: Side,
    links: int,
    suits: Callable[[tuple[str, ...]], bool],
) -> None:
    """Give a side an identifier for which its links have nodes on the wanted hosts; tell the other."""
    identifier, _, key = side.address().rpartition(".")
    for number in range(MAX_TRIES):
        fresh = f"{identifier}{number}"
        addresses = [f"__{k}__.{fresh}.{key}" if k else f"{fresh}.{key}" for k in range(links)]
        if suits(tuple(node_of(asker, asked, address) for address in addresses)):
            break
    else:
        raise LabError(f"no identifier of {side.name} has its links where they are wanted")
    for config in (side.config, other.config):
        text = config.read_text().replace(f"{identifier}.{key}", f"{fresh}.{key}")
        config.write_text(text.replace(f'identifier = "{identifier}"', f'identifier = "{fresh}"'))


def use_links(side: Side, links: int, hosts: Sequence[str]) -> None:
    """Configure a side for so many links, and these nodes as its seeds."""
    seeds = ", ".join(f'"http://{host}:{RPC_PORT}"' for host in hosts)
    lines = [line for line in side.config.read_text().splitlines() if "seed_rpc" not in line]
    at = lines.index("[network]") if "[network]" in lines else len(lines)
    lines[at : at + 1] = ["[network]", f"links = {links}", f"seed_rpc = [{seeds}]"]
    side.config.write_text("\n".join(lines) + "\n")


def links_up(side: Side) -> list[str]:
    """The hosts of the nodes of a side's links that are up."""
    return [link["node"].rpartition(":")[0] for link in side.status()["links"] if link["state"] == "up"]
