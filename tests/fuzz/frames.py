"""Targets for the websocket, for our own frames, and for parts of messages between nodes."""

from __future__ import annotations

from nconnect.errors import RemoteProtocolError
from nconnect.node import fragment
from nconnect.wire import direct, message, tunnel, upgrade, websocket
from nconnect.wire.tunnel import read_records
from tests.fuzz import oracles
from tests.fuzz.draw import Draw

Refused = RemoteProtocolError

# --- websocket ---


def websocket_frames(data: bytes) -> None:
    draw = Draw(data)
    marker, width = draw.of(((126, 2), (127, 8)))
    size = draw.of((0, 1, 125, 126, 127, 65535, 65536, 1 << 20, (1 << 20) + 1)) % (1 << 8 * width)
    head = bytes([draw.number(), draw.of((marker, marker | 128))])
    for header in (data, head + size.to_bytes(width, "big") + draw.piece(4)):
        _frame_header(header)
    code = draw.of((999, 1000, 1003, 1004, 1006, 1007, 1014, 1015, 1016, 2999, 3000, 4999, 5000))
    for payload in (data, code.to_bytes(2, "big") + draw.piece(9)):
        try:
            websocket.parse_close(payload)
        except Refused:
            assert not oracles.close_code(payload)
        else:
            assert oracles.close_code(payload)
    _assemble(Draw(data))


def _frame_header(data: bytes) -> None:
    """All at once, and byte by byte: the same."""
    view, most = memoryview(data), 1 << 20
    expected = oracles.frame_header(data, most)
    try:
        header = websocket.parse_header(view, max_payload=most)
    except Refused:
        assert isinstance(expected, str), "refused, and nothing is wrong"
    else:
        assert not isinstance(expected, str), f"taken, and it is {expected}"
        read = header and (
            header.opcode, header.fin, header.mask, header.header_size, header.payload_size,
        )  # fmt: skip
        assert read == expected
        assert header is None or header.masked is bool(header.mask)
        for size in range(min(len(data), 14)):
            part = websocket.parse_header(view[:size], max_payload=most)
            assert part is None or part == header


def _assemble(draw: Draw) -> None:
    """Fragments, beside a list of what should come of them."""
    most = 16
    assembler = websocket.Assembler(most)
    parts: list[bytes] = []
    kind = None
    while draw:
        opcode = draw.of((websocket.Opcode.CONTINUATION, websocket.Opcode.TEXT, websocket.Opcode.BINARY))
        fin, payload = draw.flag(), draw.piece(9)
        is_first = opcode != websocket.Opcode.CONTINUATION
        wrong = is_first is (kind is not None) or sum(map(len, parts)) + len(payload) > most
        try:
            whole = assembler.add(opcode, fin, payload)
        except Refused:
            assert wrong
            return
        assert not wrong
        kind = opcode if is_first else kind
        parts.append(payload)
        assert (whole is not None) is fin
        if whole is not None:
            assert (whole[0], bytes(whole[1])) == (kind, b"".join(parts))
            parts, kind = [], None
        assert assembler.is_busy is (kind is not None)
        assert assembler.room == most - sum(map(len, parts))


_NONCE = b"0123456789abcdef"
_GOOD_KEY = b"MDEyMzQ1Njc4OWFiY2RlZg=="
# Header, what it must be, and what it must not.
_UPGRADE = (
    (b"Host", (b"h", b"H:1"), ()),
    (b"Upgrade", (b"websocket", b"WebSocket"), (b"web socket", b"h2c", b"")),
    (b"Connection", (b"Upgrade", b"keep-alive, upgrade"), (b"close", b"upgraded", b"")),
    (b"Sec-WebSocket-Version", (b"13",), (b"8", b"14", b"13, 8", b"")),
    (b"Sec-WebSocket-Key", (_GOOD_KEY,), (b"MDEyMw==", b"????", b"", _GOOD_KEY[:-1], b"QUJD" * 6)),
)


