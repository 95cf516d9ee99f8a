"""The socket by which a node tells its status."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from nconnect.control.node import NodeControl, NodeStatus
from nconnect.control.node_client import running_nodes
from nconnect.errors import ControlError
from nconnect.io.http.http import Credentials, Request
from nconnect.io.http.http_client import request

STATUS = NodeStatus(
    7, "0.1.0", "::", 30002, 30003, "ab" * 32, 1.5, 3, 2, 10, 1000, 1, 50, 0, 0,
    drops={"unknown_dest": 1}, cluster={"nodes": ["ab" * 32]},
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCONNECT_RUN_DIR", str(tmp_path))
    return tmp_path / "nodes"


def test_the_status_arrives_as_it_was(folder: Path) -> None:
    async def run() -> None:
        control = NodeControl(lambda: STATUS)
        control.bind()
        await control.start()
        try:
            assert await asyncio.to_thread(running_nodes) == [STATUS]
            path = folder / f"{os.getpid()}.sock"
            answer = await request("GET", "http://node/v1/other", unix_socket=path, timeout_s=5)
            assert answer.status == 404
        finally:
            await control.close()
            await control.close()

    asyncio.run(run())
    assert not folder.exists(), "the last one takes the folder with it"


def ask(uid: int, method: str = "GET", target: str = "/v1/status") -> int:
    ask = Request(method, target, (), credentials=Credentials(1, uid, uid))
    return asyncio.run(NodeControl(lambda: STATUS).handle(ask)).status


def test_only_root_and_its_own_user_may_ask() -> None:
    assert ask(0) == ask(os.geteuid()) == 200
    assert ask(os.geteuid() + 12345) == 403
    assert asyncio.run(NodeControl(lambda: STATUS).handle(Request("GET", "/v1/status", ()))).status == 403


def test_what_is_no_part_of_it() -> None:
    assert ask(0, "POST") == 405
    assert ask(0, target="/v1/down") == 404


def test_closing_what_never_began_is_harmless() -> None:
    asyncio.run(NodeControl(lambda: STATUS).close())


def test_no_node_and_dead_nodes_are_none(folder: Path) -> None:
    assert running_nodes() == []
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "1.sock"))
    assert running_nodes() == []


@pytest.mark.parametrize("content", [b"{}", b'{"pid": 1}', b"[]", b"nonsense"])
def test_an_answer_that_is_no_status_is_one_line(folder: Path, content: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)

    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + content)
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(answer, folder / "1.sock")
        async with server:
            with pytest.raises(ControlError, match="cannot be read") as caught:
                await asyncio.to_thread(running_nodes)
            assert "\n" not in str(caught.value)

    folder.mkdir()
    asyncio.run(run())
