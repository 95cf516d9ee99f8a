from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, time
from pathlib import Path
from nconnect.cli.detach import detached
from nconnect.errors import ConfigError, HostError

def run(ready):
    print("a line for the log")
    %s

try:
    print("up" if detached(Path(sys.argv[1]), run, timeout_s=%s) else "still trying")
except Exception as error:
    print(type(error).__name__, getattr(error, "exit_status", None), error)
"""


def detach(tmp_path: Path, body: str, timeout_s: float = 20.0) -> tuple[str, Path]:
    log = tmp_path / "log"
    program = PROGRAM % (body, timeout_s)
    result = subprocess.run(
        [sys.executable, "-c", program, str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=60,  # the daemon holds neither pipe: else this would wait for it
    )
    return result.stdout.strip(), log


def test_ready(tmp_path: Path) -> None:
    session = tmp_path / "session"
    body = f"""
    Path({str(session)!r}).write_text(f"{{os.getpid()}} {{os.getsid(0)}} {{os.getcwd()}} {{os.isatty(0)}}")
    ready()
    ready()
    return 0
"""
    said, log = detach(tmp_path, body)
    assert said == "up"
    pid, sid, folder, terminal = session.read_text().split()
    assert pid != sid  # no leader: it can never get a terminal again
    assert (folder, terminal) == ("/", "False")
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('raise HostError("no TUN")', "DetachedFailure 1 no TUN"),
        ('raise ConfigError(["one", "two"])', "DetachedFailure 2 one\ntwo"),
        ("return 0", "DetachedFailure 1 the daemon ended before it was up: see its log"),
        ("1 / 0", "DetachedFailure 1 unexpected ZeroDivisionError: the log has the traceback"),
        ("os.kill(os.getpid(), 9)", "DetachedFailure 1 the daemon was killed before it was up: see its log"),
        ("raise KeyboardInterrupt", "DetachedFailure 130 interrupted"),
    ],
)
def test_failures_come_back(tmp_path: Path, body: str, says: str) -> None:
    said, log = detach(tmp_path, body)
    assert said == says
    if "Zero" in body or "1 / 0" in body:
        assert "Traceback" in log.read_text()


def test_it_is_left_alone_when_it_takes_too_long(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = f"""
    import os
    os.mkfifo({str(gate)!r})
    open({str(gate)!r}).read()  # until the test lets it go on
    ready()  # nobody waits any more
    print("over")
    return 0
"""
    said, log = detach(tmp_path, body, timeout_s=0.3)
    assert said == "still trying"
    while not gate.exists():
        pass
    gate.write_text("go")
    while "over" not in log.read_text():
        pass
    assert "a line for the log" in log.read_text()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    said, _ = detach(tmp_path, "return 0")
    assert said.startswith("HostError 1 cannot write the log")
