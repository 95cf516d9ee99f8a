"""A stream of iroh between two machines, by iroh's own bindings for Python, with no tunnel program around it.

`python -m lab.bench.iroh_stream serve RELAY_URL`             prints its address as a JSON object, and answers
`python -m lab.bench.iroh_stream ask ADDRESS WAY WHAT SECONDS`  one measurement, printed as a JSON object

WAY is `relay` or `direct`: it waits until packets go that way, and fails if they do not. WHAT:

    ping        {"trips": [s]}: 100 bytes and their echo, 200 a second
    up, down    {"bytes", "seconds", "all_bytes", "cpu_s"}: what the receiver got after a warm-up of a second,
                all that it got, and this process's user and system time for it
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import sys
import time
from typing import Any

ALPN = b"nconnect-bench"
PING_BYTES = 100
PING_INTERVAL_S = 0.005
CHUNK_BYTES = 1 << 18
LINE_BYTES = 1 << 10
WARM_UP_S = 1.0
WAY_TIMEOUT_S = 10.0


def load() -> Any:
    """The bindings. They copy what is sent byte by byte, in Python (8 MB/s): here it is one copy."""
    iroh = importlib.import_module("iroh")
    ffi = importlib.import_module("iroh.iroh_ffi")

    def write(builder: Any, value: bytes) -> None:
        with builder._reserve(len(value)):
            to = ctypes.addressof(builder.rbuf.data.contents) + builder.rbuf.len
            ctypes.memmove(to, value, len(value))

    ffi._UniffiRustBufferBuilder.write = write
    return iroh


async def bind(iroh: Any, relay: str) -> Any:
    """An endpoint that knows this relay and asks nothing else: no DNS, no directory."""
    mode = iroh.RelayMode.custom_from_urls([relay])
    options = iroh.EndpointOptions(preset=iroh.preset_minimal(), relay_mode=mode, alpns=[ALPN])
    endpoint = await iroh.Endpoint.bind(options)
    await endpoint.online()
    return endpoint


async def send(stream: Any, seconds: float) -> None:
    """Send for `seconds` after the warm-up."""
    chunk = bytes(CHUNK_BYTES)
    end = time.monotonic() + WARM_UP_S + seconds
    while time.monotonic() < end:
        await stream.write_all(chunk)
    await stream.finish()


async def receive(stream: Any) -> dict[str, float]:
    """Take all that comes until its end."""
    all_bytes = counted = 0
    first = counted_from = last = time.monotonic()
    while data := await stream.read(CHUNK_BYTES):
        last = time.monotonic()
        if not all_bytes:
            first = last
        all_bytes += len(data)
        if last < first + WARM_UP_S:
            counted_from = last
        else:
            counted += len(data)
    return {"bytes": counted, "seconds": last - counted_from, "all_bytes": all_bytes}


async def answer(connection: Any) -> None:
    both = await connection.accept_bi()
    stream, back = both.recv(), both.send()
    what, seconds = (await stream.read_exact(LINE_BYTES)).split()
    match what:
        case b"up":
            await back.write_all(json.dumps(await receive(stream)).encode())
        case b"down":
            await send(back, float(seconds))
        case _:
            while data := await stream.read(PING_BYTES):
                await back.write_all(data)
    await back.finish()
    await connection.closed()


async def serve(relay: str) -> None:
    iroh = load()
    endpoint = await bind(iroh, relay)
    address = endpoint.addr()
    told = {"id": str(address.id()), "relay": relay, "addresses": address.direct_addresses()}
    print(json.dumps(told), flush=True)
    while incoming := await endpoint.accept_next():
        await answer(await (await incoming.accept()).connect())


async def goes(connection: Any, way: str) -> bool:
    """Wait until packets go by the relay, or directly; whether they do after `WAY_TIMEOUT_S`."""
    deadline = time.monotonic() + WAY_TIMEOUT_S
    while time.monotonic() < deadline:
        if any(path.is_selected and path.is_relay == (way == "relay") for path in connection.paths()):
            return True
        await asyncio.sleep(0.05)
    return False


async def measure(connection: Any, what: str, seconds: float) -> dict[str, Any]:
    both = await connection.open_bi()
    stream, back = both.send(), both.recv()
    worked = time.process_time()
    await stream.write_all(f"{what} {seconds}".encode().ljust(LINE_BYTES))
    found: dict[str, Any]
    if what == "up":
        await send(stream, seconds)
        found = json.loads(await back.read_to_end(LINE_BYTES))
    elif what == "down":
        found = await receive(back)
    else:
        trips = []
        for _ in range(int(seconds / PING_INTERVAL_S)):
            at = time.perf_counter()
            await stream.write_all(bytes(PING_BYTES))
            await back.read_exact(PING_BYTES)
            trips.append(time.perf_counter() - at)
            await asyncio.sleep(PING_INTERVAL_S)
        await stream.finish()
        await back.read_to_end(LINE_BYTES)
        found = {"trips": trips}
    return {**found, "cpu_s": time.process_time() - worked}


async def ask(told: str, way: str, what: str, seconds: float) -> None:
    iroh = load()
    address = json.loads(told)
    endpoint = await bind(iroh, address["relay"])
    to = iroh.EndpointAddr(iroh.EndpointId.from_string(address["id"]), address["relay"], address["addresses"])
    connection = await endpoint.connect(to, ALPN)
    found = await measure(connection, what, seconds) if await goes(connection, way) else {}
    if not found or not await goes(connection, way):
        sys.exit(f"packets do not go by this way: {way}; paths: {[str(path) for path in connection.paths()]}")
    connection.close(0, b"")
    print(json.dumps(found))
    await endpoint.close()


def main() -> None:
    match sys.argv[1:]:
        case ["serve", relay]:
            asyncio.run(serve(relay))
        case ["ask", address, "relay" | "direct" as way, "ping" | "up" | "down" as what, seconds]:
            asyncio.run(ask(address, way, what, float(seconds)))
        case _:
            usage = "serve RELAY_URL | ask ADDRESS relay|direct ping|up|down SECONDS"
            sys.exit(f"usage: python -m lab.bench.iroh_stream {usage}")


if __name__ == "__main__":
    main()
