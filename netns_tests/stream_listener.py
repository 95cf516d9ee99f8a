"""A daemon without a TUN that forwards one port: `stream_listener.py CONFIG PORT HOST TARGET_PORT`.

What `nconnect forward` does, without its checks of who connects.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import StreamReader, StreamWriter
from pathlib import Path

from nconnect.daemon import without_tun
from nconnect.io.files import config_file
from nconnect.io.files.config_source import ConfigSource
from nconnect.streams.dialler import Dialler, StreamRefused
from nconnect.streams.joining import join_stream


def main(path: Path, port: int, host: str, target: int) -> int:
    async def serve(dialler: Dialler) -> None:
        async def joined(reader: StreamReader, writer: StreamWriter) -> None:
            try:
                stream = await dialler.open(host, target)
            except (StreamRefused, TimeoutError) as error:
                writer.write(f"refused: {error}\n".encode())
                writer.close()
                return
            await join_stream(reader, writer, stream)

        server = await asyncio.start_server(joined, "127.0.0.1", port)
        print("listening", flush=True)
        await server.serve_forever()

    config = config_file.load(path)
    with ConfigSource.start(path, config.interface) as source:
        return without_tun.run(path, config, source, serve=serve)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
