"""Target for the opening of a direct TCP stream: strangers, and genuine messages with bytes changed."""

from __future__ import annotations

from collections.abc import Iterator

from nconnect.errors import DropReason
from nconnect.tunnel.paths.stream.opening import Answering, Dialling
from nconnect.wire.stream import ANSWER_BYTES, CONFIRM_BYTES, OPEN_BYTES
from tests.fuzz.draw import Draw
from tests.tunnel.paths.stream.pairs import Pair, sent


def stream_opening(data: bytes) -> None:
    draw = Draw(data)
    pair = Pair()
    recorded = pair.dial()
    answer = sent(pair.listen(b"0" * 16).receive(recorded.first))
    confirm = sent(recorded.receive(answer))

    # A stranger: any bytes, or what was recorded, as it was or changed.
    for made in (data, recorded.first + data, draw.changed(recorded.first) + draw.changed(confirm)):
        stranger = pair.listen(b"1" * 16)
        assert not _fed(stranger, made, draw), "a stranger got a byte"
        assert not stranger.is_open

    # The genuine dialler, and what is changed on its way.
    dialling, answering = pair.dial(), pair.listen(b"2" * 16)
    newest = pair.b.newest
    changed = draw.changed(dialling.first)
    if changed != dialling.first:
        assert not _fed(pair.listen(b"3" * 16), changed, draw) or changed[:OPEN_BYTES] == dialling.first
        if pair.b.newest != newest:  # in pieces, so that what follows came later
            assert changed[:OPEN_BYTES] == dialling.first
            dialling, newest = pair.dial(), pair.b.newest
        assert pair.b.newest == newest, "what is forged uses up a number"
    answer = _fed(answering, dialling.first, draw)
    assert len(answer) == ANSWER_BYTES
    changed = draw.changed(answer)
    _fed(dialling, changed, draw)
    assert dialling.is_open is (changed[:ANSWER_BYTES] == answer)
    if dialling.is_open:
        assert changed.endswith(dialling.early)
        return
    # The recorded confirm, or any bytes, in the place of the genuine one.
    assert not _fed(answering, draw.of((confirm, draw.take(CONFIRM_BYTES), draw.piece())), draw)
    assert not answering.is_open


def _fed(side: Answering | Dialling, data: bytes, draw: Draw) -> bytes:
    """What it sends for these bytes, in pieces, until it refuses or is open."""
    said = b""
    for piece in _pieces(data, draw):
        result = side.receive(piece)
        if isinstance(result, DropReason):
            return said
        said += result
        if side.is_open:
            return said
    return said


def _pieces(data: bytes, draw: Draw) -> Iterator[bytes]:
    while data:
        size = draw.of((len(data), 1, 4, 16, 32, 55, 56, 57)) or len(data)
        yield data[:size]
        data = data[size:]
