"""Running `nft`: transactions in its JSON, and what it says is there (libnftables-json(5))."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

from nconnect.errors import HostError
from nconnect.host.ruleset import FAMILY, Json
from nconnect.io.errors import reason

_TIMEOUT_S = 20.0  # guessed: a thousand peers take a second on a slow machine
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def run(transactions: Iterable[list[Json]]) -> None:
    """Apply each transaction; the first that is refused raises `HostError`, and has changed nothing."""
    for commands in transactions:
        _nft(["-j", "-f", "-"], json.dumps({"nftables": commands}))


def tables() -> dict[str, int]:
    """The tables of our family, and their handles: a table made anew has a new one."""
    listed = _list(["list", "tables", FAMILY])
    return {entry["table"]["name"]: entry["table"]["handle"] for entry in listed if "table" in entry}


def contents(table: str) -> list[Json] | None:
    """Everything in a table, or None when there is no such table."""
    try:
        return _list(["list", "table", FAMILY, table])
    except HostError:
        if table not in tables():
            return None
        raise


def ruleset() -> list[Json]:
    """Everything of all tables, other programs' too."""
    return _list(["list", "ruleset"])


def counters(table: str) -> dict[str, int]:
    """The packets that each named counter of a table has seen; none when there is no such table."""
    if table not in tables():
        return {}
    listed = _list(["list", "counters", "table", FAMILY, table])
    return {
        entry["counter"]["name"]: entry["counter"]["packets"]
        for entry in listed
        if "counter" in entry and entry["counter"]["table"] == table
    }


def _list(arguments: list[str]) -> list[Json]:
    answer: dict[str, Any] = json.loads(_nft(["-j", *arguments], ""))
    listed: list[Json] = answer["nftables"]
    return listed


def _nft(arguments: list[str], text: str) -> str:
    program = shutil.which("nft") or shutil.which("nft", path=_PATH)
    if program is None:
        raise HostError("nft is not installed: apt-get install nftables")
    try:
        done = subprocess.run(
            [program, *arguments], input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"nft did not answer within {_TIMEOUT_S:.0f} s: try `nft list tables`") from None
    except OSError as error:
        raise HostError(f"nft cannot be run: {reason(error)}") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        hint = " (run as root)" if "not permitted" in done.stderr else ""
        raise HostError(f"nft refused the rules: {said[0]}{hint}")
    return done.stdout
