"""Behind each kind of NAT the STUN client says what kind it is, by our own node's ports.

host ── router [── router] ── internet (node: STUN on 192.0.2.1 and 192.0.2.2) ── router ── host

`lab.nat` builds it. The first tests are of the lab: its routers do what their names say.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from collections.abc import Mapping as MappingOf
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from lab.nat import MAPPED_ADDRESS, NODE_HOST6, NODE_HOSTS, Kind, NatLab, Site, serve_mappings
from lab.process import until
from lab.sides import RPC_PORT, Node, Side
from nconnect.io.clock import boottime
from nconnect.io.net import router, stun
from nconnect.io.net.port_mapping import PortMappings
from nconnect.model import STUN_PORTS, Endpoint
from nconnect.nat.port_mapping import Mapping
from nconnect.nat.stun import Verdict
from nconnect.wire.direct import NatVerdict
from nconnect.wire.pcp import SERVER_PORT
from tests.nat.test_port_mapping import Router as FakeRouter

NODE = NODE_HOSTS[0]
PORT, OTHER_PORT = 5000, 5001
MAPPED_PORT = 41641
TWO = {"two NATs": (Kind.PORT, Kind.PORT), "easy behind hard": (Kind.PORT, Kind.SYMMETRIC)}
WAIT_S = 0.3  # for what must not arrive: everything is one machine


@dataclass
class Networks:
    """The lab with a site of each kind and our node."""

    lab: NatLab
    node: Node
    sites: dict[str, Site]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    with ExitStack() as undo:
        lab = NatLab(undo)
        sites = {kind.value: lab.site(kind) for kind in Kind}
        sites |= {name: lab.site(*kinds) for name, kinds in TWO.items()}
        sites["household"] = lab.site(Kind.PORT, hosts=2, ipv6=True)
        node = Node(lab.internet, tmp_path_factory.mktemp("node"), options=["--listen", "::"])
        undo.callback(node.stop)
        node.start()
        yield Networks(lab, node, sites)


class Udp:
    """A UDP socket of a machine."""

    def __init__(self, site_or_lab: Site | NatLab, address: str, port: int = 0) -> None:
        machine = site_or_lab.internet if isinstance(site_or_lab, NatLab) else site_or_lab.host
        self.socket = machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind((address, port))

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        self.socket.sendto(data, to)

    def receive(self) -> tuple[bytes, tuple[str, int]]:
        data, source = self.socket.recvfrom(100)
        return data, source

    def hears(self, what: bytes) -> bool:
        """Whether this arrives within `WAIT_S`."""
        self.socket.settimeout(WAIT_S)
        try:
            while True:
                if self.socket.recv(100) == what:
                    return True
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(5)

    def close(self) -> None:
        self.socket.close()


# --- the lab ---


@pytest.mark.parametrize(
    ("kind", "let_in"),
    [
        (Kind.NONE, "answer, other port, other address"),
        (Kind.FULL_CONE, "answer, other port, other address"),
        (Kind.ADDRESS, "answer, other port"),
        (Kind.PORT, "answer"),
        (Kind.SYMMETRIC, "answer"),
        (Kind.PORT_OPEN, "answer"),
        (Kind.BLOCKED, ""),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)
def test_a_router_lets_in_what_its_kind_does(networks: Networks, kind: Kind, let_in: str) -> None:
    site, lab = networks.sites[kind.value], networks.lab
    with (
        closing(Udp(site, "0.0.0.0")) as host,
        closing(Udp(lab, NODE, PORT)) as answer,
        closing(Udp(lab, NODE, OTHER_PORT)) as other_port,
        closing(Udp(lab, NODE_HOSTS[1], PORT)) as other_address,
    ):
        host.send(b"hello", (NODE, PORT))
        if kind is Kind.BLOCKED:
            assert not answer.hears(b"hello")
            return
        data, seen = answer.receive()
        assert (data, seen[0]) == (b"hello", site.public)
        found = []
        for name, sender in (
            ("answer", answer),
            ("other port", other_port),
            ("other address", other_address),
        ):
            sender.send(name.encode(), seen)
            if host.hears(name.encode()):
                found.append(name)
        assert ", ".join(found) == let_in


@pytest.mark.parametrize(("kind", "same"), [(Kind.PORT, True), (Kind.SYMMETRIC, False)])
def test_a_symmetric_nat_alone_has_a_port_for_each_destination(
    networks: Networks, kind: Kind, same: bool
) -> None:
    with closing(Udp(networks.sites[kind.value], "0.0.0.0")) as host:
        seen = set()
        for address in NODE_HOSTS:
            with closing(Udp(networks.lab, address, PORT)) as server:
                host.send(b"hello", (address, PORT))
                seen.add(server.receive()[1])
    assert (len(seen) == 1) is same


@pytest.mark.parametrize(("kind", "kept"), [(Kind.PORT, True), (Kind.PORT_OPEN, False)])
def test_an_open_router_changes_the_port_after_an_early_probe(
    networks: Networks, kind: Kind, kept: bool
) -> None:
    """The trap: what the other side sends first makes an entry that the host's own packet clashes with."""
    site = networks.sites[kind.value]
    with closing(Udp(site, "0.0.0.0")) as host, closing(Udp(networks.lab, NODE, PORT + 10)) as peer:
        port = host.socket.getsockname()[1]
        peer.send(b"early", (site.public, port))
        assert not host.hears(b"early")
        host.send(b"hello", (NODE, PORT + 10))
        _, seen = peer.receive()
        assert (seen == (site.public, port)) is kept


