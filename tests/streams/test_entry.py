"""SOCKS5 and HTTP CONNECT as a proxy reads them: whole, cut anywhere, wrong, and hostile."""

from __future__ import annotations

import base64
from ipaddress import ip_address

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.streams import socks5
from nconnect.streams.dialler import RefusalCode
from nconnect.streams.entry import ProxyEntry
from nconnect.streams.http_connect import MAX_HEAD_BYTES, STATUSES
from nconnect.streams.socks5 import REPLIES, Datagram, encode_datagram
from nconnect.streams.target import DialTarget, RefusedRequest, clean_host, is_internal

PASSWORD = b"correct horse"


def fed(
    data: bytes, sizes: list[int] | None = None, password: bytes | None = None
) -> tuple[ProxyEntry, bytes]:
    """The entry after `data` in pieces (the last size repeats), and what it said."""
    entry, said, sizes = ProxyEntry(password), b"", list(sizes or [len(data)])
    while data and not entry.is_complete:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        said += entry.receive(data[:size])
        data = data[size:]
    return entry, said


def refusal_of(data: bytes, password: bytes | None = None) -> RefusedRequest:
    with pytest.raises(RefusedRequest) as caught:
        fed(data, password=password)
    return caught.value


def socks_request(host: str, port: int, command: int = 1) -> bytes:
    try:
        address = ip_address(host)
        raw = bytes([1 if address.version == 4 else 4]) + address.packed
    except ValueError:
        raw = bytes([3, len(host)]) + host.encode("latin-1")
    return bytes([5, command, 0]) + raw + port.to_bytes(2, "big")


def named(text: str) -> bytes:
    """A request with this text as a name, whatever it is."""
    return b"\5\1\0\3" + bytes([len(text)]) + text.encode() + b"\0\5"


def connect(target: str, *fields: str) -> bytes:
    return "\r\n".join((f"CONNECT {target} HTTP/1.1", f"Host: {target}", *fields, "", "")).encode("latin-1")


def login(password: bytes, user: bytes = b"me") -> bytes:
    return b"\1" + bytes([len(user)]) + user + bytes([len(password)]) + password


GREETING = b"\5\1\0"
SIZES = st.lists(st.integers(1, 9), min_size=1)


@pytest.mark.parametrize("host", ["192.168.50.10", "fd00::1", "vllm.gpu-box.internal", "gpu1"])
@given(port=st.integers(1, 65535), early=st.binary(max_size=20), sizes=SIZES)
def test_socks_takes_addresses_and_names(host: str, port: int, early: bytes, sizes: list[int]) -> None:
    data = GREETING + socks_request(host, port)
    entry, said = fed(data, sizes)
    assert said == b"\5\0"
    assert entry.target == DialTarget(host, port)
    assert entry.early == b""
    assert not entry.is_udp
    assert fed(data + early)[0].early == early


@pytest.mark.parametrize("host", ["192.168.50.10", "fd00::1", "vllm.gpu-box.internal"])
@given(port=st.integers(1, 65535), early=st.binary(max_size=20), sizes=SIZES)
def test_connect_takes_addresses_and_names(host: str, port: int, early: bytes, sizes: list[int]) -> None:
    data = connect(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "User-Agent: x")
    entry, said = fed(data, sizes)
    assert said == b""
    assert entry.target == DialTarget(host, port)
    assert fed(data + early)[0].early == early


def test_socks_grants_udp() -> None:
    entry, _ = fed(GREETING + socks_request("0.0.0.0", 0, 3))
    assert entry.is_complete
    assert entry.is_udp
    assert entry.target is None
    assert entry.granted("127.0.0.1", 1080) == b"\5\0\0\1\x7f\0\0\1\x04\x38"


