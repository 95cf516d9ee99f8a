"""Accounts for the addresses that clients come from: what each of them uses. Pure.

A **source** is an IPv4 address or an IPv6 /64 (`limit_key`). It exists while it has a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from nconnect.node.egress import Account, Pool
from nconnect.queueing.rate_limiter import limit_key
from nconnect.queueing.turns import Share, Turns

if TYPE_CHECKING:
    from nconnect.node.connection import Connection


class Source:
    """One source."""

    __slots__ = ("challenged", "connections", "key", "number", "share", "waiting")

    def __init__(self, key: str, number: int, share: Share, waiting: Account) -> None:
        self.key = key
        self.number = number  # its flow in every client's queue
        self.share = share  # of the loop's turns
        self.waiting = waiting  # the bytes that wait for its clients to read
        self.connections: dict[int, Connection] = {}
        self.challenged: dict[int, Connection] = {}  # its connections without login, oldest first


class Sources:
    """All sources of a node."""

    def __init__(self, turns: Turns, pool: Pool) -> None:
        self.challenged = 0  # of all sources
        self._turns = turns
        self._pool = pool
        self._by_key: dict[str, Source] = {}
        self._numbers = count(1)

    def __iter__(self) -> Iterator[Source]:
        return iter(self._by_key.values())

    def get(self, key: str) -> Source | None:
        return self._by_key.get(key)

    def of(self, remote_host: str) -> Source:
        """The source of this host, created if it is new. If it is new, only `add` may follow."""
        key = limit_key(remote_host)
        source = self._by_key.get(key)
        if source is None:
            source = Source(key, next(self._numbers), self._turns.share(), Account(self._pool))
        return source

    def add(self, connection: Connection) -> None:
        """Note a connection that was challenged."""
        source = connection.source
        self._by_key[source.key] = source
        source.connections[connection.number] = connection
        source.challenged[connection.number] = connection
        self.challenged += 1

    def logged_in(self, connection: Connection) -> None:
        """Note that a connection has logged in, or is gone."""
        if connection.source.challenged.pop(connection.number, None) is not None:
            self.challenged -= 1

    def remove(self, connection: Connection) -> None:
        """It is gone."""
        self.logged_in(connection)
        source = connection.source
        del source.connections[connection.number]
        if not source.connections:
            del self._by_key[source.key]
