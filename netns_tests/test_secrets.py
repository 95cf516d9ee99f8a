"""No key, token or preshared key is in anything that the product writes or shows, even with logs at DEBUG.

user (joined by a token) ── node ── provider ── server
prying, another user who watches the list of processes

A fixture does everything that has to do with a secret, and collects all output. The tests search it.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.netns import Namespace
from lab.process import Process, until
from lab.sides import RPC_PORT, WS_PORT, Side, nconnect_command
from lab.traffic import SERVICE, connect, download, expected_download, pings, serve
from lab.world import LAN, PROVIDER_PEER, PROVIDER_TUNNEL, SEED_RPC, SERVER, World, world
from nconnect.crypto.keys import Identity
from nconnect.invite.token import Token

METRICS = 9586
LOUD = [sys.executable, "-m", "netns_tests.loud"]
pytestmark = pytest.mark.timeout(300)
PRYING = Path(__file__).with_name("prying.py")


class Story:
    """What happened in a world, and all that was printed and logged."""

    def __init__(self, made: World) -> None:
        self.world = made
        self.said: dict[str, str] = {}
        self.secrets: dict[str, bytes] = {}  # raw
        self.tokens: list[str] = []

    def run(self, side: Side, *arguments: str, text: str = "", ok: bool | None = True) -> str:
        """Run a command with and without `--debug`, and keep both outputs."""
        command = [*nconnect_command(), "--debug", *arguments, "-c", str(side.config)]
        done = side.namespace.run(command, env=side.env, input_text=text)
        self.said[f"{len(self.said)} {side.name}: {' '.join(arguments)}"] = done.stdout + done.stderr
        if ok is not None:
            assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done.stdout

    def up(self, side: Side, *options: str) -> None:
        log = side.folder / f"{side.name}-loud.log"
        command = [*LOUD, "up", *options, "-c", str(side.config)]
        side.daemon = Process(side.namespace, command, log, env=side.env)
        side.wait()

    def forms(self) -> dict[str, bytes]:
        """Each secret in all forms in which it may be written."""
        found = {f"token {n}": token.encode() for n, token in enumerate(self.tokens)}
        for name, raw in self.secrets.items():
            found[f"{name}, hex"] = raw.hex()[:32].encode()
            found[f"{name}, the end of its hex"] = raw.hex()[-32:].encode()
            found[f"{name}, base64"] = base64.b64encode(raw).rstrip(b"=")
            found[f"{name}, urlsafe"] = base64.urlsafe_b64encode(raw).rstrip(b"=")
            found[f"{name}, repr"] = repr(raw)[2:-1].encode()
            found[f"{name}, list"] = ", ".join(map(str, raw)).encode()
            found[f"{name}, raw"] = raw
        return found

    def search(self, where: str, text: bytes) -> list[str]:
        lowered = text.lower()
        return [f"{name}: {where}" for name, form in self.forms().items() if form.lower() in lowered]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with world("ncsecret") as made:
        told = Story(made)
        _begin(told)
        for act in (_join, _use):
            with Prying(told) as prying:
                act(told)
                told.said[f"processes: {act.__name__}"] = prying.text()
        yield told


def _begin(told: Story) -> None:
    """Start node and provider, and make tokens and seeds that nobody has used."""
    made = told.world
    serve(made.server, made, SERVICE)
    provider = made.provider_side
    seed_file = made.folder / "node.seed"
    node = [*LOUD, "node", "--listen", "0.0.0.0", "--verify-signatures", "--seed-file", str(seed_file)]
    made.node.process = made.run_in(made.internet, node, "node-loud")
    until(lambda: _listens(made.internet, WS_PORT) and _listens(made.internet, RPC_PORT), "the node")
    told.run(
        provider, "init", "--identifier", PROVIDER_PEER, "--address", f"{PROVIDER_TUNNEL}/24",
        "--provide", LAN, "--seed-rpc", SEED_RPC,
    )  # fmt: skip
    text = provider.config.read_text()
    text = text.replace("[interface]\n", "[interface]\naccept_pending = true\n", 1)
    provider.config.write_text(f'{text}\n[metrics]\nlisten = "127.0.0.1:{METRICS}"\n')
    told.up(provider)
    for name in ("laptop", "unused", "revoked"):
        told.tokens.append(json.loads(provider.nconnect("invite", name, "--json"))["token"])
    told.secrets["the provider's seed"] = _seed(provider)
    told.secrets["the provider's private key"] = Identity(_seed(provider)).dh_private
    told.secrets["the node's seed"] = bytes.fromhex(seed_file.read_text().strip())
    for n, token in enumerate(told.tokens):
        told.secrets[f"the secret of token {n}"] = Token.parse(token).secret


def _listens(where: Namespace, port: int) -> bool:
    try:
        connect(where, "127.0.0.1", port).close()
    except OSError:
        return False
    return True


def _join(told: Story) -> None:
    """Join with tokens that are refused, and with the right one."""
    made = told.world
    provider, user = made.provider_side, made.user_side
    token, _, revoked = told.tokens
    mistyped = token[:-1] + ("a" if token[-1] != "a" else "b")
    told.run(user, "join", "-", text=f"{mistyped}\n", ok=False)
    told.run(provider, "invite", "revoke", "revoked")
    told.run(user, "join", "-", text=f"{revoked}\n", ok=False)
    told.run(user, "join", "-", "--identifier", "laptop", text=f"{token}\n")
    told.secrets["the user's seed"] = _seed(user)
    told.secrets["the user's private key"] = Identity(_seed(user)).dh_private
    (peer,) = tomllib.loads(user.config.read_text())["peer"]
    told.secrets["the preshared key"] = bytes.fromhex(peer["preshared_key"])


def _use(told: Story) -> None:
    """Run all commands that read a secret, with right and with wrong input."""
    made = told.world
    provider, user = made.provider_side, made.user_side
    told.up(user, "--log-format", "json")
    user.wait(PROVIDER_PEER)
    until(lambda: pings(made.user, SERVER), "a ping's answer")
    with connect(made.user, SERVER, SERVICE) as connection:
        assert download(connection, 1 << 20) == expected_download(1 << 20)
    thief = Side("thief", made.user, made.folder / "thief", interface="nc1")
    told.run(thief, "join", "-", text=f"{told.tokens[0]}\n", ok=False)

    for side in (provider, user):
        for command in (
            ("status",), ("status", "--json"), ("config", "show"), ("config", "show", "--json"),
            ("peer", "list"), ("peer", "export"), ("invite", "list", "--json"), ("logs", "-n", "1000"),
        ):  # fmt: skip
            told.run(side, *command, ok=None)
        (name,) = (entry["name"] for entry in side.status()["peers"])
        told.run(side, "peer", "show", name)
        told.run(side, "ping", name)
    report = provider.folder / "report.tar.gz"
    told.run(provider, "doctor", "--json", "--report", str(report), ok=None)
    with tarfile.open(report) as bundle:
        for member in bundle.getmembers():
            file = bundle.extractfile(member)
            assert file is not None
            told.said[f"report: {member.name}"] = file.read().decode()
    _break(told, user)

    told.said["metrics"] = made.provider.enter(
        lambda: urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=10).read().decode()
    )
    key = made.folder / "key"
    key.write_text(f"{told.secrets['the preshared key'].hex()}\n")
    key.chmod(0o644)
    told.run(provider, "peer", "set", "laptop", "--preshared-key-file", str(key), ok=False)
    key.chmod(0o600)
    told.run(provider, "peer", "set", "laptop", "--preshared-key-file", str(key), ok=None)
    told.run(provider, "peer", "remove", "laptop")
    assert not pings(made.user, SERVER)
    for side in (user, provider):
        assert side.daemon is not None
        daemon = side.daemon
        told.run(side, "down")
        daemon.wait(10)
    assert made.node.process is not None
    made.node.process.stop()
    for log in (*made.folder.rglob("*.log"), *made.folder.rglob("core*")):
        told.said[f"the file {log.name}"] = log.read_text(errors="surrogateescape")


def _break(told: Story, side: Side) -> None:
    """Make mistakes in the lines that hold secrets: messages about them must not quote them."""
    good = side.config.read_text()
    seed = _seed(side).hex()
    for bad in (
        good.replace(seed, seed + "0"), good.replace(seed, f"{seed[:-1]}x"),
        good.replace(f'"{seed}"', seed), good.replace(f'"{seed}"', f'"{seed}'),
        good.replace("seed =", "sead ="), good.replace("preshared_key =", "presharedkey ="),
        good.replace("preshared_key = \"", "preshared_key = \"zz"), f"{good}\nseed = \"{seed}\"\n",
    ):  # fmt: skip
        assert bad != good
        side.config.write_text(bad)
        told.run(side, "config", "check", ok=False)
    for command in (("up",), ("reload",), ("status",)):
        told.run(side, *command, ok=None)
    side.config.write_text(good)
    told.run(side, "reload")


def _seed(side: Side) -> bytes:
    return bytes.fromhex(tomllib.loads(side.config.read_text())["interface"]["seed"])


class Prying:
    """Another user, who looks at every process until the block ends."""

    def __init__(self, told: Story) -> None:
        self._told = told
        self._log = told.world.folder / "prying.txt"

    def text(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Prying:
        secrets = [form for name, form in self._told.forms().items() if "raw" not in name]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                ["/usr/bin/python3", "-c", PRYING.read_text()],
                stdin=subprocess.PIPE, stdout=output, user=65534, group=65534, extra_groups=[],
                env={}, cwd="/",
            )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n".join(secrets))
        self._process.stdin.close()
        until(lambda: "watching" in self.text(), "who pries")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def test_the_logs_are_there_at_debug(story: Story) -> None:
    """The control: there are logs at DEBUG to search."""
    everything = "\n".join(story.said.values())
    assert "DEBUG" in everything
    assert "Traceback" in everything, "--debug shows where an error comes from"
    assert "nconnect_" in story.said["metrics"]
    assert story.world.user_side.config.read_text().count("preshared_key") == 1
    for said in (
        "config check",
        "config show",
        "peer show",
        "status --json",
        "report: nconnect-report/nc0.toml",
    ):
        assert any(said in where and text for where, text in story.said.items()), said


def test_no_secret_was_written_or_shown(story: Story) -> None:
    found = [hit for where, text in story.said.items() for hit in story.search(where, _bytes(text))]
    assert found == []


def test_the_search_finds_what_is_there(story: Story) -> None:
    """The control: the search finds each secret in the file that holds it."""
    held = b"".join(
        path.read_bytes()
        for path in (
            story.world.user_side.config,
            story.world.provider_side.config,
            story.world.folder / "node.seed",
        )
    )
    found = "\n".join(story.search("files", held))
    for name in ("the provider's seed", "the user's seed", "the node's seed", "the preshared key"):
        assert f"{name}, hex" in found
    assert story.search("here", f"a {story.tokens[0].upper()} b".encode())


def test_no_secret_was_in_the_list_of_processes(story: Story) -> None:
    for act in ("_join", "_use"):
        assert story.said[f"processes: {act}"].splitlines() == ["watching"]


def test_a_token_in_the_list_of_processes_is_seen(story: Story) -> None:
    """The control: a token on the command line of a program that does not hide it."""
    token = story.tokens[1]
    with Prying(story) as prying:
        code = "import sys; sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code, token], stdin=subprocess.PIPE) as careless:
            until(lambda: f"{careless.pid} cmdline {token}" in prying.text(), "the token to be seen")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
