"""What peers have used, by hour and by day (UTC), in an SQLite file of the state folder. Everything blocks.

    hours, days  one row for each peer (NKN address) and period, numbered since the Unix epoch
    peers        its name, and when it was last here

A commit is in the system's hands when `add` returns: killing the process loses nothing of it, losing power
the last seconds (write-ahead log, synchronous = NORMAL).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nconnect.errors import HostError
from nconnect.io.files.trusted import Folder

log = logging.getLogger(__name__)

NAME = "usage.db"
HOUR_S, DAY_S = 3600, 86_400
KEPT_HOURS, KEPT_DAYS = 24 * 62, 800
_BUSY_S = 5.0  # another program reads or copies the file
_TABLES = """
CREATE TABLE IF NOT EXISTS {0}(
    peer TEXT NOT NULL, at INTEGER NOT NULL, rx INTEGER NOT NULL, tx INTEGER NOT NULL,
    flows INTEGER NOT NULL, connected_s REAL NOT NULL, PRIMARY KEY (peer, at)
) WITHOUT ROWID;
"""
_PEERS = """
CREATE TABLE IF NOT EXISTS peers(peer TEXT PRIMARY KEY, name TEXT NOT NULL, seen_at REAL) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO {0} VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (peer, at) DO UPDATE SET
    rx = rx + excluded.rx, tx = tx + excluded.tx, flows = flows + excluded.flows,
    connected_s = connected_s + excluded.connected_s
"""
_SEE = """
INSERT INTO peers VALUES (?, ?, ?) ON CONFLICT (peer) DO UPDATE SET
    name = excluded.name, seen_at = coalesce(excluded.seen_at, seen_at)
"""


@dataclass(slots=True)
class Used:
    """Of inner packets, in one period."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    flows: int = 0  # connections opened, either way
    connected_s: float = 0.0

    def add(self, other: Used) -> None:
        self.rx_bytes += other.rx_bytes
        self.tx_bytes += other.tx_bytes
        self.flows += other.flows
        self.connected_s += other.connected_s


@dataclass(frozen=True, slots=True)
class UsedIn:
    """One peer's row: `at` is when the period begins, seconds since the Unix epoch."""

    peer: str
    at: int
    used: Used


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A peer that was here, or is configured: when it was last here, None for never."""

    peer: str
    name: str
    seen_at: float | None


class UsageStore:
    """One interface's. Calls may come from any thread; one at a time is served."""

    def __init__(self, folder: Path) -> None:
        self.problem = ""  # a sentence for `status`
        self._folder = folder
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def add(self, hours: Iterable[UsedIn], peers: Iterable[KnownPeer]) -> None:
        """Add what was used in hours (`at` is the hour's). Raises `HostError`, and then nothing is added."""
        with self._lock:
            try:
                with self._open() as connection:
                    for table, period_s in (("hours", HOUR_S), ("days", DAY_S)):
                        connection.executemany(
                            _ADD.format(table),
                            [
                                (e.peer, e.at // period_s, e.used.rx_bytes, e.used.tx_bytes, e.used.flows,
                                 e.used.connected_s)
                                for e in hours
                            ],
                        )  # fmt: skip
                    connection.executemany(_SEE, [(p.peer, p.name, p.seen_at) for p in peers])
            except (sqlite3.Error, OSError) as error:
                raise self._failed("written", error) from None
            self.problem = ""

    def hours(self, since: float) -> list[UsedIn]:
        """In order of time. Raises `HostError`."""
        return self._rows("hours", HOUR_S, since)

    def days(self, since: float) -> list[UsedIn]:
        """In order of time. Raises `HostError`."""
        return self._rows("days", DAY_S, since)

    def peers(self) -> list[KnownPeer]:
        """Raises `HostError`."""
        with self._lock:
            try:
                rows = self._open().execute("SELECT peer, name, seen_at FROM peers ORDER BY name").fetchall()
                return [KnownPeer(str(peer), str(name), seen_at) for peer, name, seen_at in rows]
            except (sqlite3.Error, OSError) as error:
                raise self._failed("read", error) from None

    def prune(self, now: float) -> None:
        """Forget hours after two months, days after two years. Raises `HostError`."""
        with self._lock:
            try:
                with self._open() as connection:
                    connection.execute("DELETE FROM hours WHERE at < ?", (int(now) // HOUR_S - KEPT_HOURS,))
                    connection.execute("DELETE FROM days WHERE at < ?", (int(now) // DAY_S - KEPT_DAYS,))
                    connection.execute(
                        "DELETE FROM peers WHERE seen_at < ? AND peer NOT IN (SELECT peer FROM days)",
                        (now - KEPT_DAYS * DAY_S,),
                    )
            except (sqlite3.Error, OSError) as error:
                raise self._failed("written", error) from None

    def close(self) -> None:
        """May be called twice; the next call opens the file again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _rows(self, table: str, period_s: int, since: float) -> list[UsedIn]:
        query = f"SELECT peer, at, rx, tx, flows, connected_s FROM {table} WHERE at >= ? ORDER BY at, peer"
        with self._lock:
            try:
                rows = self._open().execute(query, (int(since) // period_s,)).fetchall()
                return [
                    UsedIn(str(peer), int(at) * period_s, Used(int(rx), int(tx), int(flows), float(seconds)))
                    for peer, at, rx, tx, flows, seconds in rows
                ]
            except (sqlite3.Error, OSError, ValueError, TypeError) as error:
                raise self._failed("read", error) from None

    def _open(self) -> sqlite3.Connection:
        """The file, made 0600 where there is none. One that is damaged is kept aside."""
        if self._connection is not None:
            return self._connection
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, not readable
                raise
            self._put_aside()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        with Folder.open(self._folder) as folder:
            os.close(folder.open_file(NAME, os.O_RDWR | os.O_CREAT))  # refuses a link
        connection = sqlite3.connect(self._folder / NAME, timeout=_BUSY_S, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            for table in ("hours", "days"):
                connection.executescript(_TABLES.format(table))
            connection.executescript(_PEERS)
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("damaged")
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self) -> None:
        with Folder.open(self._folder) as folder:
            for suffix in ("-wal", "-shm"):
                folder.remove(NAME + suffix)
            folder.rename(NAME, NAME + ".corrupt")
        problem = (
            f"{self._folder / NAME} was damaged: usage is counted anew, and it is kept as {NAME}.corrupt"
        )
        log.warning("%s", problem)

    def _failed(self, what: str, error: Exception) -> HostError:
        """An open file may have been removed or damaged meanwhile: it is opened again the next time."""
        self._close()
        self.problem = (
            f"{self._folder / NAME} cannot be {what}: {error}: make room, or the folder writable; until then"
            " what peers use is kept in memory alone"
        )
        return HostError(f"{self._folder / NAME} cannot be {what}: {error}")


def stored_in(folder: Path) -> UsageStore | None:
    """The store of an interface that is not up, for who may use its folder; None when there is none."""
    with Folder.open(folder) as opened:
        return UsageStore(folder) if opened.status(NAME) is not None else None
