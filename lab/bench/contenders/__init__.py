"""The tunnels that are measured: how each starts on a bed, the provider's address in it, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.bench.bed import PROVIDER_DIRECT, PROVIDER_DIRECT6, Bed
from lab.bench.contenders.base import LONG, Contender, Running
from lab.bench.contenders.links import NODES, Links
from lab.bench.contenders.nconnect import SIGNED, Nconnect, NconnectDirect, NconnectOverTls
from lab.bench.contenders.nebula import Nebula
from lab.bench.contenders.official import BareMessages, NconnectOverNknd, NknTunnel
from lab.bench.contenders.sdk import SdkSession
from lab.bench.contenders.sshuttle import Sshuttle
from lab.bench.contenders.wireguard import CurrentWireguardGo, WireguardGo

__all__ = ["BASELINE", "CONTENDERS", "QUICK", "Contender", "Running"]


class Raw:
    name = "veth"
    about = "the cable itself, no tunnel"

    def measures(self, case: str) -> bool:
        return case not in LONG

    def missing(self) -> str | None:
        return None

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        yield Running(bed, PROVIDER_DIRECT, PROVIDER_DIRECT6, (), None)


CONTENDERS: tuple[Contender, ...] = (
    Raw(),
    WireguardGo(),
    CurrentWireguardGo(),
    Nconnect("aes256gcm", "nconnect", all_cases=True),
    Nconnect("aes256gcm", "nconnect-signed", SIGNED),
    Nconnect("chacha20poly1305", "nconnect-chacha20"),
    Nconnect("chacha20poly1305", "nconnect-chacha20-signed", SIGNED),
    NconnectOverTls(),
    NconnectDirect("udp"),
    NconnectDirect("tcp"),
    Nebula(),
    Sshuttle(),
    SdkSession(),
    NconnectOverNknd(),
    NknTunnel(),
    BareMessages(),
    Links(1),
    Links(NODES),
)
BASELINE = "wireguard-go"
QUICK = ("veth", "wireguard-go", "wireguard-go-new", "nconnect")
