"""The one table of peers: those of the configuration's file, and those that came by invitation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nconnect.errors import ConfigError, HostError, NconnectError
from nconnect.invite.book import Book
from nconnect.invite.table import PeerTable, table_of
from nconnect.io.files import config_file
from nconnect.io.files.invitations import InvitationStore
from nconnect.model import Config

_NOT_SHOWN = "peers that came by invitation are not known here: {}"


def load(path: Path) -> PeerTable:
    """The file at `path`, with the peers of its interface's invitations. Raises `ConfigError`.

    Where those cannot be read, the table says so and has the file's peers.
    """
    return of(config_file.load(path))


def of(config: Config, read: Callable[[], Book] | None = None) -> PeerTable:
    """The table of a checked configuration; `read` gives the book, in place of the interface's store."""
    from nconnect.crypto.keys import Identity

    try:
        book = (read or InvitationStore.of(config.interface).read)()
    except (ConfigError, HostError) as error:
        return PeerTable(config, {}, (_NOT_SHOWN.format(_one_line(error)),))
    return table_of(config, book, own_key=Identity(config.seed).public_key)


def _one_line(error: NconnectError) -> str:
    return " ".join(str(error).split())
