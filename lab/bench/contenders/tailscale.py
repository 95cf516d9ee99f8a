"""Tailscale over its own relay (DERP) and directly: derper, headscale as control server, a TUN.

Nothing is uploaded: logs are off, the map names our relay alone, and no packet leaves the namespaces.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lab.bench.bed import Bed
from lab.bench.contenders.base import START_TIMEOUT_S, TCP_ONLY, Running
from lab.bench.contenders.built import cache_folder, go_programs
from lab.netns import LabError, Namespace
from lab.ping import first_reply
from lab.process import Process, until
from lab.world import NODE_HOST

MODULE, VERSION = "tailscale.com", "v1.102.3"
HEADSCALE_MODULE, HEADSCALE_VERSION = "github.com/juanfont/headscale", "v0.29.2"
PROGRAMS = cache_folder() / f"tailscale-{VERSION}"
HEADSCALE = cache_folder() / f"headscale-{HEADSCALE_VERSION}"
CONTROL_PORT = 8080
DERP_PORT = 443
REGION = 900
PREFIX4, PREFIX6 = "100.64.0.0/10", "fd7a:115c:a1e0::/48"  # the only ones that its clients take
NO_LOGS = {"TS_NO_LOGS_NO_SUPPORT": "true"}
_number = itertools.count()
_CONTROL = """\
server_url: http://{host}:{port}
listen_addr: 0.0.0.0:{port}
metrics_listen_addr: 127.0.0.1:9090
grpc_listen_addr: 127.0.0.1:50443
noise: {{private_key_path: {folder}/noise.key}}
prefixes: {{v4: {prefix4}, v6: "{prefix6}"}}
derp: {{server: {{enabled: false}}, urls: [], paths: [{folder}/derp.yaml], auto_update_enabled: false}}
disable_check_updates: true
database: {{type: sqlite, sqlite: {{path: {folder}/db.sqlite}}}}
unix_socket: {folder}/headscale.sock
dns: {{magic_dns: false, override_local_dns: false, base_domain: bench.internal}}
logtail: {{enabled: false}}
log: {{level: warn}}
"""


def build(*names: str) -> str | None:
    """Build programs of Tailscale; return why not, if so."""
    return go_programs(PROGRAMS, {MODULE: VERSION}, *(f"{MODULE}/cmd/{name}" for name in names))


def start_derper(bed: Bed, folder: Path) -> tuple[Process, dict[str, Any]]:
    """Start the relay with a certificate of its own; return it with its entry of a DERP map."""
    command = [str(PROGRAMS / "derper"), "-a", f":{DERP_PORT}", "-http-port", "-1", "-hostname", NODE_HOST]
    command += ["-certmode", "manual", "-certdir", str(folder), "-c", str(folder / "derper.json")]
    derper = Process(bed.internet, command, folder / "derper.log", env=NO_LOGS)
    try:
        until(lambda: bed.internet.listens(DERP_PORT), "derper", process=derper)
        printed = re.search(r"^ +({.*})$", derper.text(), re.MULTILINE)
        if printed is None:
            raise LabError(f"derper does not tell its certificate:\n{derper.tail()}")
        entry: dict[str, Any] = json.loads(printed[1]) | {"IPv4": NODE_HOST, "IPv6": "none"}
        return derper, entry
    except BaseException:
        derper.stop()
        raise


class Tailscale:
    """`way` is derp or direct."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.name = f"tailscale-{way}"
        self.version = VERSION.removeprefix("v")
        by = "directly" if way == "direct" else "through its relay derper, TLS"
        self.about = f"Tailscale with a TUN, headscale as its control server, {by}"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY - {"start"}

    def missing(self) -> str | None:
        return build("tailscale", "tailscaled", "derper") or go_programs(
            HEADSCALE, {HEADSCALE_MODULE: HEADSCALE_VERSION}, f"{HEADSCALE_MODULE}/cmd/headscale"
        )

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        folder = bed.folder / f"tailscale-{next(_number)}"
        folder.mkdir()
        with ExitStack() as undo:
            if self.way == "derp":
                undo.enter_context(bed.without_cable())
            derper, entry = start_derper(bed, folder)
            undo.callback(derper.stop)
            key = _start_control(bed, undo, folder, entry)
            daemons = [
                _start_end(undo, folder, end, namespace, key)
                for end, namespace in (("provider", bed.provider), ("user", bed.user))
            ]
            host = _cli(bed.provider, folder, "provider", "ip", "-4")
            try:
                first_reply(bed.user, host, timeout_s=START_TIMEOUT_S)
                self._until_way(bed, folder, host)
            except LabError as error:
                logs = "\n".join(process.tail() for process in (derper, *daemons))
                raise LabError(f"{error}\n{logs}") from None
            processes = (derper, *daemons) if self.way == "derp" else tuple(daemons)
            yield Running(bed, host, "", processes, None, daemons=tuple(daemons))
            self._until_way(bed, folder, host)

    def _until_way(self, bed: Bed, folder: Path, host: str) -> None:
        """Wait until packets go by this way."""

        def goes() -> bool:
            first_reply(bed.user, host, timeout_s=START_TIMEOUT_S)
            peers = json.loads(_cli(bed.user, folder, "user", "status", "--json"))["Peer"].values()
            return any(bool(peer["CurAddr"]) == (self.way == "direct") for peer in peers)

        until(goes, f"a path by {self.way}")


def _start_control(bed: Bed, undo: ExitStack, folder: Path, entry: dict[str, Any]) -> str:
    """Start headscale and return a key with which a machine may join."""
    node = {name.lower(): value for name, value in entry.items()}
    region = {"regionid": REGION, "regioncode": "bench", "regionname": "bench", "nodes": [node]}
    (folder / "derp.yaml").write_text(f"regions: {{{REGION}: {json.dumps(region)}}}\n")
    config = folder / "headscale.yaml"
    config.write_text(
        _CONTROL.format(host=NODE_HOST, port=CONTROL_PORT, folder=folder, prefix4=PREFIX4, prefix6=PREFIX6)
    )
    headscale = [str(HEADSCALE / "headscale"), "--config", str(config)]
    control = Process(bed.internet, [*headscale, "serve"], folder / "headscale.log")
    undo.callback(control.stop)
    until(lambda: bed.internet.listens(CONTROL_PORT), "headscale", process=control)
    bed.internet.must(*headscale, "users", "create", "bench")
    made = bed.internet.must(
        *headscale, "preauthkeys", "create", "--user", "1", "--reusable", "--output", "json"
    )
    return str(json.loads(made)["key"])


def _start_end(undo: ExitStack, folder: Path, end: str, namespace: Namespace, key: str) -> Process:
    state = folder / end
    state.mkdir()
    # It writes no file of the machine even if it should want to: the namespace has its own.
    namespace.etc("resolv.conf", "")
    command = [str(PROGRAMS / "tailscaled"), "--no-logs-no-support", "--statedir", str(state)]
    command += ["--socket", str(state / "socket"), "--port", "0"]
    daemon = Process(namespace, command, folder / f"{end}.log", env=NO_LOGS)
    undo.callback(daemon.stop)
    until((state / "socket").exists, "tailscaled", process=daemon)
    options = ("--login-server", f"http://{NODE_HOST}:{CONTROL_PORT}", "--auth-key", key)
    _cli(namespace, folder, end, "up", *options, "--hostname", end, "--accept-dns=false")
    return daemon


def _cli(namespace: Namespace, folder: Path, end: str, *arguments: str) -> str:
    return namespace.must(str(PROGRAMS / "tailscale"), "--socket", str(folder / end / "socket"), *arguments)
