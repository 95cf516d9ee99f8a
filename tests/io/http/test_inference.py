from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from nconnect.doctor.inference import Server
from nconnect.io.http import inference
from nconnect.io.http.http import Request, Response
from nconnect.io.http.http_server import HttpServer
from nconnect.io.system import listeners


async def _models(request: Request) -> Response:
    if request.path == "/v1/models":
        return Response.json({"data": [{"id": "tiny", "owned_by": "vllm"}]})
    return Response(404)


async def _nothing(request: Request) -> Response:
    return Response(200, b"<html>")


def test_scan_finds_inference_and_nothing_else() -> None:
    steps: list[tuple[int, int]] = []

    async def main() -> None:
        one = await HttpServer.listen_tcp("127.0.0.1", 0, _models)
        other = await HttpServer.listen_tcp("127.0.0.1", 0, _nothing)
        try:
            found = await inference.scan(
                ["127.0.0.1"], [one.port, other.port, 9], step=lambda done, of: steps.append((done, of))
            )
        finally:
            await one.close()
            await other.close()
        assert [(s.name, s.port, s.models) for s in found] == [("vLLM", one.port, ("tiny",))]
        assert steps == [(1, 3), (2, 3), (3, 3)]

    asyncio.run(main())


def test_a_silent_host_is_asked_at_other_ports_with_less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most addresses of a home network are nobody's. A host that drops the first port is still found."""
    patience: dict[tuple[str, int], float] = {}

    async def connects(host: str, port: int, patience_s: float) -> bool | None:
        patience[host, port] = patience_s
        return {("here", 1): False, ("here", 2): True, ("walled", 3): True}.get((host, port))

    async def recognised(host: str, port: int) -> Server:
        return Server("vLLM", host, port)

    monkeypatch.setattr(inference, "_connect", connects)
    monkeypatch.setattr(inference, "_recognise", recognised)
    found = asyncio.run(inference.scan(["here", "nobody", "walled"], [1, 2, 3]))
    assert [(server.host, server.port) for server in found] == [("here", 2), ("walled", 3)]
    long, short = patience["here", 1], patience["nobody", 2]
    assert short < long / 3
    assert patience == {
        **{("here", port): long for port in (1, 2, 3)},
        **{(host, port): short for host in ("nobody", "walled") for port in (2, 3)},
        ("nobody", 1): long,
        ("walled", 1): long,
    }


def test_listening_reads_both_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "  sl  local_address rem_address   st\n"
    (tmp_path / "tcp").write_text(
        head
        + "   0: 0100007F:2CAA 00000000:0000 0A x\n"  # 127.0.0.1:11434, listening
        + "   1: 0100007F:1F90 00000000:0000 01 x\n"  # 8080, a connection
    )
    zero = "0" * 32
    (tmp_path / "tcp6").write_text(head + f"   0: {zero}:1F40 {zero}:0000 0A x\nbroken\n")
    monkeypatch.setattr(listeners, "NET", tmp_path)
    assert inference.listening() == {11434: [ip_address("127.0.0.1")], 8000: [ip_address("::")]}
    (tmp_path / "udp").write_text(head + "   0: 00000000:0035 00000000:0000 07 x\n")
    assert listeners.listeners()["udp", 53] == (ip_address("0.0.0.0"),)
    monkeypatch.setattr(listeners, "NET", tmp_path / "none")
    assert inference.listening() == {}