def test_a_mapping_expires(networks: Networks) -> None:
    site = networks.lab.site(Kind.PORT)
    site.expire_after(1)
    router = site.routers[0]
    with closing(Udp(site, "0.0.0.0")) as host, closing(Udp(networks.lab, NODE, PORT)) as server:
        host.send(b"hello", (NODE, PORT))
        seen = server.receive()[1]
        server.send(b"in time", seen)
        assert host.hears(b"in time")
        until(lambda: not router.run(["conntrack", "-L", "-p", "udp"]).stdout, "the mapping to expire")
        server.send(b"late", seen)
        assert not host.hears(b"late")


def test_mappings_that_are_flushed_are_gone(networks: Networks) -> None:
    site = networks.sites[Kind.PORT.value]
    with closing(Udp(site, "0.0.0.0")) as host, closing(Udp(networks.lab, NODE, PORT)) as server:
        host.send(b"hello", (NODE, PORT))
        seen = server.receive()[1]
        site.forget()
        server.send(b"late", seen)
        assert not host.hears(b"late")


def test_two_hosts_of_a_household_reach_each_other_inside_and_not_by_their_mapping(
    networks: Networks,
) -> None:
    """No hairpin: of the candidates of two hosts behind one NAT only their own addresses work."""
    site = networks.sites["household"]
    first, second = (Udp(site, "0.0.0.0"), site.hosts[1].socket(socket.AF_INET, socket.SOCK_DGRAM))
    with closing(first), closing(second), closing(Udp(networks.lab, NODE, PORT)) as server:
        first.send(b"hello", (NODE, PORT))
        mapped = server.receive()[1]
        second.sendto(b"by the mapping", mapped)
        assert not first.hears(b"by the mapping")
        second.sendto(b"inside", (site.addresses[0], first.socket.getsockname()[1]))
        assert first.hears(b"inside")


