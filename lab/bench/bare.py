"""Bare messages between two `nconnect.nkn` clients: what the network itself carries, with no tunnel in it.

`python -m lab.bench.bare serve SEED_RPC`           prints its address, and answers
`python -m lab.bench.bare ask SEED_RPC ADDRESS …`   one measurement, printed as a JSON object:

    ping COUNT INTERVAL_S    {"trips": [s]}: a message of 100 bytes and its reply, one every INTERVAL_S
    up|down SIZE SECONDS     {"bytes", "seconds"}: messages of SIZE bytes that want no reply, as fast as the
                             sender can; what the other end received, from the first to the last

Messages are signed, as official nodes want it, and not encrypted: a tunnel encrypts its own payload.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import uvloop

from nconnect.errors import NoReply
from nconnect.nkn import Client

PING_BYTES = 100
QUIET_S = 0.5  # without another message: then all have arrived
INBOX_MESSAGES = 1 << 16
INBOX_BYTES = 256 << 20


@dataclass
class Count:
    """What was received since the first message."""

    bytes: int = 0
    first: float = 0.0
    last: float = 0.0

    def add(self, size: int) -> None:
        self.last = time.monotonic()
        if not self.first:  # the clock starts with this message, so it does not count
            self.first = self.last
        else:
            self.bytes += size

    def result(self) -> dict[str, float]:
        return {"bytes": self.bytes, "seconds": self.last - self.first}


def client(seed_rpc: str) -> Client:
    return Client(
        seed_rpc=seed_rpc, accept_unencrypted=True, inbox_messages=INBOX_MESSAGES, inbox_bytes=INBOX_BYTES
    )


async def flood(sender: Client, to: str, size: int, seconds: float) -> None:
    payload = bytes(size)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await sender.send(to, payload, encrypt=False, no_reply=True)


async def serve(seed_rpc: str) -> None:
    async with client(seed_rpc) as server, asyncio.TaskGroup() as tasks:
        print(server.address, flush=True)
        count = Count()
        while True:
            message = await server.receive()
            if isinstance(message.data, str):
                what, *rest = message.data.split()
                if what == "count":
                    await message.reply(json.dumps(count.result()))
                    count = Count()
                else:
                    await message.ack()
                    tasks.create_task(flood(server, message.src, int(rest[0]), float(rest[1])))
            elif not message.wants_answer:
                count.add(len(message.data))
            else:
                await message.reply(message.data)


async def ping(asking: Client, to: str, count: int, interval_s: float) -> dict[str, Any]:
    trips = []
    for _ in range(count):
        started = time.perf_counter()
        try:
            await asking.send(to, bytes(PING_BYTES), encrypt=False, reply_timeout_s=1)
        except NoReply:
            continue
        trips.append(time.perf_counter() - started)
        await asyncio.sleep(max(0.0, interval_s - trips[-1]))
    return {"trips": trips}


async def up(asking: Client, to: str, size: int, seconds: float) -> dict[str, Any]:
    await flood(asking, to, size, seconds)
    # Repeated until the count stands still: the question may overtake messages on their way.
    total: dict[str, float] = {"bytes": 0, "seconds": 0}
    while True:
        reply = await asking.send(to, "count", encrypt=False, reply_timeout_s=30)
        assert reply is not None
        found = json.loads(str(reply.data))
        if not found["bytes"]:
            return total
        total = {name: total[name] + found[name] for name in total}
        await asyncio.sleep(QUIET_S)


async def down(asking: Client, to: str, size: int, seconds: float) -> dict[str, Any]:
    await asking.send(to, f"send {size} {seconds}", encrypt=False)
    count = Count()
    while True:
        try:
            async with asyncio.timeout(seconds if not count.first else QUIET_S):
                message = await asking.receive()
        except TimeoutError:
            return count.result()
        count.add(len(message.data))


async def ask(seed_rpc: str, to: str, what: str, first: str, second: str) -> None:
    measure = {"ping": ping, "up": up, "down": down}[what]
    async with client(seed_rpc) as asking:
        await asking.send(to, bytes(PING_BYTES), encrypt=False)  # the first one has no keys yet
        print(json.dumps(await measure(asking, to, int(first), float(second))))


def main() -> None:
    match sys.argv[1:]:
        case ["serve", seed_rpc]:
            work = serve(seed_rpc)
        case ["ask", seed_rpc, address, "ping" | "up" | "down" as what, first, second]:
            work = ask(seed_rpc, address, what, first, second)
        case _:
            usage = "serve SEED_RPC | ask SEED_RPC ADDRESS ping|up|down N SECONDS"
            sys.exit(f"usage: python -m lab.bench.bare {usage}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


if __name__ == "__main__":
    main()
