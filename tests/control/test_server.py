from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from nconnect.control.server import ControlServer
from nconnect.io.files.run_files import OwnRunFiles
from nconnect.io.http.http import Credentials, Request
from tests.control.fake import READER, STATUS, FakeBackend

ROOT = Credentials(1, 0, 0)


def ask(
    method: str,
    target: str,
    body: object = None,
    *,
    who: Credentials | None = ROOT,
    backend: FakeBackend | None = None,
) -> tuple[int, dict[str, Any]]:
    server = ControlServer(backend or FakeBackend(Path("/nowhere")), uid=1000)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = asyncio.run(server.handle(Request(method, target, (), data, "", who)))
    return response.status, json.loads(response.body)


def test_status() -> None:
    assert ask("GET", "/v1/status") == (200, json.loads(json.dumps(STATUS.to_json())))


@pytest.mark.parametrize("uid", [0, 1000])
def test_root_and_the_daemons_own_user_may_ask(uid: int) -> None:
    assert ask("GET", "/v1/status", who=Credentials(1, uid, uid))[0] == 200


@pytest.mark.parametrize("who", [Credentials(1, 1001, 0), None])
@pytest.mark.parametrize("target", ["/v1/status", "/v1/down", "/nothing"])
def test_nobody_else_may(who: Credentials | None, target: str) -> None:
    backend = FakeBackend(Path("/nowhere"))
    status, content = ask("POST" if "down" in target else "GET", target, who=who, backend=backend)
    assert (status, list(content)) == (403, ["error"])
    assert backend.asked == []


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [("GET", "/", 404), ("GET", "/v2/status", 404), ("POST", "/v1/status", 405), ("GET", "/v1/down", 405)],
)
def test_what_there_is_not(method: str, target: str, expected: int) -> None:
    status, content = ask(method, target)
    assert status == expected
    assert "is not part of this API" in content["error"]


def test_wait() -> None:
    backend = FakeBackend(Path("/nowhere"))
    assert ask("GET", "/v1/wait?peer=laptop&timeout_s=2.5", backend=backend)[0] == 200
    assert ask("GET", "/v1/wait", backend=backend)[0] == 200
    assert backend.asked == [("wait", "laptop", 2.5), ("wait", None, 30.0)]
    backend.answers = False
    assert ask("GET", "/v1/wait", backend=backend) == (504, {"error": "no link is up"})


@pytest.mark.parametrize("value", ["x", "-1", "nan", "inf", "1e9", ""])
def test_wait_with_a_bad_timeout(value: str) -> None:
    assert ask("GET", f"/v1/wait?timeout_s={value}")[0] == 400


def test_reload_and_its_refusal() -> None:
    backend = FakeBackend(Path("/nowhere"))
    assert ask("POST", "/v1/reload", backend=backend) == (200, {})
    backend.refuse_reload = "F:3: wrong"
    status, content = ask("POST", "/v1/reload", backend=backend)
    assert status == 409
    assert content["error"] == "F:3: wrong\nand more"


def test_down() -> None:
    backend = FakeBackend(Path("/nowhere"))
    assert ask("POST", "/v1/down", backend=backend) == (200, {})
    assert backend.asked == ["stop"]


def test_ping() -> None:
    backend = FakeBackend(Path("/nowhere"))
    reply = {"peer": "laptop", "rtt_ms": 1.25, "node_ms": 0.5, "path": "node",
             "peer_node_ms": 0.25, "rest_ms": 0.5}  # fmt: skip
    assert ask("POST", "/v1/ping", {"peer": "laptop", "timeout_s": 1}, backend=backend) == (200, reply)
    assert ask("POST", "/v1/ping", {"peer": "nobody"}, backend=backend)[0] == 409
    backend.answers = False
    assert ask("POST", "/v1/ping", {"peer": "laptop"}, backend=backend) == (
        504,
        {"error": "no answer in time"},
    )


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"\xff", [], {}, {"peer": 3}, {"peer": "a", "timeout_s": True}]
)
def test_ping_with_a_bad_body(body: object) -> None:
    assert ask("POST", "/v1/ping", body)[0] == 400


def test_a_mistake_of_ours_is_logged_and_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(Path("/nowhere"))
    backend.breaks = True
    status, content = ask("GET", "/v1/status", backend=backend)
    assert status == 500
    assert "ZeroDivisionError" in content["error"]
    assert "Traceback" not in content["error"]
    assert "Traceback" in caplog.text


def test_the_socket_is_secret_replaces_a_dead_one_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path / "run"))
    path = tmp_path / "run" / "nc0.sock"

    async def scenario() -> None:
        before = os.umask(0)
        try:
            files = OwnRunFiles("nc0")
            server = await ControlServer.on(files.listen(), path, FakeBackend(path))
        finally:
            os.umask(before)
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert status.st_mode & 0o777 == 0o600
        files.remove_socket()
        await server.close()
        await server.close()
        assert not path.exists()

    asyncio.run(scenario())
    path.write_text("left by a killed one")
    asyncio.run(scenario())


@pytest.mark.parametrize("target", ["/v1/offers", "/v1/usage"])
def test_a_reader_may_read_offers_and_usage(target: str) -> None:
    assert ask("GET", target, who=Credentials(1, READER, READER))[0] == 200


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/status"),
        ("GET", "/v1/pending"),
        ("GET", "/v1/wait"),
        ("POST", "/v1/down"),
        ("POST", "/v1/reload"),
        ("POST", "/v1/ping"),
        ("POST", "/v1/offers"),
        ("GET", "/v1/offers/"),
        ("GET", "/nothing"),
    ],
)
def test_a_reader_may_nothing_else(method: str, target: str) -> None:
    backend = FakeBackend(Path("/nowhere"))
    status, content = ask(method, target, who=Credentials(1, READER, READER), backend=backend)
    assert (status, list(content)) == (403, ["error"])
    assert backend.asked == []


def test_who_is_no_reader_may_not_read() -> None:
    assert ask("GET", "/v1/offers", who=Credentials(1, READER + 1, 0))[0] == 403
    assert ask("GET", "/v1/offers", who=None)[0] == 403