def test_the_ipv6_firewall_lets_in_answers_alone(networks: Networks) -> None:
    site = networks.sites["household"]
    host = site.host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server, stranger = (networks.lab.internet.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    with closing(host), closing(server), closing(stranger):
        host.bind(("::", 0))
        inside = (site.addresses6[0], host.getsockname()[1])
        for sock in (host, server, stranger):
            sock.settimeout(5)
        server.bind((NODE_HOST6, PORT))
        stranger.bind((NODE_HOST6, OTHER_PORT))
        host.sendto(b"hello", (NODE_HOST6, PORT))
        assert server.recvfrom(100)[1][:2] == inside  # no NAT
        stranger.sendto(b"unasked", inside)
        server.sendto(b"answer", inside)  # later, so that the other one would have come before it
        assert host.recv(100) == b"answer"


def test_the_way_to_the_ipv6_router_is_found(networks: Networks) -> None:
    site = networks.sites["household"]
    six = site.addresses6[0]
    others = {f"{six}99/64": "preferred_lft 0", "fd00::1/64": ""}  # not for new communication; not global
    for address, options in others.items():
        site.host.ip(f"address add {address} dev eth0 nodad {options}")
    try:
        (way,) = site.host.enter(lambda: router.ipv6_ways("nc0"))
        assert (str(way.own), str(way.router)) == (six, six.removesuffix("2") + "1")
        assert site.host.enter(lambda: router.ipv6_ways("eth0")) == frozenset()  # as if that were our tunnel
    finally:
        for address in others:
            site.host.ip(f"address del {address} dev eth0")
    assert networks.lab.internet.enter(lambda: router.ipv6_ways("nc0")) == frozenset()


# --- the STUN client, at our node ---


def asked(site: Site, *hosts: str) -> dict[int, Verdict]:
    """What the client finds out from inside the site, by IP version."""
    servers = [Endpoint(ip_address(host), port) for host in hosts for port in STUN_PORTS]
    found = site.host.enter(lambda: asyncio.run(stun.ask(servers)))
    return {version: verdict for version, (verdict, _) in found.items()}


@pytest.mark.parametrize(
    ("name", "nat"),
    [
        *(
            (kind.value, NatVerdict.EASY)
            for kind in (Kind.NONE, Kind.FULL_CONE, Kind.ADDRESS, Kind.PORT, Kind.PORT_OPEN)
        ),
        (Kind.SYMMETRIC.value, NatVerdict.HARD),
        (Kind.BLOCKED.value, NatVerdict.BLOCKED),
        ("two NATs", NatVerdict.EASY),
        ("easy behind hard", NatVerdict.HARD),
    ],
)
def test_the_verdict_is_right(networks: Networks, name: str, nat: NatVerdict) -> None:
    site = networks.sites[name]
    verdict = asked(site, NODE)[4]
    assert verdict.nat is nat
    if nat is NatVerdict.BLOCKED:
        assert verdict.mapped is None
    else:
        assert verdict.mapped is not None
        assert str(verdict.mapped[0]) == site.public


def test_ipv6_behind_a_firewall_has_no_nat(networks: Networks) -> None:
    site = networks.sites["household"]
    found = asked(site, NODE, NODE_HOST6)
    assert {version: str(v.mapped and v.mapped[0]) for version, v in found.items()} == {
        4: site.public,
        6: site.addresses6[0],
    }
    assert {verdict.nat for verdict in found.values()} == {NatVerdict.EASY}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(Kind.NONE, "no NAT", marks=pytest.mark.slow),
        (Kind.SYMMETRIC, "a hard NAT"),
        pytest.param(
            Kind.BLOCKED, f"no answer by UDP from {NODE}:30006 and {NODE}:30007", marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)
def test_the_doctor_says_it(networks: Networks, tmp_path: Path, kind: Kind, said: str) -> None:
    site, report = networks.sites[kind.value], tmp_path / "report.tar.gz"
    side = Side("host", site.host, tmp_path)
    side.nconnect("init", "--address", "10.86.0.2/24", "--seed-rpc", f"http://{NODE}:{RPC_PORT}")
    said_here = side.try_nconnect("doctor", "--json", "--report", str(report)).stdout
    found = json.loads(said_here)["findings"]
    (nat,) = [finding for finding in found if finding["check"] == "nat"]
    assert nat["level"] == "ok"
    assert nat["text"].startswith(f"IPv4: {said}")
    # The public address is shown here, and is not in what others are given.
    with tarfile.open(report) as bundle:
        files = {m.name: file.read().decode() for m in bundle.getmembers() if (file := bundle.extractfile(m))}
    assert said in files["nconnect-report/doctor.json"]
    assert not [name for name, text in files.items() if re.search(rf"\b{re.escape(site.public)}\b", text)]
    assert (site.public in said_here) is (kind is not Kind.BLOCKED)


def test_the_node_counts_what_it_answered(networks: Networks) -> None:
    before = networks.node.status()["stun"]
    assert before["ports"] == list(STUN_PORTS)
    asked(networks.sites[Kind.PORT.value], NODE)
    after = networks.node.status()["stun"]
    assert after["answers"] - before["answers"] == 2
    assert after["drops"] == before["drops"]


# --- port mappings, at Debian's miniupnpd ---


@pytest.fixture(scope="module")
def mapping_site(networks: Networks) -> Site:
    if shutil.which("miniupnpd") is None:
        pytest.skip("needs miniupnpd (Debian's miniupnpd-nftables)")
    return networks.lab.site(Kind.SYMMETRIC, ipv6=True)


def is_reached6(networks: Networks, site: Site, port: int = MAPPED_PORT) -> bool:
    """Whether a stranger's first datagram to the host's own IPv6 address arrives."""
    host = site.host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    stranger = networks.lab.internet.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with closing(host), closing(stranger):
        host.bind(("::", port))
        host.settimeout(WAIT_S)
        stranger.sendto(b"unasked", (site.addresses6[0], port))
        try:
            return host.recv(100) == b"unasked"
        except TimeoutError:
            return False


def is_reached(networks: Networks, site: Site) -> bool:
    """Whether the first datagram of a stranger to the mapped port arrives at the host."""
    with (
        closing(Udp(site, "0.0.0.0", MAPPED_PORT)) as host,
        closing(Udp(networks.lab, NODE_HOSTS[1])) as stranger,
    ):
        stranger.send(b"unasked", (MAPPED_ADDRESS, MAPPED_PORT))
        return host.hears(b"unasked")


Told = tuple[dict[str, Mapping], str]


def hold(site: Site, work: Callable[[], object]) -> list[Told]:
    """Ask for the port from inside the site; what is told, until `work` is done after the first time."""
    told: list[Told] = []

    async def run() -> None:
        changed = asyncio.Event()

        def tell(mappings: MappingOf[str, Mapping], problem: str) -> None:
            told.append((dict(mappings), problem))
            changed.set()

        task = asyncio.create_task(PortMappings(MAPPED_PORT, tell, tunnel="nc0").run())
        try:
            async with asyncio.timeout(20):
                await changed.wait()
            await asyncio.to_thread(work)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    site.host.enter(lambda: asyncio.run(run()))
    return told


@pytest.mark.slow
@pytest.mark.parametrize(("by", "pcp"), [("PCP", True), ("UPnP", False)])
def test_a_mapped_port_is_reached_until_it_is_given_up(
    networks: Networks, mapping_site: Site, tmp_path: Path, by: str, pcp: bool
) -> None:
    """Also behind a hard NAT, and by strangers: that is why mapping is worth while."""
    process = serve_mappings(mapping_site, networks.lab, tmp_path, pcp=pcp, upnp=not pcp)

    def while_mapped() -> None:
        assert is_reached(networks, mapping_site)
        # The answer of the IPv6 part is not told.
        until(lambda: is_reached6(networks, mapping_site), "the firewall to open")
        assert not is_reached6(networks, mapping_site, MAPPED_PORT + 1)

    try:
        assert not is_reached(networks, mapping_site)
        assert not is_reached6(networks, mapping_site)
        told = hold(mapping_site, while_mapped)
        until(lambda: not is_reached(networks, mapping_site), "the mapping to go")
        until(lambda: not is_reached6(networks, mapping_site), "the firewall to close")
    finally:
        process.stop()
    ((mappings, problem),) = told
    assert problem == ""
    found = {name: (str(m.address), m.port, m.by) for name, m in mappings.items()}
    assert found == dict.fromkeys(("udp", "tcp"), (MAPPED_ADDRESS, MAPPED_PORT, by))


@contextmanager
def lying_router(site: Site, lie: Callable[[bytes], bytes]) -> Iterator[FakeRouter]:
    """Answers at the site's router as the RFCs say, but for what `lie` makes of it. It maps nothing."""
    made = FakeRouter()
    made.started_at, made.outside = boottime() - 600, ip_address(site.public)
    place = (site.addresses[0].rpartition(".")[0] + ".1", SERVER_PORT)
    end = b"end"

    def serve() -> None:
        while (came := sock.recvfrom(100))[0] != end:
            for answer in made.answer(came[0], boottime()):
                sock.sendto(lie(answer), came[1])

    with closing(site.routers[0].socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(place)
        thread = threading.Thread(target=serve, name="lying router")
        thread.start()
        try:
            yield made
        finally:
            sock.sendto(end, place)
            thread.join()


def at_byte(place: int) -> Callable[[bytes], bytes]:
    """Changes one byte of a mapping's answer."""
    return lambda answer: answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :]


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda answer: b"\x02\x81nonsense", "an answer that is too short"),
        (at_byte(24), "it maps another port than ours"),  # the nonce
        (at_byte(41), "it maps another port than ours"),
    ],
    ids=["nonsense", "somebody else's", "another port of ours"],
)
def test_a_router_that_answers_with_nonsense_is_one_line(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, lie: Callable[[bytes], bytes], why: str
) -> None:
    for machine in ("port_mapping", "upnp_mapping"):
        monkeypatch.setattr(f"nconnect.nat.{machine}.TRY_FOR_S", (0.1, 0.1))
    site = networks.sites[Kind.PORT.value]
    with lying_router(site, lie) as made:
        made.speaks_pmp = False
        ((mappings, problem),) = hold(site, lambda: None)
    assert mappings == {}
    assert problem.startswith("the router's answer makes no sense (")
    assert why in problem
    assert "\n" not in problem


