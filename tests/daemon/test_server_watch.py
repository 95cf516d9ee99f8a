"""Watching servers: which answer, and what they say, beside servers that say too much or nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from nconnect.config.file import parse_config
from nconnect.daemon import server_watch
from nconnect.daemon.server_watch import FAILURES, ServerWatch
from nconnect.daemon.settings import InForce
from nconnect.invite.table import PeerTable
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.model import ProvidedServer
from nconnect.offers.told import LiveServer

Answer = Callable[[Request], Response]


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**arguments: object) -> None:
        asyncio.run(test(**arguments))

    return run


async def serving(answer: Answer, port: int = 0) -> tuple[HttpServer, int]:
    async def handle(request: Request) -> Response:
        return answer(request)

    server = await HttpServer.listen_tcp("127.0.0.1", port, handle)
    return server, server.port


def in_force(**ports: int) -> InForce:
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    servers = "".join(f'[[provide.server]]\nname = "{name}"\nurl = "{url}"\n' for name, url in urls.items())
    text = f'[interface]\nseed = "{"11" * 32}"\naddress = ["10.86.0.1/24"]\n{servers}'
    return InForce(PeerTable(parse_config(text, interface="nc0"), {}))


def watching(force: InForce) -> tuple[ServerWatch, list[dict[str, LiveServer]]]:
    seen: list[dict[str, LiveServer]] = []
    watch = ServerWatch(force, lambda: seen.append(dict(watch.live)))
    watch.config_changed()
    return watch, seen


def openai(*models: str) -> Answer:
    def answer(request: Request) -> Response:
        if request.path != "/v1/models":
            return Response.json({}, status=404)
        return Response.json({"data": [{"id": model, "owned_by": "vllm"} for model in models]})

    return answer


def ollama(request: Request) -> Response:
    if request.path != "/api/tags":
        return Response.json({}, status=404)
    return Response.json({"models": [{"name": "llama3.2:3b"}, {"name": "qwen2.5:7b"}, {"x": 1}, 7]})


@in_loop
async def test_models_are_those_that_the_server_lists() -> None:
    one, first = await serving(openai("a", "b"))
    two, second = await serving(ollama)
    try:
        watch, seen = watching(in_force(vllm=first, ollama=second))
        await watch.look()
        assert watch.live == {
            "vllm": LiveServer("vLLM", ("a", "b")),
            "ollama": LiveServer("Ollama", ("llama3.2:3b", "qwen2.5:7b")),
        }
        assert seen[-1] == watch.live
        told = len(seen)
        await watch.look()
        assert len(seen) == told, "nothing has changed"
    finally:
        await one.close()
        await two.close()


@in_loop
async def test_a_server_that_refuses_is_withdrawn_at_once_and_comes_back_with_its_models() -> None:
    server, port = await serving(openai("a"))
    watch, _ = watching(in_force(vllm=port))
    await watch.look()
    await server.close()
    await watch.look()
    assert watch.live == {}
    server, _ = await serving(openai("b"), port)
    await watch.look()
    assert watch.live == {"vllm": LiveServer("vLLM", ("b",))}
    await server.close()


@in_loop
async def test_a_server_that_is_silent_is_withdrawn_when_two_looks_in_a_row_have_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, port = await serving(openai("a"))
    watch, _ = watching(in_force(vllm=port))
    await watch.look()

    async def silence(*_: object) -> None:
        raise TimeoutError

    for rounds in (FAILURES - 1, FAILURES):
        with monkeypatch.context() as silent:
            silent.setattr(server_watch, "dial", silence)
            for _ in range(rounds):
                assert "vllm" in watch.live
                await watch.look()
        assert ("vllm" in watch.live) is (rounds < FAILURES)
        await watch.look()
    await server.close()


@in_loop
async def test_who_has_no_peers_is_not_woken_and_looks_when_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_watch, "EVERY_S", 0.01)
    looks: list[object] = []
    looked = asyncio.Event()

    async def refuse(*_: object) -> None:
        looks.append(None)
        looked.set()
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(server_watch, "dial", refuse)
    is_heard = False
    watch = ServerWatch(in_force(vllm=9), lambda: None, is_heard=lambda: is_heard)
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.sleep(0.05)
        assert looks == [], "without servers"
        watch.config_changed()
        async with asyncio.timeout(10):
            await looked.wait()
        await asyncio.sleep(0.1)
        assert len(looks) == 1, "without peers"
        is_heard = True
        watch.session_up()
        async with asyncio.timeout(10):
            while len(looks) < 4:
                looked.clear()
                await looked.wait()
    finally:
        task.cancel()


@in_loop
async def test_a_server_that_does_not_answer_delays_no_look_at_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_watch, "EVERY_S", 0.01)
    asked = asyncio.Event()

    async def ask(server: ProvidedServer) -> LiveServer:
        if server.name == "slow":
            asked.set()
            await asyncio.Event().wait()
        return LiveServer()

    monkeypatch.setattr(server_watch, "ask", ask)
    slow, slow_port = await serving(openai())
    other, port = await serving(openai())
    there, gone = asyncio.Event(), asyncio.Event()

    def changed() -> None:
        (there if "other" in watch.live else gone).set()

    watch = ServerWatch(in_force(slow=slow_port, other=port), changed)
    watch.config_changed()
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(10):
            await asked.wait()
            await there.wait()
            gone.clear()
            await other.close()
            await gone.wait()
        assert set(watch.live) == {"slow"}
    finally:
        task.cancel()
        await slow.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: Response(200, b"<html>"),
        lambda _: Response(200, b"[" * 50_000),
        lambda _: Response(200, b'{"data": 7, "models": {}}'),
        lambda _: Response(302, b"", (("location", "http://127.0.0.1:1/elsewhere"),)),
        lambda _: Response(200, json.dumps({"models": ["x"] * (1 << 16)}).encode()),
    ],
)
@in_loop
async def test_one_that_is_no_inference_server_is_there_without_models(answer: Answer) -> None:
    server, port = await serving(answer)
    try:
        watch, _ = watching(in_force(web=port))
        await watch.look()
        assert watch.live == {"web": LiveServer()}
    finally:
        await server.close()


@in_loop
async def test_no_answer_is_read_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_watch, "MAX_ANSWER", 1000)
    server, port = await serving(openai(*(f"model{n}" for n in range(100))))
    try:
        watch, _ = watching(in_force(vllm=port))
        await watch.look()
        assert watch.live == {"vllm": LiveServer()}
    finally:
        await server.close()


@in_loop
async def test_what_the_configuration_no_longer_names_is_withdrawn_at_once() -> None:
    server, port = await serving(openai("a"))
    try:
        force = in_force(vllm=port, other=port)
        watch, seen = watching(force)
        await watch.look()
        assert set(watch.live) == {"vllm", "other"}
        force.put(in_force(vllm=port).file)
        watch.config_changed()
        assert set(watch.live) == set(seen[-1]) == {"vllm"}
    finally:
        await server.close()


@in_loop
async def test_a_new_server_is_looked_at_at_once() -> None:
    server, port = await serving(openai("a"))
    force = in_force()
    found = asyncio.Event()
    watch = ServerWatch(force, lambda: found.set() if watch.live["vllm"].models else None)
    watch.config_changed()
    task = asyncio.create_task(watch.run())
    try:
        force.put(in_force(vllm=port).file)
        watch.config_changed()
        async with asyncio.timeout(10):
            await found.wait()
        assert watch.live == {"vllm": LiveServer("vLLM", ("a",))}
    finally:
        task.cancel()
        await server.close()
