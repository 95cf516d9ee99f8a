"""The configuration in force, and what the daemon's parts take from it and from the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace

from nconnect.config.proxy import Proxies
from nconnect.crypto.aead import CipherSuite, faster_suite
from nconnect.errors import ConfigError
from nconnect.host.offered import provides
from nconnect.invite.table import PeerTable
from nconnect.model import PUBLIC_SEED_RPC, Config
from nconnect.nkn.link import Link
from nconnect.tunnel.constants import REKEY_AFTER_S
from nconnect.tunnel.outputs import Settings
from nconnect.wire.jsonrpc import split_addr
from nconnect.wire.tunnel import Feature

REKEY_VARIABLE = "NCONNECT_REKEY_AFTER_S"


class InForce:
    """What is in force: the one place for it. The parts keep this object, not a `Config`.

    `file`: the table as it was read. `config` has addresses as this device sees them (`offers.accept`).
    """

    def __init__(self, table: PeerTable) -> None:
        self.file = table
        self._table = table

    def put(self, table: PeerTable, file: PeerTable | None = None) -> None:
        """`host_state` alone calls this, once the host is set by it. Without `file` the two are the same."""
        self._table, self.file = table, file or table

    @property
    def config(self) -> Config:
        return self._table.config

    @property
    def left_out(self) -> tuple[str, ...]:
        """Which peers of the file are not in force: sentences for `status`."""
        return self._table.problems


def seeds(config: Config, own_node: str | None) -> tuple[str, ...]:
    """Where to ask for a node: our own, when we run one and no other is configured.

    `own_node` is that one's URL, as it is reached on this machine.
    """
    named = config.network.seed_rpc
    return (own_node,) if own_node is not None and named == PUBLIC_SEED_RPC else named


def stun_servers(config: Config, links: Iterable[Link], proxies: Proxies) -> list[tuple[str, int]]:
    """Host and port of those to ask: the nodes of the links, then what the file names; none past a proxy."""
    nodes = [link.node for link in links if link.node is not None]
    told = [(split_addr(node.addr)[0], port) for node in nodes for port in node.stun_ports]
    return [place for place in (*told, *config.network.stun) if proxies.to(*place) is None]


def completed(table: PeerTable, proxies: Proxies) -> PeerTable:
    """The table with what the file leaves to the daemon: whether direct paths are used.

    Past a proxy nothing is sent unless the file says so: who goes through one may not want to be seen.
    """
    config = table.config
    direct = config.network.direct or ("off" if proxies.proxy is not None else "on")
    return replace(table, config=replace(config, network=replace(config.network, direct=direct)))


def of_tunnel(config: Config, features: Feature) -> Settings:
    """The tunnel's, with what our own TUN takes. Raises `ConfigError` when the environment is wrong."""
    return Settings(
        suite=_suite(config.cipher),
        features=features,
        mtu=config.mtu,
        persistent=not provides(config),
        accept_pending=config.accept_pending,
        direct=config.network.direct or "on",
        rekey_after_s=_rekey_after_s(),
    )


def _suite(cipher: str) -> CipherSuite:
    return faster_suite(time.perf_counter) if cipher == "auto" else CipherSuite(cipher)


def _rekey_after_s() -> float:
    """A seam for tests: keys may be renewed earlier than the protocol asks for, never later."""
    word = os.environ.get(REKEY_VARIABLE, "")
    try:
        seconds = float(word) if word else REKEY_AFTER_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= REKEY_AFTER_S:
        raise ConfigError(f"{REKEY_VARIABLE} is {word!r}: take seconds up to {REKEY_AFTER_S:g}, or unset it")
    return seconds