def test_a_router_that_maps_another_port_than_it_says_is_believed_and_asked_to_end_it(
    networks: Networks,
) -> None:
    """Nobody can tell from its answer: peers get no answer there, and use another way."""
    site = networks.sites[Kind.PORT.value]
    with lying_router(site, at_byte(43)) as made:  # the outer port
        ((mappings, problem),) = hold(site, lambda: None)
    assert problem == ""
    assert {(str(m.address), m.port) for m in mappings.values()} == {(site.public, MAPPED_PORT ^ 1)}
    assert made.mapped == {}


@pytest.mark.slow
def test_the_doctor_says_what_the_router_speaks(
    networks: Networks, mapping_site: Site, tmp_path: Path
) -> None:
    process = serve_mappings(mapping_site, networks.lab, tmp_path, pcp=True, upnp=True)
    side = Side("host", mapping_site.host, tmp_path / "side")
    try:
        side.nconnect("init", "--address", "10.86.0.2/24", "--seed-rpc", f"http://{NODE}:{RPC_PORT}")
        found = json.loads(side.try_nconnect("doctor", "--json").stdout)["findings"]
    finally:
        process.stop()
    (said,) = [finding["text"] for finding in found if finding["check"] == "port mapping"]
    assert "by PCP and NAT-PMP and UPnP" in said
    assert said.endswith(f"its address outside is {MAPPED_ADDRESS}")
