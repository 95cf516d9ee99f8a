"""What a peer does with streams inside its session, for which the provider's daemon connects to targets."""

from __future__ import annotations

import time
from ipaddress import ip_address

from lab.attack.attack import Attack, Result
from lab.attack.rows.packets import EXPECTED, FORBIDDEN_PORT, GATEWAY, MARK, OUTSIDE
from lab.attack.stage import FLOOD_PORT, PORT, Stage
from lab.process import until
from lab.world import PROVIDER_LAN, PROVIDER_TUNNEL, SERVER, USER_TUNNEL
from nconnect.model import Endpoint
from nconnect.wire.tunnel_streams import (
    FROM_OPENER,
    Ack,
    Opening,
    StreamKind,
    encode_ack,
    encode_carried,
    encode_frame,
    encode_opening,
    encode_reset,
)

ELSEWHERE = (
    SERVER, PROVIDER_TUNNEL, PROVIDER_LAN, USER_TUNNEL, GATEWAY, OUTSIDE, "127.0.0.1", "0.0.0.0",
    "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "::ffff:127.0.0.1", "fe80::1",
)  # fmt: skip
STREAMS = 500
MAY_GROW_BYTES = 80 << 20  # connections of asyncio's, a quarter of that each in the kernel
PAUSE_S = 2.0


def _to(host: str, port: int) -> Endpoint:
    return Endpoint(ip_address(host), port)


def _datagrams(stage: Stage) -> Result:
    """None may leave but the last, which is allowed."""
    made = stage.world
    sinks = {
        "the server": stage.sink(made.server, MARK),
        "the internet": stage.sink(made.internet, MARK),
        "the user": stage.sink(made.user, MARK, FORBIDDEN_PORT),
        "the provider": stage.sink(made.provider, MARK, FORBIDDEN_PORT),
    }
    text = f"{MARK} carried"
    places = [*(_to(host, FORBIDDEN_PORT) for host in ELSEWHERE), _to("127.0.0.1", FLOOD_PORT)]
    frames = [
        encode_frame(StreamKind.DATAGRAM, FROM_OPENER, 7, encode_carried(place, text.encode()))
        for place in places
    ]
    last = encode_carried(_to(SERVER, FLOOD_PORT), f"{text} last".encode())
    frames.append(encode_frame(StreamKind.DATAGRAM, FROM_OPENER, 7, last))
    stage.programs["peer"].do("frames", *(frame.hex() for frame in frames))
    until(lambda: f"{text} last" in sinks["the server"].text(), "the datagram that is allowed")
    arrived = [
        f"{where} got {line}"
        for where, sink in sinks.items()
        for line in sink.text().splitlines()
        if text in line and not any(word in line for word in EXPECTED)
    ]
    return Result(", ".join(arrived), f"none of {len(places)} arrived")


def _opens(stage: Stage) -> Result:
    """Each must be refused, which is counted."""
    side = stage.world.provider_side
    before = side.drops("refused")
    frames = [
        encode_frame(
            StreamKind.OPEN, FROM_OPENER, 100 + n, encode_opening(Opening(1 << 20, 6, _to(host, 22)))
        )
        for n, host in enumerate(ELSEWHERE)
    ]
    stage.programs["peer"].do("frames", *(frame.hex() for frame in frames))
    began = time.monotonic()
    while (refused := side.drops("refused") - before) < len(frames) and time.monotonic() - began < 8:
        time.sleep(0.1)
    missing = len(frames) - refused
    return Result(f"{missing} were not refused" if missing > 0 else "", f"{refused} refused")


def _many(stage: Stage) -> Result:
    """Streams without a window, frames of others that do not exist, and garbage: the chat goes on."""
    side = stage.world.provider_side
    assert side.daemon is not None
    before, began = side.daemon.rss_bytes(), time.monotonic()
    ids = range(10_000, 10_000 + STREAMS)
    opening = encode_opening(Opening(0, 6, _to(SERVER, PORT)))
    frames = [encode_frame(StreamKind.OPEN, FROM_OPENER, id, opening) for id in ids]
    frames += [
        encode_frame(StreamKind.ACK, FROM_OPENER, id, encode_ack(Ack(1 << 60, [(1, 1 << 31)]))) for id in ids
    ]
    frames += [encode_frame(StreamKind.DATA, FROM_OPENER, id + STREAMS, b"\0\0") for id in ids]
    for at in range(0, len(frames), 500):
        stage.programs["peer"].do("frames", *(frame.hex() for frame in frames[at : at + 500]))
    time.sleep(2)
    grown, pause_s = side.daemon.rss_bytes() - before, stage.pause_s(began)
    resets = [encode_frame(StreamKind.RESET, FROM_OPENER, id, encode_reset(0, "")) for id in ids]
    for at in range(0, len(resets), 500):
        stage.programs["peer"].do("frames", *(frame.hex() for frame in resets[at : at + 500]))
    harm = []
    if grown > MAY_GROW_BYTES:
        harm.append(f"{grown >> 20} MiB of memory")
    if pause_s > PAUSE_S:
        harm.append(f"the chat paused for {pause_s:.1f} s")
    return Result(", ".join(harm), f"{grown >> 20} MiB, the chat paused for {pause_s:.1f} s")


ROWS: tuple[Attack, ...] = (
    Attack("peer", "carried_elsewhere", "datagrams by streams to what is closed", _datagrams),
    Attack("peer", "streams_elsewhere", "streams to what is closed to it", _opens),
    Attack("peer", "stream_opens", "500 streams without a window", _many),
)
