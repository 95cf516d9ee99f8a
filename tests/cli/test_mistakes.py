"""The catalogue of mistakes: each is one line on standard error (a file's: one for each mistake in it), says
what to do, ends with 1 or 2, changes nothing, and shows no traceback.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.control.fake import KEY, FakeBackend

GOOD = f"x.{KEY}"
OTHER = "y." + "66" * 32

# On the command line: (arguments, status, what the line says).
USAGE = [
    ("statsu", 2, "did you mean 'status'"),
    ("dcotor", 2, "did you mean 'doctor'"),
    ("peer lst", 2, "did you mean 'list'"),
    ("config shw", 2, "did you mean 'show'"),
    ("up --keep-tryin", 2, "--keep-trying"),
    ("up --log-format xml", 2, "write text or json"),
    ("init --role boss", 2, "write user or provider"),
    ("init --address 10.86.0.1", 2, "write 10.86.0.1/24"),
    ("init --address fe80::x/64", 2, "--address"),
    ("init --address 10.86.0.1/24 --provide 192.168.50.3/24", 2, "host bits"),
    ("init --address 10.86.0.1/24 --service 80", 2, "--service"),
    ("init --address 10.86.0.1/24 --expose 10.86.0.1:80", 2, "loopback"),
    ("init --address 10.86.0.1/24 --seed-rpc node", 2, "http://HOST:30003"),
    ("init --address 10.86.0.1/24 --provide 192.168.50.0/99", 2, "not an IP prefix"),
    ("init --address 10.86.0.1/24 --service 99999/tcp", 2, "from 1 to 65535"),
    ("init --address 10.86.0.1/24 --expose 127.0.0.1:99999", 2, "from 1 to 65535"),
    ("init --address 10.86.0.1/24 --seed-rpc http://x:99999", 2, "http://HOST:30003"),
    ("init --address 10.86.0.1/24 --identifier a/b", 2, "--identifier"),
    ("init --role boss", 2, "user or provider"),
    ("address", 2, "nconnect init"),
    ("up", 2, "nconnect init"),
    ("join nonsense", 2, "nc1-"),
    ("join nc1-0000", 2, "copy it again"),
    ("status --watch --json", 2, "give only one of them"),
    ("wait --timeout soon", 2, "--timeout': write a number (see"),
    ("ping", 2, "PEER"),
    ("ping a --count 0", 2, "write 1 or more (see"),
    ("logs -n many", 2, "--lines': write a whole number (see"),
    ("completion powershell", 2, "bash, zsh or fish"),
    ("doctor --host nowhere", 2, "such as 192.168.50.10"),
    ("node", 2, "--listen"),
    ("tunnel", 2, "--to"),
    ("tunnel --to server", 2, "neither HOST:PORT nor an NKN address"),
    ("tunnel --to 127.0.0.1:99999", 2, "write HOST:PORT"),
    ("tunnel --from 80 --to 127.0.0.1:81", 2, "nothing would go through NKN"),
    (f"tunnel --from host:x --to {OTHER}", 2, "write nkn, or HOST:PORT"),
    (f"tunnel --from 8080 --to {OTHER} --accept all", 2, "--accept is for --from nkn"),
    ("tunnel --to 127.0.0.1:80 --accept bob", 2, "--accept bob: write public keys"),
    ("tunnel --to 127.0.0.1:80 --mtu 0", 2, "write 1 or more (see"),
    ("node --listen 0.0.0.0:1", 2, "without port"),
    ("node --listen 0.0.0.0 --ws-port 99999", 2, "write 65535 at most"),
    ("-c /nonexistent/nc0.toml config check", 2, "does not exist"),
    ("-c /tmp address", 2, "is not a file"),
    ("-c /nonexistent/a-name-that-is-too-long.toml status", 2, "the kernel allows 15"),
]

# With a configuration (and a peer "laptop" in it), no daemon.
WITH_FILE = [
    ("init --address 10.86.0.1/24", 2, "--force overwrites"),
    ("down extra", 2, "unexpected extra argument"),
    ("status", 1, "nconnect up"),
    ("ping laptop", 1, "nconnect up"),
    ("wait --timeout 0", 1, "nconnect up"),
    ("reload", 1, "nconnect up"),
    ("logs", 1, "up -d"),
    ("peer pending", 1, "nconnect up"),
    ("peer show laptpo", 2, "did you mean 'laptop'"),
    ("peer remove desktop", 2, "there are laptop"),
    ("peer set laptop", 2, "give an option"),
    ("peer set laptop --allow all,none", 2, "or the word"),
    ("peer set laptop --allow 10.0.0.1:99999", 2, "--allow"),
    ("peer set laptop --access yesterday", 2, "--access"),
    ("peer set laptop --preshared-key-file /nonexistent", 2, "openssl rand -hex 32"),
    (f"peer add laptop {OTHER} --allowed-ips 10.86.0.9/32", 2, "peer set laptop"),
    (f"peer add phone {GOOD} --allowed-ips 10.86.0.9/32", 2, "same key"),
    (f"peer add phone {OTHER} --allowed-ips 10.86.0.2/32", 2, "also belongs to"),
    (f"peer add phone {OTHER} --allowed-ips 10.86.0.1/32", 2, "own address"),
    (f"peer add phone {OTHER}", 2, "--allowed-ips is missing"),
    ("peer add phone nonsense --allowed-ips 10.86.0.9/32", 2, "nconnect address"),
    ("peer add -- -x y", 2, "NAME"),
    ("provide add", 2, "give --subnet"),
    ("provide remove --subnet ,", 2, "give --subnet"),
    ("provide add --subnet 192.168.50.3/24", 2, "write 192.168.50.0/24 for the network"),
    ("provide add --subnet 192.168.50.0/24", 2, "there is already a subnet"),
    ("provide add --service 80", 2, "--service"),
    ("provide add --expose 10.0.0.1:80", 2, "not a loopback address"),
    ("provide add --subnet 192.168.51.0/24=192.168.50.0/24", 2, "is there twice"),
    ("provide remove --subnet 192.168.51.0/24", 2, "did you mean '192.168.50.0/24'"),
    ("provide remove --service 8000/tcp", 2, "nconnect provide add"),
    ("peer import /nonexistent", 2, "peer export"),
    ("peer export /nonexistent/x", 1, "cannot write"),
]

# In the file: (text that is added, what the line says).
IN_FILE = [
    ("[interface", "not TOML"),
    ("[network]\nseed_rpcs = []", "did you mean seed_rpc"),
    ("[network]\nlinks = 9", "out of range"),
    ('[network]\nlinks = "2"', "without quotes"),
    ('[network]\nseed_rpc = "http://x:1"', "must be a list"),
    ("[metrics]", "listen"),
    ("[node]", 'listen = "0.0.0.0"'),
    ("[peer]", "two brackets"),
    ("[[peer]]\nname = 1", "missing"),
    ("[providr]", "did you mean provide"),
]


def is_good(err: str) -> bool:
    lines = err.splitlines()
    return bool(lines) and all(
        line.startswith("nconnect: error: ") and len(line) < 400 and "Traceback" not in line for line in lines
    )


def test_the_catalogue_is_long_enough() -> None:
    assert len(USAGE) + len(WITH_FILE) + len(IN_FILE) >= 60


@pytest.mark.parametrize(("line", "status", "says"), USAGE, ids=[case[0] for case in USAGE])
def test_on_the_command_line(run: Run, config_path: Path, line: str, status: int, says: str) -> None:
    result = run(*line.split())
    assert (result.status, result.out) == (status, ""), result.err
    assert is_good(result.err)
    assert result.err.count("\n") == 1
    assert says.lower() in result.err.lower()
    assert not config_path.exists()


@pytest.mark.parametrize(("line", "status", "says"), WITH_FILE, ids=[case[0] for case in WITH_FILE])
def test_with_a_configuration(run: Run, made: Path, line: str, status: int, says: str) -> None:
    assert run("peer", "add", "laptop", GOOD, "--allowed-ips", "10.86.0.2/32").status == 0
    before = made.read_text()
    result = run(*line.split())
    assert (result.status, result.out) == (status, ""), result.err
    assert is_good(result.err)
    assert says.lower() in result.err.lower()
    assert made.read_text() == before


@pytest.mark.parametrize(("text", "says"), IN_FILE, ids=[case[0] for case in IN_FILE])
def test_in_the_file(run: Run, made: Path, text: str, says: str) -> None:
    made.write_text(f"{made.read_text()}\n{text}\n")
    before = made.read_text()
    for command in (["config", "check"], ["up"], ["peer", "list"]):
        result = run(*command)
        assert (result.status, result.out) == (2, "")
        assert is_good(result.err)
        assert says in result.err
        assert f"{made}:" in result.err
    assert made.read_text() == before


def test_a_seed_file_that_cannot_be_used(run: Run, made: Path, tmp_path: Path) -> None:
    lines = [
        'seed_file = "key"' if line.startswith("seed = ") else line for line in made.read_text().split("\n")
    ]
    made.write_text("\n".join(lines))
    key = made.parent / "key"

    def refused() -> str:
        result = run("address")
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
        assert f"{made}:" in result.err
        return result.err

    assert f"{key} does not exist: write a seed to it (openssl rand -hex 32)" in refused()
    key.write_text("short\n")
    key.chmod(0o600)
    assert "64 hex digits" in refused()
    key.write_text("07" * 32 + "\n")
    assert run("address").status == 0
    key.chmod(0o644)
    assert f"chmod 600 {key}" in refused()


def test_a_file_that_others_can_read(run: Run, made: Path) -> None:
    made.chmod(0o644)
    result = run("address")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert f"chmod 600 {made}" in result.err


def test_what_the_daemon_refuses_is_one_line(run: Run, daemon: FakeBackend, made: Path) -> None:
    daemon.refuse_reload = "mtu cannot change while nc0 is up"
    before = made.read_text()
    result = run("peer", "add", "b", OTHER, "--allowed-ips", "10.86.0.5/32")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert made.read_text() == before


def test_a_daemon_with_a_mistake_of_its_own(run: Run, daemon: FakeBackend) -> None:
    daemon.breaks = True
    result = run("status")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert "Traceback" not in result.err
