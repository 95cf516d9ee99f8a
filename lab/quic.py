"""QUIC through the tunnel, with aioquic at both ends: `python -m lab.quic serve|fetch …`.

    serve PORT CERTIFICATE      on all addresses; the certificate's file holds its key too
    fetch HOST PORT BYTES       prints {"sha256", "bytes", "seconds", "echo"} as JSON

Each stream begins with a line: `source N` is answered by N bytes, `echo` by what follows it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from lab.servers import pattern

WINDOW_BYTES = 16 << 20


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    wanted = (await reader.readline()).split()
    if wanted[:1] == [b"source"]:
        writer.write(pattern(int(wanted[1])))
    elif wanted == [b"echo"]:
        writer.write(await reader.read())
    writer.write_eof()


async def serving(port: int, certificate: str) -> None:
    configuration = QuicConfiguration(is_client=False)
    configuration.load_cert_chain(certificate, certificate)
    tasks: set[asyncio.Task[None]] = set()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await serve("0.0.0.0", port, configuration=configuration, stream_handler=on_stream)
    print("serving", flush=True)
    await asyncio.Event().wait()


async def fetch(host: str, port: int, size: int) -> None:
    configuration = QuicConfiguration(
        is_client=True, verify_mode=ssl.CERT_NONE, max_data=WINDOW_BYTES, max_stream_data=WINDOW_BYTES
    )
    async with connect(host, port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(b"echo\nover and out")
        writer.write_eof()
        echo = (await reader.read()).decode()
        reader, writer = await client.create_stream()
        began = time.monotonic()
        writer.write(b"source %d\n" % size)
        writer.write_eof()
        digest, got = hashlib.sha256(), 0
        while data := await reader.read(1 << 20):
            digest.update(data)
            got += len(data)
        told = {"sha256": digest.hexdigest(), "bytes": got, "seconds": time.monotonic() - began, "echo": echo}
        print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serving(int(sys.argv[2]), sys.argv[3]))
    else:
        asyncio.run(fetch(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
