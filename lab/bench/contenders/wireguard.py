"""wireguard-go, directly connected: Debian's version of 2022, and the current one if Go is installed."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import string
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.bench.bed import PROVIDER_DIRECT, USER_DIRECT, Bed
from lab.bench.contenders.base import LONG, OVER_LINKS, START_TIMEOUT_S, Running
from lab.bench.contenders.built import cache_folder, go_programs
from lab.netns import Namespace, ip
from lab.ping import first_reply
from lab.process import Process, until

GO_MODULE = "golang.zx2c4.com/wireguard"
GO_VERSION = "v0.0.0-20260522210424-ecfc5a8d5446"  # the latest of November 2026
_number = itertools.count()
_LETTERS = string.ascii_lowercase


def device_name(name: str) -> str:
    """Unique on the machine, because all control sockets are in one folder."""
    return f"wg{name[0]}{os.getpid() % 100000}x{name.lstrip(_LETTERS)}"


def start_end(
    program: str,
    namespace: Namespace,
    folder: Path,
    name: str,
    private_key: str,
    peer_key: str,
    tail: int,
    options: str,
) -> Process:
    """Start one end as 10.98.0.`tail` and fd98::`tail`; `options` are those of `wg set … peer`."""
    device = device_name(name)
    environment = {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
    process = Process(namespace, [program, device], folder / f"wireguard-{name}.log", env=environment)
    try:
        until(lambda: _answers(device), "wireguard-go", process=process)
        key = folder / f"{device}.key"
        key.write_text(private_key)
        namespace.must(
            *("wg", "set", device, "private-key", str(key), "listen-port", "51820"),
            *("peer", peer_key, *options.split(), "allowed-ips", "10.98.0.0/24,fd98::/64"),
        )
        ip(f"address add 10.98.0.{tail}/24 dev {device}", netns=namespace.name)
        ip(f"address add fd98::{tail}/64 dev {device} nodad", netns=namespace.name)
        ip(f"link set {device} up", netns=namespace.name)
    except BaseException:
        process.stop()
        raise
    return process


def _answers(device: str) -> bool:
    """Whether its control socket answers; the file may be left of a killed process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(f"/var/run/wireguard/{device}.sock") == 0


class WireguardGo:
    """wireguard-go of Debian."""

    name = "wireguard-go"
    about = "Debian's wireguard-go (2022), direct, without a node"

    def program(self) -> str:
        return "wireguard-go"

    def measures(self, case: str) -> bool:
        return case not in OVER_LINKS | {"volume"}

    def missing(self) -> str | None:
        absent = [name for name in ("wireguard-go", "wg") if shutil.which(name) is None]
        return f"{' and '.join(absent)} not installed (scripts/setup --dev)" if absent else None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        keys = {}
        for end in ("user", "provider"):
            private = bed.user.must("wg", "genkey")
            keys[end] = private, bed.user.must("wg", "pubkey", input_text=private)
        number = next(_number)
        with ExitStack() as undo:
            processes: list[Process] = []
            started = 0.0
            for end, namespace, peer, endpoint, tail in (
                ("provider", bed.provider, "user", USER_DIRECT, 1),
                ("user", bed.user, "provider", PROVIDER_DIRECT, 2),
            ):
                started = time.monotonic()
                process = start_end(
                    *(self.program(), namespace, bed.folder, f"{end}{number}", keys[end][0], keys[peer][1]),
                    *(tail, f"endpoint {endpoint}:51820"),
                )
                undo.callback(process.stop)
                processes.append(process)
            answered = first_reply(bed.user, "10.98.0.1", timeout_s=START_TIMEOUT_S)
            yield Running(
                bed,
                "10.98.0.1",
                "fd98::1",
                tuple(processes),
                answered - started,
                daemons=tuple(processes),
                uplink=(bed.user, "direct0"),
                downlink=(bed.provider, "direct0"),
            )


class CurrentWireguardGo(WireguardGo):
    """The current wireguard-go, built once from its Go module and kept in the cache folder."""

    name = "wireguard-go-new"
    about = "the current wireguard-go, built as a Go module, direct"

    def program(self) -> str:
        return str(cache_folder() / GO_VERSION / "wireguard")

    def measures(self, case: str) -> bool:
        return case not in LONG

    def missing(self) -> str | None:
        if shutil.which("wg") is None:
            return "wg not installed (scripts/setup --dev)"
        return go_programs(cache_folder() / GO_VERSION, {GO_MODULE: GO_VERSION}, GO_MODULE)
