"""Running `nft`: transactions in its JSON, and what it says is there (libnftables-json(5))."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable

from nconnect.errors import HostError
from nconnect.host.ruleset import FAMILY, Json
from nconnect.io.errors import reason
from nconnect.io.system.netlink_socket import ACK, NETFILTER, NetlinkSocket, attribute, read_attributes

NO_NFT = "the program nft is missing: install it with `apt install nftables` (in a container: into its image)"
# linux/netfilter/nf_tables.h, and nfgenmsg of linux/netfilter/nfnetlink.h: family, version, resource.
_NFT_GETGEN, _NFT_GETTABLE = 10 << 8 | 16, 10 << 8 | 1
_NFTA_TABLE_NAME, _NFTA_TABLE_HANDLE, _NFPROTO_INET = 1, 4, 1
_NFGENMSG = struct.Struct("=BBH")
# What nft says of an expression, a chain type or a family that the kernel does not have.
_PART_MISSING = ("No such file or directory", "Operation not supported", "not supported by protocol")
_TIMEOUT_S = 20.0  # guessed: a thousand peers take a second on a slow machine
MAX_RULESET_BYTES = 4_000_000  # parsed in 30 ms, in which the daemon does nothing else
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def run(transactions: Iterable[list[Json]]) -> None:
    """Apply each transaction; the first that is refused raises `HostError`, and has changed nothing."""
    for commands in transactions:
        _nft(["-j", "-f", "-"], json.dumps({"nftables": commands}))


def tables() -> dict[str, int]:
    """The tables of our family, and their handles: a table made anew has a new one."""
    listed = _list(["list", "tables", FAMILY])
    return {entry["table"]["name"]: entry["table"]["handle"] for entry in listed if "table" in entry}


def handle(table: str) -> int | None:
    """The handle of a table of our family; None when there is none.

    The kernel is asked: to list tables, nft reads every rule of the machine, 0.1 s where there are 10,000.
    """
    named = attribute(_NFTA_TABLE_NAME, table.encode() + b"\0")
    try:
        with NetlinkSocket(NETFILTER) as kernel:
            kernel.send((_NFT_GETTABLE, ACK, _NFGENMSG.pack(_NFPROTO_INET, 0, 0) + named))
            (_, answer), *_ = kernel.answers()
    except OSError as error:
        return None if error.errno == errno.ENOENT else tables().get(table)  # nft says what is wrong
    found = dict(read_attributes(answer[_NFGENMSG.size :])).get(_NFTA_TABLE_HANDLE, b"")
    return int.from_bytes(found, "big")


def contents(table: str) -> list[Json] | None:
    """Everything in a table, or None when there is no such table."""
    try:
        return _list(["list", "table", FAMILY, table])
    except HostError:
        if handle(table) is None:
            return None
        raise


def ruleset() -> list[Json]:
    """Everything of all tables, other programs' too; without the elements of sets where there is very much.

    Raises `HostError` also when there is too much to be read beside a running tunnel.
    """
    for options in ([], ["-t"]):
        said = _nft(["-j", *options, "list", "ruleset"], "")
        if len(said) <= MAX_RULESET_BYTES:
            return _listed(said)
    raise HostError("the firewall has too many rules for nconnect to look at")


def text(arguments: list[str]) -> str:
    """What nft prints, for a person."""
    return _nft(arguments, "")


def counters(table: str) -> dict[str, int]:
    """The packets that each named counter of a table has seen; none when there is no such table."""
    if handle(table) is None:
        return {}
    listed = _list(["list", "counters", "table", FAMILY, table])
    return {
        entry["counter"]["name"]: entry["counter"]["packets"]
        for entry in listed
        if "counter" in entry and entry["counter"]["table"] == table
    }


def kernel_problem() -> str:
    """Why this kernel takes no rules, whatever the program `nft` does, and what to do; "" when it does.

    It is asked for the generation of its rules (NFT_MSG_GETGEN, linux/netfilter/nf_tables.h).
    """
    try:
        with NetlinkSocket(NETFILTER) as kernel:
            kernel.socket.settimeout(_TIMEOUT_S)
            kernel.send((_NFT_GETGEN, 0, bytes(4)))  # nfgenmsg: any family, version 0
            next(kernel.answers(), None)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return (
                "the kernel refuses access to nf_tables: run as root; in a container with --cap-add"
                " NET_ADMIN, and with a seccomp profile that allows AF_NETLINK sockets"
            )
        if error.errno:
            return (
                f"this kernel has no nf_tables ({os.strerror(error.errno).lower()}), which the firewall's"
                " rules need: load it with `modprobe nf_tables` (for a container: on its host), or boot a"
                " kernel with CONFIG_NF_TABLES"
            )
    return ""


def _list(arguments: list[str]) -> list[Json]:
    return _listed(_nft(["-j", *arguments], ""))


def _listed(said: str) -> list[Json]:
    listed: list[Json] = json.loads(said)["nftables"]
    return listed


def _nft(arguments: list[str], text: str) -> str:
    program = shutil.which("nft") or shutil.which("nft", path=PATH)
    if program is None:
        raise HostError(NO_NFT)
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
        why = kernel_problem()
        if why:
            raise HostError(why)
        hint = " (run as root)" if "not permitted" in done.stderr else ""
        if any(words in done.stderr for words in _PART_MISSING):
            modules = "nft_ct nft_nat nft_masq nft_reject_inet"
            hint = f" (this kernel's nf_tables lacks a part: `modprobe -a {modules}`)"
        raise HostError(f"nft refused the rules: {said[0]}{hint}")
    return done.stdout
