"""`join`, `up` and a chat work in the networks that people have, and `up` takes at most 2 s more.

traveller ── (a router, or none) ── internet (node 192.0.2.1) ── provider ── server

All tests share a world (`netns_tests.ways_out`); each has a traveller's machine of its own.
"""

from __future__ import annotations

import re
import shutil
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.netns import Namespace
from lab.portal import PAGE
from lab.process import Process, until
from lab.sides import nconnect_command
from lab.world import LAN, NODE_HOST, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, WAN_INTERFACE, world
from netns_tests.model import needs_model
from netns_tests.ways_out import (
    GATE,
    MAX_LONGER_S,
    NAME,
    NAMED_SEED,
    Base,
    Times,
    Traveller,
    base,
    let_all_pass,
    name_server,
    nat64,
    swallow,
    use_name_servers,
)

pytestmark = needs_model

NODE_HOST6 = "2001:db8::1"
NODE_OPTIONS = (
    *("--verify-signatures", "--ws-port", "30002", "--rpc-port", "30003"),
    *("--port", "443", "--tls"),
)
LIVING = "192.0.2.54"  # a name server
OTHER_THREADS = 6  # of the daemon, without those of look-ups
BACK_S = 16.0  # 5 s for an attempt that is under way, and the longest pause, 10 s
MAX_GROWTH_BYTES = 4 << 20
MAX_MEMORY_BYTES = 80 << 20


@pytest.fixture(scope="module")
def ways() -> Iterator[Base]:
    with world("ncways", node_options=NODE_OPTIONS) as made:
        made.internet.ip(f"address add {NODE_HOST6}/128 dev lo nodad")
        with base(made) as running:
            yield running


def test_a_dead_ipv6_address_of_the_node_s_name_costs_little(ways: Base) -> None:
    """Packets to the name's IPv6 address are dropped; its IPv4 address is good (RFC 8305)."""
    with ways.traveller() as user:
        user.plug_in(ipv6=True)
        user.namespace.etc("hosts", f"{NODE_HOST6} {NAME}\n{NODE_HOST} {NAME}\n")
        swallow(ways.world.internet, f"ip6 daddr {NODE_HOST6}")
        times = user.do_all("--seed-rpc", NAMED_SEED)
        assert user.link()["node"] == f"{NAME}:30002"
        with user.namespace.socket(socket.AF_INET6, socket.SOCK_STREAM) as dead:
            dead.settimeout(0.3)
            with pytest.raises(TimeoutError):
                dead.connect((NODE_HOST6, 30003))
    ways.not_much_longer(times)


@pytest.mark.skipif(shutil.which("tayga") is None, reason="needs tayga (scripts/setup --dev)")
def test_ipv6_with_nat64_reaches_ipv4_literals(ways: Base) -> None:
    """The seed in the invitation, and the node that it names, are IPv4 literals (RFC 7050)."""
    with ways.traveller() as user, ways.router(user, ["2001:db8:a::1/64"]) as router:
        user.namespace.ip(f"address add 2001:db8:a::2/64 dev {WAN_INTERFACE} nodad")
        user.namespace.ip("-6 route add default via 2001:db8:a::1")
        with nat64(ways.world, router, "2001:db8:64::/96"):
            name_server(ways.world, router, "2001:db8:a::1", {}, "--dns64", "2001:db8:64::/96")
            use_name_servers(user.namespace, "2001:db8:a::1")
            times = user.do_all()
            assert user.link()["node"] == f"{NODE_HOST}:30002"
    ways.not_much_longer(times)


def test_a_fourth_name_server_is_asked_when_three_are_dead(ways: Base) -> None:
    """glibc asks the first three only, so it never finds the node's name."""
    dead = [f"192.0.2.{host}" for host in (51, 52, 53)]
    with ways.traveller() as user:
        user.plug_in()
        for host in (*dead, LIVING):
            ways.world.internet.ip(f"address add {host}/32 dev lo")
        swallow(ways.world.internet, f"ip daddr {{ {', '.join(dead)} }}")
        name_server(ways.world, ways.world.internet, LIVING, {NAME: [NODE_HOST]})
        use_name_servers(user.namespace, *dead, LIVING)
        times = user.do_all("--seed-rpc", NAMED_SEED)
        assert user.link()["node"] == f"{NAME}:30002"
    ways.not_much_longer(times)


