from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nconnect.control import client as module
from nconnect.control.client import ControlClient, ControlTimeout, NotRunning
from nconnect.errors import ControlError
from tests.control.fake import STATUS, FakeBackend


def test_everything_that_can_be_asked(backend: FakeBackend) -> None:
    client = ControlClient("nc0")
    assert client.is_running()
    assert client.status() == STATUS
    client.wait("lap top&x", 1.5)
    client.reload()
    assert client.ping("laptop", 2.0).rtt_ms == 1.25
    client.down()
    assert backend.asked == [("wait", "lap top&x", 1.5), "reload", ("ping", "laptop", 2.0), "stop"]


def test_refusals(backend: FakeBackend) -> None:
    client = ControlClient("nc0")
    backend.answers = False
    backend.refuse_reload = "F:3: wrong"
    with pytest.raises(ControlTimeout, match=r"^no link is up$"):
        client.wait(None, 0.1)
    with pytest.raises(ControlTimeout):
        client.ping("laptop", 0.1)
    with pytest.raises(ControlError, match="there is no peer 'nobody'"):
        client.ping("nobody", 0.1)
    with pytest.raises(ControlError, match="F:3: wrong"):
        client.reload()


def test_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    client = ControlClient("nc3")
    assert not client.is_running()
    with pytest.raises(NotRunning, match="nc3 is not up: start it with `nconnect up`"):
        client.status()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "nc3.sock"))  # what a killed daemon leaves
    assert not client.is_running()
    with pytest.raises(NotRunning):
        client.down()


@contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[None]:
    """A stranger on the socket: says `answer` to the first caller and hangs up; None: says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)
        ended = threading.Event()

        def serve() -> None:
            with listener.accept()[0] as caller:
                caller.recv(65_536)
                if answer is None:
                    ended.wait(10)
                else:
                    caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "is gone|does not speak"),
        (b"hello\r\n\r\n", "does not speak nconnect's API"),
        (http(b"<html>"), "cannot be read"),
        (http(b"[]"), "cannot be read"),
        (http(b"[" * 100_000), "cannot be read"),
        (http(b"{}"), "cannot be read: is it of another version"),
        (http(b'{"links": 3}'), "cannot be read"),
        (http(b"{}", "500 Oops"), "the daemon refused \\(500\\)"),
        (http(b"{", "500 Oops"), "cannot be read"),
        (http(b'{"links": []}')[:-2], "cannot be read"),
    ],
)
def test_a_stranger_on_the_socket_is_one_line(tmp_path: Path, answer: bytes, says: str) -> None:
    path = tmp_path / "nc0.sock"
    with answering(path, answer), pytest.raises(ControlError, match=says) as caught:
        ControlClient("nc0", path).status()
    assert "\n" not in str(caught.value)


def test_a_daemon_s_words_do_not_move_the_cursor(tmp_path: Path) -> None:
    """Its user is not root; who runs the command may be."""
    error = json.dumps({"error": "\x1b[2Jno\u202e such\r\x9b peer\nnext line"})
    head = f"HTTP/1.1 404 x\r\nContent-Length: {len(error)}\r\n\r\n"
    with (
        answering(tmp_path / "nc0.sock", (head + error).encode()),
        pytest.raises(ControlError, match=r"peer\nnext line$") as caught,
    ):
        ControlClient("nc0", tmp_path / "nc0.sock").reload()
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))


def test_a_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    path = tmp_path / "nc0.sock"
    with answering(path, None), pytest.raises(ControlError, match="does not answer"):
        ControlClient("nc0", path).status()
