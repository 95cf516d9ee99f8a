"""nconnect: the shipped daemons with every check on, through the shipped node."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from lab.bench.bed import CHAT_PORT, FLOOD_PORT, IPERF_PORT, QUIC_PORT, TOKEN_PORT, Bed
from lab.bench.contenders.base import BY_CABLE, LONG, OVER_LINKS, START_TIMEOUT_S, TCP_ONLY, Running, by_cable
from lab.netns import LabError, Namespace
from lab.ping import first_reply, round_trips
from lab.process import until
from lab.sides import RPC_PORT, WS_PORT, Node, Side
from lab.world import NODE_HOST, PROVIDER_PEER, SEED_RPC, USER_PEER, WAN_INTERFACE
from nconnect.model import DirectMode

SERVICES = ",".join(
    [f"{port}/tcp" for port in (IPERF_PORT, CHAT_PORT, TOKEN_PORT)]
    + [f"{port}/udp" for port in (IPERF_PORT, FLOOD_PORT, QUIC_PORT)]
)
TLS_PORT = 443
SIGNED = ("--require-signatures",)
_number = itertools.count()


class Nconnect:
    """`node_options` decide whether clients sign: by default our node waives it."""

    direct: DirectMode = "off"

    def __init__(
        self, cipher: str, name: str, node_options: Sequence[str] = (), *, all_cases: bool = False
    ) -> None:
        self.cipher = cipher
        self.name = name
        self.node_options = tuple(node_options)
        signed = "every message signed" if node_options else "no signatures, as its node waives them"
        self.about = f"nconnect through its node, {cipher}, {signed}"
        self._all_cases = all_cases

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY or (self._all_cases and case not in OVER_LINKS | BY_CABLE)

    def missing(self) -> str | None:
        return None

    def node(self, bed: Bed, number: int) -> Node:
        return Node(bed.internet, bed.folder / f"node-{number}", options=self.node_options)

    def seed(self, node: Node) -> str:
        """The seed URL of a node that was started."""
        return SEED_RPC

    def take_way(self, bed: Bed, undo: ExitStack) -> None:
        """Prepare the bed for the way that packets are to take."""

    def check_way(self, bed: Bed, user: Side, provider: Side) -> None:
        """Wait until packets take this way. Raises `LabError` when they do not."""

    def ends(self, bed: Bed) -> tuple[tuple[Namespace, str], tuple[Namespace, str]]:
        """The interfaces by which the user's packets leave, and those for the user."""
        return (bed.user, WAN_INTERFACE), (bed.internet, "user")

    @contextmanager
    def running(self, bed: Bed) -> Iterator[Running]:
        number = next(_number)
        folder = bed.folder / f"nconnect-{number}"
        node = self.node(bed, number)
        provider = Side("provider", bed.provider, folder / "provider")
        user = Side("user", bed.user, folder / "user")
        with ExitStack() as undo:
            for part in (node, provider, user):
                undo.callback(part.stop)
            self.take_way(bed, undo)
            processes = [node.start()]
            configure(provider, user, self.cipher, self.seed(node), direct=self.direct)
            processes.append(provider.start())
            provider.wait()
            started = time.monotonic()
            processes.append(user.start())
            try:
                answered = first_reply(bed.user, "10.86.0.1", timeout_s=START_TIMEOUT_S)
                self.check_way(bed, user, provider)
            except LabError as error:
                raise LabError(f"{error}\n{node.logs()}\n{provider.logs()}\n{user.logs()}") from None
            uplink, downlink = self.ends(bed)
            yield Running(
                bed,
                "10.86.0.1",
                "fd86::1",
                tuple(processes),
                answered - started,
                daemons=(processes[2], processes[1]),
                uplink=uplink,
                downlink=downlink,
            )
            self.check_way(bed, user, provider)
            user.down()
            provider.down()


class NconnectDirect(Nconnect):
    """nconnect over the bed's cable, its node beside. `kind` is udp or tcp; the other is blocked there."""

    direct = "on"

    def __init__(self, kind: str) -> None:
        super().__init__("aes256gcm", f"nconnect-direct-{kind}")
        self.kind = kind
        self.about = f"nconnect on a direct {kind.upper()} path, its node beside, aes256gcm"

    def measures(self, case: str) -> bool:
        return case not in LONG or case.startswith("shaped")

    def take_way(self, bed: Bed, undo: ExitStack) -> None:
        other = {"udp": "tcp", "tcp": "udp"}[self.kind]
        for end in (bed.user, bed.provider):
            end.nft(
                "add table inet bench\n"
                "add chain inet bench input { type filter hook input priority 0; }\n"
                f'add rule inet bench input iifname "direct0" meta l4proto {other} drop'
            )
            undo.callback(end.nft, "delete table inet bench")

    def check_way(self, bed: Bed, user: Side, provider: Side) -> None:
        def ping() -> int:
            return 20 - round_trips(bed.user, "10.86.0.1", count=20).lost

        until(lambda: by_cable(bed, ping), f"a direct path over {self.kind.upper()}")
        for side in (user, provider):
            peer = side.peer()
            if peer["path"] != "direct" or peer["direct"]["kind"] != self.kind:
                raise LabError(f"packets go by the cable, but {side.name}'s status says {peer['direct']}")

    def ends(self, bed: Bed) -> tuple[tuple[Namespace, str], tuple[Namespace, str]]:
        return (bed.user, "direct0"), (bed.provider, "direct0")


class NconnectOverTls(Nconnect):
    """nconnect over wss, to a node with TLS on one port, whose certificate the seed pins."""

    def __init__(self) -> None:
        ports = ("--ws-port", str(WS_PORT), "--rpc-port", str(RPC_PORT), "--port", str(TLS_PORT))
        super().__init__("aes256gcm", "nconnect-tls", (*ports, "--tls"))
        self.about = "nconnect through its node over TLS, pinned, no signatures"

    def measures(self, case: str) -> bool:
        return case in TCP_ONLY | {"memory", "volume"}

    def seed(self, node: Node) -> str:
        return f"https://{NODE_HOST}:{TLS_PORT}#sha256={node.status()['fingerprint']}"


def configure(
    provider: Side, user: Side, cipher: str, seed: str = SEED_RPC, *, direct: DirectMode = "off"
) -> None:
    """Make two sides that know one another, with the bench's servers as the provider's services.

    The bed's cable is a direct path, which only those who measure it may find.
    """
    for side, address, name, more in (
        (provider, "10.86.0.1/24,fd86::1/64", PROVIDER_PEER, ["--service", SERVICES]),
        (user, "10.86.0.2/24,fd86::2/64", USER_PEER, []),
    ):
        side.nconnect("init", "--identifier", name, "--address", address, "--seed-rpc", seed, *more)
        text = side.config.read_text()
        for section, line in (("interface", f'cipher = "{cipher}"'), ("network", f'direct = "{direct}"')):
            text = text.replace(f"[{section}]\n", f"[{section}]\n{line}\n", 1)
        side.config.write_text(text)
    provider.nconnect("peer", "add", USER_PEER, user.address(), "--allowed-ips", "10.86.0.2/32,fd86::2/128")
    user.nconnect(
        "peer", "add", PROVIDER_PEER, provider.address(), "--allowed-ips", "10.86.0.1/32,fd86::1/128"
    )