def test_up_says_in_words_why_nothing_is_reached(ways: Base) -> None:
    with ways.traveller() as user:
        user.plug_in()
        user.namespace.ip("route add unreachable 203.0.113.99")
        token = user.invitation()
        for seed, why in (
            ("http://203.0.113.99:30003", "no route to host"),
            ("http://[fd01::1]:30003", "network is unreachable"),
            (f"http://{NODE_HOST}:9", "connection refused"),
            (f"http://{NODE_HOST}:443", "speaks TLS: is it https://?"),
        ):
            done = user.side.try_nconnect("join", token, "--seed-rpc", seed, "--timeout", "1")
            assert done.returncode == 1
            assert why in done.stderr
            assert seed in done.stderr
            assert len(done.stderr.splitlines()) == 1


def _stays_flat(daemon: Process, run_s: float, *, settled_s: float) -> None:
    """Threads and memory of a daemon that fails again and again do not grow, memory from `settled_s` on."""
    began = time.monotonic()
    most_threads = 0
    memory: list[int] = []
    while (age_s := time.monotonic() - began) < run_s:
        assert daemon.running, daemon.tail()
        most_threads = max(most_threads, daemon.threads())
        if age_s > settled_s:
            memory.append(daemon.rss_bytes())
        time.sleep(0.2)
    assert most_threads <= 16 + OTHER_THREADS
    assert max(memory) - memory[0] < MAX_GROWTH_BYTES
    assert max(memory) < MAX_MEMORY_BYTES
    assert "bug in nconnect" not in daemon.text()


@pytest.mark.parametrize("run_s", [20, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(700)])])
def test_threads_and_memory_stay_flat_while_no_name_server_answers(ways: Base, run_s: float) -> None:
    """Four links try the default seeds, by name. Memory is measured in the second half."""
    dead = [f"192.0.2.{host}" for host in (61, 62, 63)]
    with ways.traveller() as user:
        user.plug_in()
        for host in dead:
            ways.world.internet.ip(f"address replace {host}/32 dev lo")
        swallow(ways.world.internet, f"ip daddr {{ {', '.join(dead)} }}")
        use_name_servers(user.namespace, *dead)
        user.side.nconnect("init", "--identifier", "flat", "--address", "10.86.0.99/24")
        text = user.side.config.read_text()
        assert "seed_rpc" not in text
        user.side.config.write_text(text + "\n[network]\nlinks = 4\n")
        daemon = user.side.start("--keep-trying")
        _stays_flat(daemon, run_s, settled_s=run_s / 2)
        assert "no seed named a node: no name server answered" in daemon.text()

        # One of them answers again: after the time-outs of running look-ups the link comes up.
        server = name_server(ways.world, ways.world.internet, dead[2], {"seed.nkn.org": [NODE_HOST]})
        let_all_pass(ways.world.internet)
        user.side.wait(timeout_s=BACK_S)
        server.stop()


@pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="needs tinyproxy (scripts/setup --dev)")
def test_a_connect_proxy_with_a_password_is_used(ways: Base) -> None:
    """Set in the configuration. It is the only way out, and only the proxy knows the node's name."""
    with ways.gate() as (user, router):
        settings = user.side.folder / "tinyproxy.conf"
        settings.write_text(f"Port 3128\nListen {GATE}\nTimeout 600\nBasicAuth bob {SECRET}\n")
        ways.serve(user, router, ["tinyproxy", "-d", "-c", str(settings)], 3128)
        right, wrong = (f"http://bob:{word}@{GATE}:3128" for word in (SECRET, "wrong"))
        times = Times(user.join("--seed-rpc", NAMED_SEED, "--proxy", right), user.up())
        user.chat()
        link = user.link()
        assert (link["proxy"], link["node"]) == (f"{GATE}:3128", f"{NAME}:30002")
        _nowhere(user, SECRET)
        user.side.down()

        user.side.config.write_text(user.side.config.read_text().replace(right, wrong))
        assert _refused_up(user) == (
            f"nconnect: error: the proxy {GATE}:3128 refuses the user and password (401):"
            " correct them in its URL; `nconnect up --keep-trying` goes on trying"
        )
    ways.not_much_longer(times)


