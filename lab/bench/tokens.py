"""`python -m lab.bench.tokens serve PORT | read HOST PORT SKIP_S SECONDS`: a chat's stream without a model.

The server writes one server-sent event each 25 ms (40 tokens a second), which says when it was handed to the
kernel; the clock is the machine's, and both ends run on one. The reader prints one JSON object: {"tokens",
"gap_p50_ms", "gap_p99_ms", "late_p99_ms"}. A gap is how much longer it was between two tokens' arrivals than
between their departures; late is how long a token was under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

from lab.ping import quantile

TOKENS_PER_S = 40
READ_TIMEOUT_S = 10.0


async def _stream(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    next_at = loop.time()
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(
                b'data: {"sent": %.6f, "choices": [{"delta": {"content": " token"}}]}\n\n' % time.monotonic()
            )
            await writer.drain()
            next_at += 1 / TOKENS_PER_S
            await asyncio.sleep(next_at - loop.time())


async def _serve(port: int) -> None:
    async with await asyncio.start_server(_stream, "0.0.0.0", port) as server:
        print("serving", flush=True)
        await server.serve_forever()


def read(host: str, port: int, skip_s: float, seconds: float) -> dict[str, float]:
    """Tokens that arrive within `seconds`, after `skip_s` from the connection on."""
    times: list[tuple[float, float]] = []
    with socket.create_connection((host, port), timeout=READ_TIMEOUT_S) as connection:
        begin = time.monotonic() + skip_s
        with connection.makefile("rb", buffering=4096) as lines:
            for line in lines:
                now = time.monotonic()
                if now >= begin + seconds:
                    break
                if now >= begin and line.startswith(b"data: "):
                    times.append((json.loads(line[6:])["sent"], now))
    return figures(times)


def figures(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The figures of (sent, arrived) pairs in seconds."""
    gaps = sorted(
        max(0.0, (arrived - arrived_before) - (sent - sent_before)) * 1e3
        for (sent_before, arrived_before), (sent, arrived) in pairwise(times)
    )
    late = sorted((arrived - sent) * 1e3 for sent, arrived in times)
    if not gaps:
        return {"tokens": len(times)}
    return {
        "tokens": len(times),
        "gap_p50_ms": quantile(gaps, 0.5),
        "gap_p99_ms": quantile(gaps, 0.99),
        "late_p99_ms": quantile(late, 0.99),
    }


def main() -> None:
    match sys.argv[1:]:
        case ["serve", port]:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_serve(int(port)))
        case ["read", host, port, skip_s, seconds]:
            try:
                print(json.dumps(read(host, int(port), float(skip_s), float(seconds))), flush=True)
            except OSError as error:
                sys.exit(f"tokens: {host}:{port}: {error}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
