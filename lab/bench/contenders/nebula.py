"""nebula (Debian's package), user and provider directly connected, with a throw-away authority."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.bench.bed import PROVIDER_DIRECT, Bed
from lab.bench.contenders.base import LONG, START_TIMEOUT_S, Running
from lab.netns import Namespace
from lab.ping import first_reply
from lab.process import Process

PROVIDER, USER = "10.95.0.1", "10.95.0.2"
_number = itertools.count()
_CONFIG = """\
pki: {{ca: {folder}/ca.crt, cert: {folder}/{end}.crt, key: {folder}/{end}.key}}
static_host_map: {{{static}}}
lighthouse: {{am_lighthouse: {lighthouse}, interval: 60, hosts: [{hosts}]}}
listen: {{host: 0.0.0.0, port: {port}, batch: 64}}
punchy: {{punch: false}}
tun: {{dev: {device}, mtu: 1420, tx_queue: 500}}
logging: {{level: warning, format: text}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


def make_certificates(namespace: Namespace, folder: Path) -> None:
    """A throw-away authority, and a certificate for each end."""
    ca = ("-out-crt", f"{folder}/ca.crt", "-out-key", f"{folder}/ca.key")
    namespace.must("nebula-cert", "ca", "-name", "bench", *ca)
    for end, address in (("provider", PROVIDER), ("user", USER)):
        namespace.must(
            *("nebula-cert", "sign", "-name", end, "-ip", f"{address}/24"),
            *("-ca-crt", f"{folder}/ca.crt", "-ca-key", f"{folder}/ca.key"),
            *("-out-crt", f"{folder}/{end}.crt", "-out-key", f"{folder}/{end}.key"),
        )


def device_name(end: str) -> str:
    return f"neb{end[0]}{os.getpid() % 100000}"


def start_end(namespace: Namespace, folder: Path, end: str, provider_host: str) -> Process:
    """Start one end, after `make_certificates`; the provider is the lighthouse."""
    is_provider = end == "provider"
    config = folder / f"{end}.yml"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            end=end,
            static="" if is_provider else f'"{PROVIDER}": ["{provider_host}:4242"]',
            lighthouse=str(is_provider).lower(),
            hosts="" if is_provider else f'"{PROVIDER}"',
            port=4242 if is_provider else 0,
            device=device_name(end),
        )
    )
    return Process(namespace, ["nebula", "-config", str(config)], folder / f"{end}.log")


class Nebula:
    name = "nebula"
    about = "Debian's nebula, direct"

    def measures(self, case: str) -> bool:
        return case not in LONG | {"tcp6-up"}  # this version carries IPv4 only

    def missing(self) -> str | None:
        absent = [name for name in ("nebula", "nebula-cert") if shutil.which(name) is None]
        return f"{' and '.join(absent)} not installed (scripts/setup --dev)" if absent else None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        number = next(_number)
        folder = bed.folder / f"nebula-{number}"
        folder.mkdir()
        make_certificates(bed.user, folder)
        with ExitStack() as undo:
            processes = []
            started = 0.0
            for end, namespace in (("provider", bed.provider), ("user", bed.user)):
                started = time.monotonic()
                process = start_end(namespace, folder, end, PROVIDER_DIRECT)
                undo.callback(process.stop)
                processes.append(process)
            answered = first_reply(bed.user, PROVIDER, timeout_s=START_TIMEOUT_S)
            yield Running(bed, PROVIDER, "", tuple(processes), answered - started, daemons=tuple(processes))