@pytest.mark.skipif(shutil.which("microsocks") is None, reason="needs microsocks (scripts/setup --dev)")
def test_a_socks_proxy_of_the_environment_is_used(ways: Base) -> None:
    """Four links. The proxy is given by name, in a network that is also a prefix of the peer."""
    with ways.gate() as (user, router):
        router.ip("address add 10.20.0.1/32 dev lo")
        user.namespace.ip(f"route add default via {GATE}")
        user.namespace.etc("hosts", "10.20.0.1 proxy.example\n")
        ways.serve(user, router, ["microsocks", "-p", "1080", "-u", "bob", "-P", SECRET], 1080)
        env = {"ALL_PROXY": f"socks5h://bob:{SECRET}@proxy.example:1080"}
        join_s = user.join("--seed-rpc", NAMED_SEED, env=env)
        prefixes = f"{PROVIDER_TUNNEL}/32,{LAN},10.20.0.0/24"
        user.side.nconnect("peer", "set", PROVIDER_PEER, "--allowed-ips", prefixes)
        text = user.side.config.read_text().replace("[network]\n", "[network]\nlinks = 4\n")
        # With its address in [interface] the peer is one that a person entered: all it has is in force.
        local = re.search(r"^local_address = (.*)\n", text, re.MULTILINE)
        assert local is not None
        text = text.replace(local[0], "").replace("[interface]\n", f"[interface]\naddress = {local[1]}\n")
        user.side.config.write_text(text)
        times = Times(join_s, user.up(env=env))
        user.chat()
        status = user.side.status()
        assert [link["proxy"] for link in status["links"]] == ["proxy.example:1080"] * 4
        assert "10.20.0.0/24" in status["routes"]
        assert f"via {GATE}" in user.namespace.ip("route get 10.20.0.1"), "but for the proxy"
        _nowhere(user, SECRET)
    ways.not_much_longer(times)


def test_tls_on_tcp_443_is_enough(ways: Base) -> None:
    """TLS on one port, with a self-signed certificate that the invitation pins."""
    node = ways.world.node.status()
    assert (node["port"], node["ws_port"], node["wss_port"]) == (443, 30002, 443)
    seed = f"https://{NODE_HOST}:443#sha256={node['fingerprint']}"
    assert node["seed_url"].endswith(f":443#sha256={node['fingerprint']}")
    with ways.traveller() as user:
        user.plug_in()
        way = f"iifname way{user.number}"
        swallow(ways.world.internet, f"{way} meta l4proto != tcp")
        swallow(ways.world.internet, f"{way} tcp dport != 443")
        times = Times(user.join(seed=seed), user.up())
        user.chat()
        link = user.link()
        assert (link["node"], link["tls"], link["port"]) == (f"{NODE_HOST}:443", True, 443)
        assert f"{NODE_HOST}:443 (TLS)" in user.side.nconnect("status")
        assert seed in user.side.config.read_text()
        assert "which answers over TLS in" in user.side.try_nconnect("doctor").stdout
        user.side.down()

        # Another node answers there: the user must not log in to it.
        options = ["--listen", "0.0.0.0", "--port", "4443", "--tls"]
        with _instead(ways, user, 4443, [*nconnect_command(), "node", *options], "mallory"):
            said = _refused_up(user)
            assert "the certificate is not the one that the seed URL names (sha256 " in said
            assert "somebody may be in between" in said
            assert '"logins": 0' in _mallory_status(ways)

        # The right certificate, but an address without TLS.
        key = ways.world.node.folder / "state" / "standalone-node-443" / "tls.pem"
        arguments = ["4444", str(key), f"{NODE_HOST}:30002", node["public_key"]]
        script = [sys.executable, "-m", "netns_tests.downgrading", *arguments]
        with _instead(ways, user, 4444, script, "downgrading") as downgrading:
            logins = ways.world.node.status()["logins"]
            said = _refused_up(user)
            assert f"{NODE_HOST}:30002" in said
            assert set(downgrading.text().split()) == {"serving", "getwssaddr"}
            assert ways.world.node.status()["logins"] == logins
    ways.not_much_longer(times)


