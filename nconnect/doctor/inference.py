"""Inference servers: their default ports, and how to recognise them by an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

# What each documents as its default port.
PORTS: dict[int, str] = {
    11434: "Ollama",
    8000: "vLLM",
    8080: "llama.cpp",
    1234: "LM Studio",
    3000: "TGI",
}
# Asked in this order; the first that says something counts.
PROBE_PATHS = ("/v1/models", "/api/version", "/info")


@dataclass(frozen=True, slots=True)
class Server:
    """An inference server that answered."""

    name: str
    host: str
    port: int
    models: tuple[str, ...] = ()


def server_label(kind: str, taken: Collection[str]) -> str:
    """A name for a server of this kind, as `[[provide.server]]` takes it: `vllm`, the second one `vllm-2`."""
    if kind not in PORTS.values():
        kind = "server"
    name = base = re.sub(r"[^a-z0-9]+", "-", kind.lower())
    number = 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def recognise(host: str, port: int, path: str, status: int, server: str, body: bytes) -> Server | None:
    """The inference server that gives this answer at `path`, or None. `server`: the Server header."""
    if status != 200:
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    if path == "/api/version" and isinstance(content.get("version"), str) and len(content) == 1:
        return Server("Ollama", host, port)
    if path == "/info" and isinstance(content.get("model_id"), str):
        return Server("TGI", host, port, (_word(content["model_id"]),))
    models = content.get("data")
    if path != "/v1/models" or not isinstance(models, list):
        return None
    entries = [m for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)]
    if models and not entries:
        return None
    owners = {str(m.get("owned_by", "")).lower() for m in entries}
    name = PORTS.get(port, "an OpenAI-compatible server")
    for word, known in (("llamacpp", "llama.cpp"), ("vllm", "vLLM"), ("library", "Ollama")):
        if word in owners:
            name = known
    if "llama.cpp" in server.lower():
        name = "llama.cpp"
    return Server(name, host, port, tuple(_word(m["id"]) for m in entries[:8]))


def models_of(path: str, status: int, body: bytes, most: int) -> tuple[str, ...]:
    """The models in an answer to `/v1/models` (OpenAI), or to `/api/tags` (Ollama); () where it has none."""
    list_name, key = ("data", "id") if path == "/v1/models" else ("models", "name")
    try:
        content = json.loads(body) if status == 200 else None
    except (ValueError, RecursionError):
        return ()
    entries = content.get(list_name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return ()
    named = [entry.get(key) for entry in entries if isinstance(entry, dict)]
    return tuple(word for name in named if isinstance(name, str) and (word := _word(name)))[:most]


def _word(text: str) -> str:
    """A server's own text, fit for a terminal."""
    return "".join(c for c in text[:80] if c.isprintable())