def websocket_upgrades(data: bytes) -> None:
    for end in (upgrade.ServerUpgrade(), upgrade.ClientUpgrade("host", "/", b"0" * 16)):
        try:
            for at in range(0, len(data), 7):
                if end.receive(data[at : at + 7]) is not None:
                    break
        except Refused:
            pass
    draw = Draw(data)
    _upgrade_request(draw)
    _upgrade_answer(draw)


def _upgrade_request(draw: Draw) -> None:
    method = draw.of((b"GET", b"GET", b"GET", b"POST"))
    lines, good = [method + b" / HTTP/1.1"], method == b"GET"
    faulty = draw.below(2 * len(_UPGRADE))
    for number, (name, right, wrong) in enumerate(_UPGRADE):
        if number == faulty and wrong:
            good = False
            if draw.flag():
                lines.append(name + b": " + draw.of(wrong))
        else:
            lines.append(name + b": " + draw.of(right))
    after = draw.piece(20)
    server = upgrade.ServerUpgrade()
    request = _fed(server, b"\r\n".join((*lines, b"", b"")), after, draw)
    if isinstance(request, upgrade.UpgradeRequest):
        assert good
        assert after.startswith(request.trailing)
        assert oracles.websocket_accept(_GOOD_KEY) in request.response
    else:
        assert not good


