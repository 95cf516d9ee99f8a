"""`python -m lab.chat HOST PORT PROMPT`: stream one chat completion, a JSON object a line.

A line for each piece of text as it arrives, `{"token": TEXT}`, and one last with the figures of `Chat`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise

from lab import CHECKOUT
from lab.netns import LabError, Namespace


@dataclass(frozen=True, slots=True)
class Chat:
    """One completion as its reader saw it. Times are in milliseconds since before the connect."""

    ttft_ms: float
    tokens: int
    tokens_per_s: float  # from the first token to the last
    max_gap_ms: float  # the longest wait between two tokens
    text: str


def stream_chat(
    host: str, port: int, prompt: str, *, max_tokens: int, on_token: Callable[[str], None]
) -> Chat:
    """Ask an OpenAI-compatible server; raise `LabError` when it does not answer as one."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "max_tokens": max_tokens,
            "temperature": 0,
        }
    )
    started = time.perf_counter()
    with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            if response.status != 200:
                raise LabError(f"{host}:{port} answered {response.status}: {response.read(500)!r}")
            pieces, times = _read_stream(response, on_token)
    if not times:
        raise LabError(f"{host}:{port} ended the stream before it was complete")
    gaps = [after - before for before, after in pairwise(times)]
    return Chat(
        ttft_ms=(times[0] - started) * 1000,
        tokens=len(times),
        tokens_per_s=len(gaps) / sum(gaps) if gaps else 0.0,
        max_gap_ms=max(gaps, default=0.0) * 1000,
        text="".join(pieces),
    )


def _read_stream(
    response: http.client.HTTPResponse, on_token: Callable[[str], None]
) -> tuple[list[str], list[float]]:
    """The pieces of text and when each came; nothing when the stream ended before its closing line."""
    pieces: list[str] = []
    times: list[float] = []
    for raw in response:
        line = raw.decode().strip()
        if line == "data: [DONE]":
            return pieces, times
        if line.startswith("data: "):
            for choice in json.loads(line[6:]).get("choices", ()):
                piece = choice.get("delta", {}).get("content")
                if piece:
                    times.append(time.perf_counter())
                    pieces.append(piece)
                    on_token(piece)
    return [], []


def chat_from(
    namespace: Namespace,
    host: str,
    port: int,
    prompt: str,
    *,
    max_tokens: int = 64,
    on_token: Callable[[str], None] = lambda _: None,
) -> Chat:
    """`stream_chat` by a process in a namespace; tokens are passed on as they come."""
    command = [sys.executable, "-m", "lab.chat", host, str(port), prompt, "--max-tokens", str(max_tokens)]
    process = subprocess.Popen(
        namespace.command(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    found: Chat | None = None
    try:
        for line in process.stdout:
            value = json.loads(line)
            if "token" in value:
                on_token(value["token"])
            else:
                found = Chat(**value)
        words = process.stderr.read()
        process.wait(10)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
    if found is None:
        raise LabError(f"no chat completion from {host}:{port} in {namespace.name}: {words.strip()}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.chat", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    def show(piece: str) -> None:
        print(json.dumps({"token": piece}), flush=True)

    try:
        chat = stream_chat(
            options.host, options.port, options.prompt, max_tokens=options.max_tokens, on_token=show
        )
    except (OSError, http.client.HTTPException, LabError) as error:
        sys.exit(f"chat: {error}")
    print(json.dumps(asdict(chat)), flush=True)


if __name__ == "__main__":
    main()
