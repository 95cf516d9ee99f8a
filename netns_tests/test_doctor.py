"""`nconnect doctor` finds what was broken on the provider's machine, and the commands it proposes repair it.

user ── node ── provider (doctor) ── server
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.process import until
from lab.sides import Side
from lab.traffic import SERVICE, reaches
from lab.world import SERVER, SERVER6, world
from netns_tests.topology import Provided, provided

Finding = dict[str, Any]
HOSTS = ("--host", f"{SERVER},{SERVER6}")
# An administrator's firewall, and one like Docker's: both drop forwarded packets.
DROPS = "{ type filter hook forward priority 0; policy drop; }"
OWN = f"add table inet mine\nadd chain inet mine forward {DROPS}"
DOCKER = f"""
    add table ip filter
    add chain ip filter DOCKER-USER
    add chain ip filter FORWARD {DROPS}
    add rule ip filter FORWARD jump DOCKER-USER
"""
# The part of Ollama's answer that the doctor reads.
OLLAMA = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path == "/api/version"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(b'{"version": "0.9"}' if found else b"")
http.server.HTTPServer(("127.0.0.1", 11434), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Provided]:
    with world("ncdoctor") as made, provided(made) as running:
        yield running


@pytest.fixture
def up(shared: Provided) -> Iterator[Provided]:
    """A running tunnel. Each test must repair what it breaks."""
    assert wrong(shared.world.provider_side, *HOSTS) == {}
    yield shared
    assert wrong(shared.world.provider_side, *HOSTS) == {}


def findings(side: Side, *options: str) -> list[Finding]:
    done = side.try_nconnect("doctor", "--json", *options)
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["ok"] else 1)
    found: list[Finding] = answer["findings"]
    for finding in found:
        assert (finding["level"] == "ok") == (not finding["mend"]), finding
    return found


def wrong(side: Side, *options: str) -> dict[str, Finding]:
    return {f["check"]: f for f in findings(side, *options) if f["level"] != "ok"}


def do(up: Provided, mend: str) -> None:
    """Run the command that doctor proposed."""
    for command in mend.split(" && "):
        up.world.provider.must(*shlex.split(command))


def test_a_good_provider_has_no_findings(up: Provided) -> None:
    found = findings(up.world.provider_side, *HOSTS)
    assert [f for f in found if f["level"] != "ok"] == []
    checks = {f["check"] for f in found}
    assert {
        "privileges",
        "tun",
        "nft",
        "firewall",
        "rp_filter",
        "routes",
        "clock",
        "node",
        "subnet",
        "mtu",
    } <= checks
    assert any(SERVER in f["text"] for f in found if f["check"] == "subnet")


def test_another_firewall_is_named_with_the_command_that_mends_it(up: Provided) -> None:
    up.world.provider.nft(OWN)
    assert not reaches(up.world.user, SERVER, SERVICE)
    found = wrong(up.world.provider_side, *HOSTS)
    assert list(found) == ["firewall"]
    assert "the table mine drops what peers send to 192.168.50.0/24" in found["firewall"]["text"]
    # `--fix` does not touch a rule that an administrator wrote.
    assert list(wrong(up.world.provider_side, *HOSTS, "--fix")) == ["firewall"]
    do(up, found["firewall"]["mend"])
    assert wrong(up.world.provider_side, *HOSTS) == {}
    until(lambda: reaches(up.world.user, SERVER, SERVICE), "the server")


@pytest.mark.skipif(shutil.which("iptables") is None, reason="no iptables")
def test_docker_s_firewall_is_mended_by_fix(up: Provided) -> None:
    up.world.provider.nft(DOCKER)
    assert not reaches(up.world.user, SERVER, SERVICE)
    side = up.world.provider_side
    assert "docker drops" in wrong(side, *HOSTS)["firewall"]["text"]
    assert wrong(side, *HOSTS, "--fix") == {}
    until(lambda: reaches(up.world.user, SERVER, SERVICE), "the server")


def test_forwarding_that_was_switched_off_is_mended_by_fix(up: Provided) -> None:
    """The daemon switches it on again once. The second time it reports the problem instead."""
    side, name = up.world.provider_side, "net.ipv4.ip_forward"
    up.world.provider.sysctl(name, "0")
    until(lambda: up.world.provider.sysctl(name) == "1", "the daemon to set it again")
    up.world.provider.sysctl(name, "0")
    until(lambda: any(name in problem for problem in side.status()["problems"]), "the status to say it")
    assert "something switched it off again" in wrong(side, *HOSTS)["forwarding v4"]["text"]
    assert "forwarding v4" not in wrong(side, *HOSTS, "--fix")
    assert up.world.provider.sysctl(name) == "1"
    until(lambda: side.status()["problems"] == [], "the status to be content")
    side.nconnect("reload")  # resets the counter of repairs for the next tests


def test_a_small_mtu_a_loopback_server_and_a_silent_subnet_are_named(up: Provided) -> None:
    made, side = up.world, up.world.provider_side
    made.server.ip("link set eth0 mtu 1400")
    server = made.run_in(made.provider, [sys.executable, "-c", OLLAMA], "ollama")
    asked = ["curl", "-s", "http://127.0.0.1:11434/api/version"]
    until(lambda: made.provider.run(asked).returncode == 0, "the server", process=server)
    found = wrong(side, *HOSTS)
    assert set(found) == {"mtu", "inference"}
    assert "write mtu = 1400 in [provide]" in found["mtu"]["mend"]
    assert "Ollama on 127.0.0.1:11434 listens on loopback only" in found["inference"]["text"]
    assert "provide server add ollama http://127.0.0.1:11434" in found["inference"]["mend"]
    # After these changes nothing is left to complain about.
    text = side.config.read_text()
    side.config.write_text(text.replace("[provide]\n", "[provide]\nmtu = 1400\n"))
    side.nconnect("reload")
    side.nconnect("provide", "add", "--expose", "127.0.0.1:11434")
    assert wrong(side, *HOSTS) == {}
    server.stop()
    found = wrong(side, *HOSTS)
    assert set(found) == {"expose"}
    assert "nothing listens on 127.0.0.1:11434" in found["expose"]["text"]
    side.nconnect("provide", "remove", "--expose", "127.0.0.1:11434")
    made.server.ip("link set eth0 down")
    assert "none of" in wrong(side, *HOSTS)["subnet"]["text"]
    made.server.ip("link set eth0 up")
    made.server.ip(f"address add {SERVER6}/64 dev eth0 nodad")  # the kernel removed it


def test_a_missing_node_is_named_and_the_report_has_no_secret(up: Provided, tmp_path: Path) -> None:
    made, side = up.world, up.world.user_side
    assert wrong(side) == {}
    made.node.stop()
    found = wrong(side, "--report", str(tmp_path / "report.tar.gz"))
    assert found["node"]["level"] == "failure"
    assert "192.0.2.1:30003" in found["node"]["text"]
    # The report has the daemon's state, its configuration and the findings, and no seed in any of them.
    with tarfile.open(tmp_path / "report.tar.gz") as bundle:
        names = {name.rpartition("/")[2] for name in bundle.getnames()}
        whole = b"".join(file.read() for m in bundle.getmembers() if (file := bundle.extractfile(m)))
    assert names >= {"doctor.json", "status.json", "nc0.toml"}
    seed = tomllib.loads(side.config.read_text())["interface"]["seed"]
    assert seed.encode() not in whole
    assert b"192.0.2.1:30003" in whole
    made.node.start()
    for each in (side, made.provider_side):
        each.wait()
