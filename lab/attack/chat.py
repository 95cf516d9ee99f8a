"""`python -m lab.attack.chat serve PORT | read HOST PORT`: tokens at a model's pace, and their reader.

The reader writes one line for each token: when it came, in seconds of CLOCK_MONOTONIC. A connection that ends
is opened again, and the time until then is a pause like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time

INTERVAL_S = 0.05


async def _stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"data: token\n")
            await writer.drain()
            await asyncio.sleep(INTERVAL_S)


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_stream, "", port)
    print("serving", flush=True)
    async with server:
        await server.serve_forever()


def _read(host: str, port: int) -> None:
    while True:
        try:
            with socket.create_connection((host, port), 2) as connection:
                connection.settimeout(5)
                while connection.recv(1 << 16):
                    print(f"{time.monotonic():.4f}", flush=True)
        except OSError:
            time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(int(sys.argv[2])))
    else:
        _read(sys.argv[2], int(sys.argv[3]))
