from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.doctor.inference import PROBE_PATHS, recognise


def models(owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "owned_by": owner}]}


@pytest.mark.parametrize(
    ("port", "path", "server", "content", "name"),
    [
        (11434, "/v1/models", "", models("library"), "Ollama"),
        (9999, "/v1/models", "", models("vllm"), "vLLM"),
        (8080, "/v1/models", "llama.cpp", models("llamacpp"), "llama.cpp"),
        (1234, "/v1/models", "", models("organization_owner"), "LM Studio"),
        (8080, "/info", "", {"model_id": "x/y"}, "TGI"),
        (11434, "/api/version", "", {"version": "0.5.1"}, "Ollama"),
        (7777, "/v1/models", "", models("me"), "an OpenAI-compatible server"),
        (11434, "/v1/models", "", {"object": "list", "data": []}, "Ollama"),
    ],
)
def test_known_servers(port: int, path: str, server: str, content: object, name: str) -> None:
    found = recognise("127.0.0.1", port, path, 200, server, json.dumps(content).encode())
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"data": []}'),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"data": ["x"]}'),
        (200, b'{"version": "1", "build": 2}'),
        (200, b"["*100_000),
    ],
)  # fmt: skip
def test_what_is_something_else(status: int, body: bytes) -> None:
    assert all(recognise("h", 8080, path, status, "nginx", body) is None for path in PROBE_PATHS)


def test_a_servers_text_cannot_move_the_cursor() -> None:
    found = recognise("h", 8000, "/v1/models", 200, "", b'{"data": [{"id": "a\\u001b[2Jb"}]}')
    assert found is not None
    assert found.models == ("a[2Jb",)


@given(st.binary(max_size=200), st.sampled_from(PROBE_PATHS))
def test_any_body_is_taken(body: bytes, path: str) -> None:
    recognise("h", 8000, path, 200, "", body)