def _upgrade_answer(draw: Draw) -> None:
    client = upgrade.ClientUpgrade("host", "/", _NONCE)
    status = draw.of((b"101", b"101", b"101", b"200", b"400"))
    accept = oracles.websocket_accept(draw.of((_GOOD_KEY, _GOOD_KEY, b"other")))
    extra = draw.of((b"", b"", b"Sec-WebSocket-Extensions: permessage-deflate\r\n"))
    head = b"HTTP/1.1 " + status + b" X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + extra
    head += b"Content-Length: 0\r\n" if status != b"101" else b""
    after = draw.piece(20)
    good = status == b"101" and accept == oracles.websocket_accept(_GOOD_KEY) and not extra
    rest = _fed(client, head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n", after, draw)
    assert isinstance(rest, bytes) is good
    assert not isinstance(rest, bytes) or after.startswith(rest)


def _fed(end: upgrade.ServerUpgrade | upgrade.ClientUpgrade, head: bytes, after: bytes, draw: Draw) -> object:
    """What comes of a head, fed in pieces; what follows comes with its last byte. None: refused."""
    step = 1 + draw.number()
    *pieces, last = [head[at : at + step] for at in range(0, len(head), step)]
    try:
        for piece in pieces:
            assert end.receive(piece) is None
        found = end.receive(last + after)
    except Refused:
        return None
    assert found is not None, "all of the head is there"
    assert (found.trailing if isinstance(found, upgrade.UpgradeRequest) else found) == after
    return found


# --- our own frames ---


def handshake_frames(data: bytes) -> None:
    for frame in (data, b"nc\x01" + data):
        _agree_on_handshake(frame)
    try:
        hello = tunnel.Hello.decode(data)
    except Refused:
        assert len(data) < 28
    else:
        assert hello.counter == int.from_bytes(data[:8], "little")
        assert hello.wall_clock_ns == int.from_bytes(data[20:28], "little")
        assert tunnel.Hello.decode(hello.encode()) == hello
    expected = oracles.links(data)
    oracles.agree(lambda: tunnel.decode_links(data), expected)
    if expected is not None:
        assert tunnel.decode_links(tunnel.encode_links(*expected)) == expected


def _agree_on_handshake(data: bytes) -> None:
    expected = oracles.handshake(data)
    try:
        frame = tunnel.decode_handshake(data)
    except Refused:
        assert expected is None
        return
    assert expected == (frame.kind, frame.suite, frame.sender, frame.receiver, frame.noise)
    assert tunnel.decode_handshake(frame.encode()) == frame


def direct_records(data: bytes) -> None:
    """The direct path's records and header, against a second reading of the specification."""
    draw = Draw(data)
    made = draw.take(4) + bytes([draw.of((0, 1, 4, 5))]) + draw.take(11)
    for _ in range(draw.of((0, 1, 2, 7, 8, 9))):
        version = draw.of((4, 4, 6, 6, 5))
        made += bytes([draw.of((1, 4, 0, 5)), version]) + draw.of((b"\1\0", b"\1\0", b"\0\0"))
        made += draw.take(4 if version == 4 else 16)
    for body in (data, made, made[:-1]):
        expected = oracles.candidates(body)
        try:
            found = direct.Candidates.decode(body)
        except Refused:
            assert expected is None
        else:
            assert expected == [(kind, *endpoint) for kind, endpoint in found.entries]
            assert direct.Candidates.decode(found.encode()) == found
    answer = draw.take(8) + bytes([draw.of((4, 6, 5)), 0, 1, draw.number()]) + draw.piece(4).ljust(16, b"\0")
    for body in (data, answer):
        try:
            ack = direct.ProbeAck.decode(body)
        except Refused:
            assert not (len(body) == 28 and body[8] == 6 and any(body[10:12]))
            assert not (len(body) == 28 and body[8] == 4 and any(body[10:12]) and not any(body[16:]))
        else:
            assert ack.encode() == body[:9] + b"\0" + body[10:]
    try:
        assert direct.decode_probe(data) == int.from_bytes(data[:8], "little")
        assert len(data) >= 36
    except Refused:
        assert len(data) < 36
    try:
        assert direct.encode_header(*direct.decode_header(data)) == data[:8]
    except Refused:
        assert len(data) < 24


def data_frames(data: bytes) -> None:
    """What is found quickly is what the slow way finds, and each of our own is found."""
    draw = Draw(data)
    header, body = draw.take(16), draw.rest()
    made = tunnel.data_frame(header, len(body)) + body
    for frame in (data, b"\x10\x01\x1a\x10" + data, made, made[:-1], made + b"x"):
        try:
            found = tunnel.split_data_frame(memoryview(frame))
        except Refused:
            continue
        if found is not None:
            slow = message.Message.decode(frame)
            assert (found[0], bytes(found[1])) == (slow.nonce, bytes(slow.payload))
            assert slow.encrypted
            assert not slow.encrypted_key
    if body:
        whole = tunnel.split_data_frame(memoryview(made))
        assert whole is not None
        assert (whole[0], bytes(whole[1])) == (header, body)


def batches(data: bytes) -> None:
    draw = Draw(data)
    made = bytearray()
    while draw:
        kind, body = (
            draw.of((0, 0, 1, 2, 3, 4, 5, 6, 7, 127, 128, 129, 130, 137, 138, 139, 255)),
            draw.piece(30),
        )
        made += len(body).to_bytes(3, "little") + bytes([kind]) + body
    for batch in (data, bytes(made), bytes(made[:-1])):
        try:
            packets, others = read_records(memoryview(bytearray(batch)))
        except Refused:
            assert oracles.records(batch) is None
        else:
            found = [bytes(each) for each in packets], [(kind, bytes(body)) for kind, body in others]
            assert found == oracles.records(batch)


def fragments(data: bytes) -> None:
    """Parts of messages between nodes: what was cut is joined, and nothing else is."""
    draw = Draw(data)
    size, less = 1 + draw.below(9), draw.number()
    src, dest, payload = draw.text(9), draw.text(9), draw.piece(40)
    (whole_part,) = fragment.cut(b"runs run", 1, src, dest, payload, 0)
    for part in (data, whole_part[: len(whole_part) - less % len(whole_part)]):
        try:
            found = fragment.FragmentJoiner().add(part)
        except Refused:
            continue
        assert found is None or part is data or (found.src, found.dest) == (src, dest)
    parts = list(fragment.cut(b"runs run", draw.number(2), src, dest, payload, draw.number(), size))
    sent: list[bytes] = []
    while draw and len(sent) < 12:
        sent.append(draw.of(parts))
    joined, at = fragment.FragmentJoiner(), 0
    for part in sent:
        try:
            whole = joined.add(part)
        except Refused:
            at = 0
            assert part is not parts[0], "a first part is always taken"
            continue
        assert part is parts[0] or part is parts[at] or part in (parts[0], parts[at]), "out of its order"
        at = 1 if part == parts[0] else at + 1
        assert (whole is not None) is (at == len(parts))
        if whole is not None:
            assert (whole.src, whole.dest, whole.payload) == (src, dest, payload)
            at = 0