@pytest.mark.parametrize(
    ("data", "answer", "why"),
    [
        (b"\4\1\0\x50\1\2\3\4\0", b"\0\x5b" + bytes(6), "version 4"),
        (b"\x16\3\1", b"", "TLS"),
        (b"\0", b"", "neither"),
        (b"get / HTTP/1.1\r\n\r\n", b"", "neither"),
        (b"\5\1\2", b"\5\xff", "insists on a login"),
        (b"\5\0", b"\5\xff", "insists on a login"),
        (GREETING + b"\4\1", socks5.reply(1), "no SOCKS version 5"),
        (GREETING + socks_request("1.2.3.4", 5, 2), socks5.reply(7), "BIND"),
        (GREETING + socks_request("1.2.3.4", 5, 9), socks5.reply(7), "command 9"),
        (GREETING + b"\5\1\0\7", socks5.reply(8), "address type 7"),
        (GREETING + socks_request("1.2.3.4", 0), socks5.reply(8), "port is 0"),
        (GREETING + socks_request("", 5), socks5.reply(8), "neither an address nor a name"),
        (GREETING + socks_request("a b", 5), socks5.reply(8), "neither an address nor a name"),
        (GREETING + named("fe80::1%eth0"), socks5.reply(8), "zone"),
        (GREETING + socks_request("0x7f.1", 5), socks5.reply(8), "neither an address nor a name"),
        (GREETING + socks_request("127.1", 5), socks5.reply(8), "neither an address nor a name"),
        (GREETING + socks_request("a\0.internal", 5), socks5.reply(8), "neither an address nor a name"),
    ],
)  # fmt: skip
def test_what_socks_refuses(data: bytes, answer: bytes, why: str) -> None:
    refusal = refusal_of(data)
    assert refusal.answer == (b"\5\0" if data.startswith(GREETING) else b"") + answer
    assert why in refusal.why
    assert not refusal.is_login


@pytest.mark.parametrize(
    ("data", "status", "why"),
    [
        (b"GET http://gpu.internal/ HTTP/1.1\r\nHost: gpu.internal\r\n\r\n", 405, "another method"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405, "another method"),
        (connect("gpu.internal"), 400, "HOST:PORT"),
        (connect("fd00::1:80"), 400, "brackets"),
        (connect("gpu.internal:0"), 400, "port is 0"),
        (connect("gpu.internal:65536"), 400, "port is 0"),
        (connect("gpu.internal:123456"), 400, "HOST:PORT"),
        (connect("gpu.internal:-1"), 400, "HOST:PORT"),
        (connect("a/b:80"), 400, "neither an address nor a name"),
        (connect("user@gpu.internal:80"), 400, "neither an address nor a name"),
        (connect("gpu.internal:80", "Content-Length: 3"), 400, "body"),
        (connect("gpu.internal:80", "Transfer-Encoding: chunked"), 400, "body"),
        (b"CONNECT a:1 HTTP/1.1\r\nA: " + b"x" * MAX_HEAD_BYTES, 431, "not HTTP"),
        (b"HELLO\r\n\r\n", 400, "not HTTP"),
    ],
)  # fmt: skip
def test_what_http_refuses(data: bytes, status: int, why: str) -> None:
    refusal = refusal_of(data)
    assert status_of(refusal.answer) == status
    assert why in refusal.why


