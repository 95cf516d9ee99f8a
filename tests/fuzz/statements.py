"""Targets for statements: hostile parts and acks, and a network that loses, doubles and reorders."""

from __future__ import annotations

from dataclasses import replace

from nconnect.offers import statement
from nconnect.tunnel.statements import (
    MAX_STATEMENT_BYTES,
    PART_BYTES,
    RECEIVER_BURST,
    StatementReceiver,
    StatementSender,
)
from nconnect.wire import strict_json
from nconnect.wire.tunnel import STATEMENT_ACK_BODY, STATEMENT_HEAD
from tests.fuzz.draw import Draw

MEMBERS = (
    "subnets", "addresses", "hosts", "servers", "servers", "paused", "rate", "refused_source", "expected",
)  # fmt: skip
KEYS = ("name", "url", "address", "why", "up", "kind", "models", "names")
TEXTS = ("10.0.0.1", "10.0.0.0/8", "http://10.0.0.1", "http://127.0.0.1", "a", "localhost", "fd00::/64")
SIZES = (0, 1, 2, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, MAX_STATEMENT_BYTES)


def statement_parts(data: bytes) -> None:
    """Any parts, beside a second opinion of what they contain."""
    draw, receiver, taken = Draw(data), StatementReceiver(), 0
    _part(receiver, memoryview(data))
    receiver, kept = StatementReceiver(), b""
    seen: tuple[int, int, int] | None = None
    while draw:
        epoch, revision, size = draw.below(3), draw.below(3), draw.of((0, 1, 4, 9, 65536, 65537))
        offset, piece = draw.of((0, 1, 4, 65535, 0xFFFF_FFFF, len(kept))), draw.piece(9)
        result = _part(receiver, memoryview(STATEMENT_HEAD.pack(epoch, revision, size, offset) + piece))
        fits = size <= MAX_STATEMENT_BYTES and offset + len(piece) <= size and bool(size) == bool(piece)
        assert fits or result is None, "a part that does not fit"
        if result is None or result[0] is None:
            continue
        ack, document = result
        if (epoch, revision, size) != seen:
            taken += 1
            assert taken <= RECEIVER_BURST, "more statements than may come at once"
            assert seen is None or epoch != seen[0] or revision > seen[1], (
                "an earlier one replaced a later one"
            )
            seen, kept = (epoch, revision, size), b""
        if offset == len(kept) and len(kept) < size:
            kept += piece
        assert ack == STATEMENT_ACK_BODY.pack(epoch, revision, len(kept))
        assert document is None or (document == kept and len(kept) == size)


def _part(receiver: StatementReceiver, body: memoryview) -> tuple[bytes | None, bytes | None] | None:
    try:
        return receiver.on_part(body, 0.0)
    except ValueError:
        return None


def statement_transfer(data: bytes) -> None:
    """What was said last arrives, whatever happens on the way, and nothing that was never said does."""
    draw, sender, receiver, now = Draw(data), StatementSender(), StatementReceiver(), 0.0
    said, heard = [b""], [b""]
    parts: list[bytes] = []
    acks: list[bytes] = []
    while draw:
        now += draw.number() / 100
        event = draw.below(6)
        if event == 0:
            said.append(bytes([draw.number()]) * draw.of(SIZES))
            sender.say(said[-1], 7, now)
        elif event == 1:
            sender.repeat(now)
        elif event == 2 and parts:
            _deliver(receiver, draw.of(parts[-256:]), acks, heard, now)
        elif event == 3 and acks:
            sender.on_ack(draw.of(acks[-256:]), now)
        elif event == 4:
            body = draw.take(STATEMENT_ACK_BODY.size)
            if STATEMENT_ACK_BODY.unpack(body)[0] != 7:  # the peer's own lies harm it alone
                sender.on_ack(body, now)
        elif (part := sender.due(now, 0.1)) is not None:
            parts.append(part)
    for _ in range(200):  # the network works again
        if (part := sender.due(now, 0.1)) is not None:
            _deliver(receiver, part, acks, heard, now)
            if acks:
                sender.on_ack(acks[-1], now)
        elif sender.next_at == float("inf"):
            break
        now = max(now, sender.next_at)
    assert sender.next_at == float("inf"), "it goes on for ever"
    assert heard[-1] == said[-1]
    assert set(heard) <= set(said)


def _deliver(
    receiver: StatementReceiver, part: bytes, acks: list[bytes], heard: list[bytes], now: float
) -> None:
    try:
        ack, document = receiver.on_part(memoryview(part), now)
    except ValueError:
        return
    if ack is not None:
        acks.append(ack)
    if document is not None:
        heard.append(document)


def statement_documents(data: bytes) -> None:
    """Any bytes, and JSON of the members that there are: what is read is safe to print."""
    draw = Draw(data)
    for document in (data, strict_json.dump({draw.of(MEMBERS): _value(draw, 3) for _ in range(9)}).encode()):
        said = statement.decode(document)
        texts = [said.paused or "", *(name for name, _ in said.hosts)]
        for server in said.servers:
            texts += [server.name, server.url, server.kind, *server.models, *server.names]
        assert all(text.isprintable() and len(text) <= 255 for text in texts)
        assert not {"localhost", ""} & {server.name.lower() for server in said.servers}
        again = statement.encode(said)
        assert len(again) <= statement.MAX_BYTES
        assert statement.decode(again) == replace(said, dropped=0)


def _value(draw: Draw, depth: int) -> object:
    kind = draw.below(8) if depth else 7
    if kind == 0:
        return draw.of((None, True, 0, -1, 1 << 60, 5_000))
    if kind < 4:
        return [_value(draw, depth - 1) for _ in range(draw.below(4))]
    if kind < 7:
        return {draw.of(KEYS): _value(draw, depth - 1) for _ in range(draw.below(6))}
    return draw.of(TEXTS) if draw.flag() else draw.text(9)