def test_a_plain_seed_may_name_a_node_with_tls_only(ways: Base) -> None:
    with ways.traveller() as user:
        user.plug_in()
        swallow(ways.world.internet, f"iifname way{user.number} tcp dport 30002")
        times = user.do_all()
        link = user.link()
        assert (link["node"], link["tls"], link["port"]) == (f"{NODE_HOST}:443", True, 443)
        found = user.side.try_nconnect("doctor").stdout
        assert f"{SEED_RPC} names the node {NODE_HOST}:443, which answers over TLS in" in found
        swallow(ways.world.internet, f"iifname way{user.number} tcp dport 443")
        found = user.side.try_nconnect("doctor").stdout
        assert f"the node {NODE_HOST}:30002, named by {SEED_RPC}, cannot be reached: did not answer" in found
    ways.not_much_longer(times)


def test_a_captive_portal_is_named_and_waited_for(ways: Base) -> None:
    """`join` and `up --keep-trying` wait until somebody logs in, and say so once."""
    with ways.gate() as (user, router):
        user.namespace.ip(f"route add default via {GATE}")
        user.namespace.etc("hosts", f"{NODE_HOST} {NAME}\n")
        router.sysctl("net.ipv4.ip_forward", "1")
        router.nft("add table ip out; add chain ip out after { type nat hook postrouting priority 100; }")
        router.nft(f"add rule ip out after oifname {WAN_INTERFACE} masquerade")
        ways.serve(user, router, [sys.executable, "-m", "lab.portal", GATE, "8080"], 8080)

        _close(router)
        opening = threading.Timer(PORTAL_S, router.nft, (OPEN,))
        token = user.invitation()
        began = time.monotonic()
        opening.start()
        done = user.side.try_nconnect("join", token, "--timeout", "60")
        join_s = time.monotonic() - began - PORTAL_S
        opening.join()
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(f"nconnect: {LOGIN}; trying again\n", done.stderr)

        _close(router)
        assert re.fullmatch(
            f"nconnect: error: {LOGIN}; `nconnect up --keep-trying` goes on.*", _refused_up(user)
        )
        daemon = user.side.start("--keep-trying")
        until(lambda: re.search(LOGIN, daemon.text()), "the login page to be said", process=daemon)
        until(user.side.listens, "the control socket", process=daemon)
        assert re.fullmatch(LOGIN, user.link()["why"])
        shown = user.side.nconnect("status")
        found = user.side.try_nconnect("doctor").stdout
        assert (shown.count("login page"), found.count("login page")) == (1, 1), shown + found
        assert daemon.text().count("login page") == 1
        began = time.monotonic()
        router.nft(OPEN)
        user.side.wait(PROVIDER_PEER)
        up_s = time.monotonic() - began
        user.chat()
        user.side.down()

        # Another kind of portal answers web requests only; `doctor` finds it too.
        _close(router, "tcp dport 80", "type filter hook forward priority 0; policy drop")
        router.nft("add rule ip portal more meta l4proto tcp reject with tcp reset")
        found = user.side.try_nconnect("doctor").stdout
        assert found.count("this network shows a login page") == 1
        assert "cannot be asked" not in found
    assert up_s < MAX_LONGER_S, f"up {up_s:.1f} s after the portal has opened"
    assert join_s < ways.plain.join_s + MAX_LONGER_S, f"joined {join_s:.1f} s after the portal had opened"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_threads_and_memory_stay_flat_behind_a_portal_that_never_opens(ways: Base) -> None:
    with ways.gate() as (user, router):
        user.namespace.ip(f"route add default via {GATE}")
        ways.serve(user, router, [sys.executable, "-m", "lab.portal", GATE, "8080"], 8080)
        _close(router)
        command = ("init", "--identifier", "flat", "--address", "10.86.0.99/24", "--seed-rpc", SEED_RPC)
        user.side.nconnect(*command)
        user.side.config.write_text(user.side.config.read_text().replace("[network]", "[network]\nlinks = 4"))
        _stays_flat(user.side.start("--keep-trying"), FLAT_S, settled_s=COLLECTED_S)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_threads_and_memory_stay_flat_while_a_proxy_hangs(ways: Base) -> None:
    """The proxy accepts connections and never answers."""
    with ways.gate() as (user, router):
        user.namespace.etc("hosts", f"{GATE} proxy.example\n")
        ways.serve(user, router, [sys.executable, "-c", SILENT, GATE], 3128)
        url = "http://proxy.example:3128"
        user.side.nconnect("init", "--identifier", "flat", "--address", "10.86.0.99/24", "--proxy", url)
        text = user.side.config.read_text()
        user.side.config.write_text(text.replace("[network]", "[network]\nlinks = 4"))
        _stays_flat(user.side.start("--keep-trying"), FLAT_S, settled_s=COLLECTED_S)


