"""The websocket's HTTP handshake, both sides, against each other and against what others send."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import RemoteProtocolError
from nconnect.wire.upgrade import (
    MAX_HEAD_BYTES,
    ClientUpgrade,
    OtherRequest,
    ServerUpgrade,
    UpgradeRequest,
    refusal,
)

NONCE = b"the sample nonce"  # RFC 6455, section 1.3
REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def client() -> ClientUpgrade:
    return ClientUpgrade("server.example.com", "/chat", NONCE)


def answer(*headers: bytes, status: bytes = b"101 Switching Protocols") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


GOOD_ANSWER = answer(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + ACCEPT)


def test_the_rfc_s_example() -> None:
    found = ServerUpgrade().receive(REQUEST)
    assert isinstance(found, UpgradeRequest)
    assert found.host == "server.example.com"
    assert found.trailing == b""
    assert b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n" in found.response
    assert found.response.startswith(b"HTTP/1.1 101 ")
    assert b"xtensions" not in found.response
    assert client().receive(GOOD_ANSWER) == b""


def test_each_other() -> None:
    ours = client()
    found = ServerUpgrade().receive(ours.request + b"early frames")
    assert isinstance(found, UpgradeRequest)
    assert (found.host, found.trailing) == ("server.example.com", b"early frames")
    assert ours.receive(found.response + b"frames at once") == b"frames at once"


def test_split_at_every_byte() -> None:
    for at in range(1, len(REQUEST)):
        server = ServerUpgrade()
        assert server.receive(REQUEST[:at]) is None
        assert server.receive(REQUEST[at:] + b"x") is not None
    for at in range(1, len(GOOD_ANSWER)):
        ours = client()
        assert ours.receive(GOOD_ANSWER[:at]) is None
        assert ours.receive(GOOD_ANSWER[at:] + b"x") == b"x"


def test_header_names_and_tokens_are_taken_in_any_case() -> None:
    request = REQUEST.replace(b"Upgrade: websocket", b"upgrade: WebSocket").replace(
        b"Connection: Upgrade", b"CONNECTION: keep-alive, UPGRADE"
    )
    assert ServerUpgrade().receive(request) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET /chat", b"POST /chat"),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Upgrade: websocket\r\n", b""),
        (b"Connection: Upgrade", b"Connection: keep-alive"),
        (b"Connection: Upgrade", b"Connection: NotUpgrade"),
        (b"Version: 13", b"Version: 8"),
        (b"Sec-WebSocket-Version: 13\r\n", b""),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b""),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZQ=="),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"!!!!!!!!!!!!!!!!!!!!!!=="),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xe9\xe9\xe9\xe9"),
        (b"Host: server.example.com\r\n", b""),  # RFC 9112, section 3.2
        (b"HTTP/1.1", b"HTTP/9"),
        (b"Host: ", b"Host : "),
    ],
)
def test_requests_that_are_refused(old: bytes, new: bytes) -> None:
    assert old in REQUEST
    with pytest.raises(RemoteProtocolError) as error:
        ServerUpgrade().receive(REQUEST.replace(old, new, 1))
    said = refusal(str(error.value))
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    "said",
    [
        answer(status=b"200 OK"),
        answer(status=b"302 Found"),
        answer(status=b"503 Service Unavailable"),
        answer(b"Upgrade: websocket", b"Connection: Upgrade"),
        answer(
            b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + ACCEPT[:-2] + b"x="
        ),
        GOOD_ANSWER.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        answer(status=b"100 Continue"),
        b"SSH-2.0-x\r\n\r\n",
    ],
)
def test_answers_that_are_refused(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        client().receive(said)


def test_a_shared_port_takes_websockets_and_hands_on_other_requests() -> None:
    for at in range(1, len(REQUEST)):
        server = ServerUpgrade(shared=True)
        assert server.receive(REQUEST[:at]) is None
        found = server.receive(REQUEST[at:] + b"x")
        assert isinstance(found, UpgradeRequest)
        assert found.trailing == b"x"
    get = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\nmore"
    for at in range(1, len(get) - 5):
        server = ServerUpgrade(shared=True)
        assert server.receive(get[:at]) is None
        assert server.receive(get[at:]) == OtherRequest(get)
    for first in (b"P", b"GE\n", b"OPTIONS * HTTP/1.1\r\n", b"\x16\x03\x01"):  # decided without a whole head
        assert ServerUpgrade(shared=True).receive(first) == OtherRequest(first)
    with pytest.raises(RemoteProtocolError, match="websocket only"):
        ServerUpgrade(shared=True).receive(REQUEST.replace(b"Version: 13", b"Version: 8"))


def test_a_head_without_end_is_refused() -> None:
    for upgrade in (ServerUpgrade(), client()):
        for _ in range(MAX_HEAD_BYTES // 100):
            assert upgrade.receive(b"a" * 100) is None
        with pytest.raises(RemoteProtocolError):
            upgrade.receive(b"a" * 100)


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=300), st.integers(0, len(REQUEST)))
def test_any_bytes_are_taken_or_refused(data: bytes, at: int) -> None:
    for said in (data, REQUEST[:at] + data):
        try:
            ServerUpgrade().receive(said)
        except RemoteProtocolError as error:
            refusal(str(error))
    for said in (data, GOOD_ANSWER[: at % len(GOOD_ANSWER)] + data):
        try:
            client().receive(said)
        except RemoteProtocolError:
            pass