def status_of(answer: bytes) -> int:
    """Of a whole answer, whose body ends where it says."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert isinstance(client.next_event(), h11.Data)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    assert (b"connection", b"close") in list(response.headers)
    return response.status_code


@given(sizes=SIZES)
def test_the_password_opens(sizes: list[int]) -> None:
    entry, said = fed(b"\5\2\0\2" + login(PASSWORD) + socks_request("10.0.0.1", 80), sizes, PASSWORD)
    assert said == b"\5\2\1\0"
    assert entry.target == DialTarget("10.0.0.1", 80)
    given_ = base64.b64encode(b"any:" + PASSWORD).decode()
    entry, _ = fed(connect("10.0.0.1:80", f"Proxy-Authorization: Basic {given_}"), sizes, PASSWORD)
    assert entry.target == DialTarget("10.0.0.1", 80)


@pytest.mark.parametrize("wrong", [b"", b"x", PASSWORD[:-1], PASSWORD + b"x", PASSWORD.upper()])
def test_nothing_else_opens(wrong: bytes) -> None:
    refusal = refusal_of(b"\5\1\2" + login(wrong) + socks_request("10.0.0.1", 80), PASSWORD)
    assert refusal.answer == b"\5\2\1\1"
    assert refusal.is_login
    text = base64.b64encode(b"any:" + wrong).decode()
    for field in (f"Basic {text}", f"Bearer {text}", "Basic =", "Basic", PASSWORD.decode()):
        refusal = refusal_of(connect("10.0.0.1:80", f"Proxy-Authorization: {field}"), PASSWORD)
        assert status_of(refusal.answer) == 407
        assert b"Proxy-Authenticate: Basic" in refusal.answer
        assert refusal.is_login


def test_who_gives_no_password_is_told() -> None:
    assert refusal_of(GREETING, PASSWORD).answer == b"\5\xff"
    assert refusal_of(GREETING, PASSWORD).is_login
    assert status_of(refusal_of(connect("10.0.0.1:80"), PASSWORD).answer) == 407


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_has_an_answer(code: RefusalCode) -> None:
    entry, _ = fed(GREETING + socks_request("10.0.0.1", 80))
    assert entry.refused("not for you", code) == socks5.reply(REPLIES[code])
    assert REPLIES[code]
    entry, _ = fed(connect("10.0.0.1:80"))
    answer = entry.refused("not for you: ask ä", code)
    assert status_of(answer) == STATUSES[code] >= 400
    assert "not for you: ask ä\n".encode() in answer


def test_the_provider_s_refusal_is_no_failure_of_the_network() -> None:
    assert REPLIES[RefusalCode.NOT_ALLOWED] == 2
    assert STATUSES[RefusalCode.NOT_ALLOWED] == 403


def outcome(data: bytes, sizes: list[int], password: bytes | None) -> tuple[object, ...]:
    """All that becomes of it, and all that was said."""
    entry, said, sizes = ProxyEntry(password), b"", list(sizes)
    while data and not entry.is_complete:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        try:
            said += entry.receive(data[:size])
        except RefusedRequest as refusal:
            return refusal.why, said + refusal.answer, refusal.is_login
        data = data[size:]
    return said, entry.target, entry.is_udp, entry.early + data


@given(st.binary(max_size=600), SIZES, st.sampled_from([None, PASSWORD]))
def test_any_bytes_in_any_pieces_are_read_alike(
    data: bytes, sizes: list[int], password: bytes | None
) -> None:
    for start in (b"", GREETING, b"\5\1\2", b"CONNECT "):
        assert outcome(start + data, [len(start + data) or 1], password) == outcome(
            start + data, sizes, password
        )


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.168.50.10", "192.168.50.10"),
        ("FD00:0:0::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("GPU-Box.Internal.", "gpu-box.internal"),
        ("a_b.internal", "a_b.internal"),
    ],
)  # fmt: skip
def test_hosts_have_one_form(text: str, host: str) -> None:
    assert clean_host(text) == host
    assert DialTarget.of(text, 1).is_name is host.endswith("internal")


@pytest.mark.parametrize(
    "text",
    ["", ".", "-a.internal", "a..internal", "10.0.0", "1", "0x0a000001", "a" * 64, "ä", "010.0.0.1"],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="neither an address nor a name"):
        clean_host(text)


@pytest.mark.parametrize(
    ("name", "internal"),
    [("gpu.internal", True), ("internal", False), ("xinternal", False), ("a.internal.x", False)],
)  # fmt: skip
def test_names_below_internal(name: str, internal: bool) -> None:
    assert is_internal(name) is internal


@given(st.sampled_from(["10.0.0.1", "fd00::1", "dns.internal"]), st.integers(1, 65535), st.binary())
def test_datagrams_come_back(host: str, port: int, data: bytes) -> None:
    assert Datagram.decode(encode_datagram(host, port, data)) == Datagram(host, port, memoryview(data))


@given(st.binary(max_size=300))
def test_any_datagram_is_read_or_dropped(data: bytes) -> None:
    found = Datagram.decode(data)
    if found is not None:
        assert data[:3] == bytes(3)
        assert data.endswith(bytes(found.data))
        assert clean_host(found.host) == found.host


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\1\1\x0a\0\0\1\0\x35x",  # a fragment
        b"\0\1\0\1\x0a\0\0\1\0\x35x",
        b"\0\0\0\1\x0a\0\0\1\0\0x",  # port 0
        b"\0\0\0\2\x0a\0\0\1\0\x35x",
        b"\0\0\0\1\x0a\0\0\1\0",
        b"\0\0\0\3\5a b c\0\x35x",
    ],
)
def test_bad_datagrams_are_dropped(data: bytes) -> None:
    assert Datagram.decode(data) is None