FLAT_S = 600
COLLECTED_S = 200  # cyclic garbage is collected after this time at the latest (measured: 90 s)
SILENT = """
import socket, sys
kept = []
with socket.create_server((sys.argv[1], 3128), backlog=512) as server:
    while True:
        kept.append(server.accept()[0])
        del kept[:-200]
"""
SECRET = "hunter2-of-the-proxy"
PORTAL_S = 3.0  # after which somebody has logged in
LOGIN = rf"this network shows a login page: open {PAGE}\?session=\w+ in a browser"
OPEN = "delete table ip portal"


def _close(router: Namespace, what: str = "meta l4proto tcp", *chains: str) -> None:
    """Redirect what the user sends to the portal. `chains`: an additional chain in its table."""
    router.nft("add table ip portal; add chain ip portal in { type nat hook prerouting priority -100; }")
    router.nft(f"add rule ip portal in iifname lan0 {what} redirect to :8080")
    for chain in chains:
        router.nft(f"add chain ip portal more {{ {chain}; }}")


@contextmanager
def _instead(ways: Base, user: Traveller, port: int, command: Sequence[str], name: str) -> Iterator[Process]:
    """Redirect the user's connections to the node's port 443 to a program at another port."""
    internet = ways.world.internet
    process = Process(internet, command, ways.world.folder / f"{name}.log", env=_env_of(ways, name))

    def listens() -> bool:
        with internet.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, f"{name} to listen", process=process)
        chain = f"add chain ip {name} in {{ type nat hook prerouting priority -100; }}"
        internet.nft(f"add table ip {name}; {chain}")
        internet.nft(f"add rule ip {name} in iifname way{user.number} tcp dport 443 redirect to :{port}")
        yield process
        internet.nft(f"delete table ip {name}")
    finally:
        process.stop()


def _mallory_status(ways: Base) -> str:
    command = [*nconnect_command(), "node", "status", "--json"]
    done = ways.world.internet.run(command, env=_env_of(ways, "mallory"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def _env_of(ways: Base, name: str) -> dict[str, str]:
    folder = str(ways.world.folder / name)
    return {"NCONNECT_RUN_DIR": folder, "NCONNECT_STATE_DIR": folder}


def _refused_up(user: Traveller) -> str:
    """The message of an `up` that must fail with one line."""
    done = user.side.try_nconnect("up")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.strip()


def _nowhere(user: Traveller, secret: str) -> None:
    """Assert that a secret is in none of the places where others can look."""
    report = user.side.folder / "report.tar.gz"
    user.side.try_nconnect("doctor", "--report", str(report))
    with tarfile.open(report) as bundle:
        members = [bundle.extractfile(member) for member in bundle.getmembers()]
        texts = [member.read().decode() for member in members if member is not None]
    assert len(texts) > 3
    texts += [
        user.side.nconnect(*command) for command in (("status", "--json"), ("status",), ("config", "show"))
    ]
    texts += [Path(f"/proc/{pid}/cmdline").read_text() for pid in user.namespace.processes()]
    texts.append(user.side.logs())
    for text in texts:
        assert secret not in text
