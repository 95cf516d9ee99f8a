"""Our name server: an answer for names of peers, and for nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nconnect.io.net.name_stub import MAX_READ, NameStub, reply

KNOWN = {
    "gpu-box.internal": (ip_address("10.86.0.1"), ip_address("fd86::1")),
    "ollama.gpu-box.internal": (ip_address("10.86.0.1"),),
}


def asked(name: str, kind: str = "A", kelass: str = "IN", **more: object) -> dns.message.Message:
    query = dns.message.make_query(name, kind, kelass, **more)  # type: ignore[arg-type]
    answer = reply(query.to_wire(), KNOWN)
    assert answer is not None
    answer = dns.message.from_wire(answer.to_wire())
    assert query.is_response(answer)
    return answer


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("gpu-box.internal", "A", ["10.86.0.1"]),
        ("GPU-box.INTERNAL", "AAAA", ["fd86::1"]),
        ("ollama.gpu-box.internal", "A", ["10.86.0.1"]),
        ("ollama.gpu-box.internal", "AAAA", []),
        ("gpu-box.internal", "HTTPS", []),
        ("gpu-box.internal", "ANY", []),
    ],
)
def test_a_peer_s_name_is_answered_for_no_time(name: str, kind: str, expected: list[str]) -> None:
    answer = asked(name, kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.RA
    assert [record.to_text() for each in answer.answer for record in each] == expected
    assert all(each.ttl == 0 for each in answer.answer)


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        ("vllm.gpu-box.internal", dns.rcode.NXDOMAIN),
        ("a.ollama.gpu-box.internal", dns.rcode.NXDOMAIN),
        ("internal", dns.rcode.REFUSED),
        ("attic.internal", dns.rcode.REFUSED),
        ("notgpu-box.internal", dns.rcode.REFUSED),
        ("metadata.google.internal", dns.rcode.REFUSED),
        ("gpu-box.internal.example.com", dns.rcode.REFUSED),
        ("example.com", dns.rcode.REFUSED),
        (".", dns.rcode.REFUSED),
    ],
)
def test_every_other_name_is_refused(name: str, rcode: dns.rcode.Rcode) -> None:
    answer = asked(name)
    assert answer.rcode() == rcode
    assert not answer.answer


def test_other_classes_and_operations_are_refused() -> None:
    assert asked("gpu-box.internal", "TXT", "CH").rcode() == dns.rcode.REFUSED
    query = dns.message.make_query("gpu-box.internal", "SOA")
    for opcode in (dns.opcode.NOTIFY, dns.opcode.STATUS):
        query.set_opcode(opcode)
        answer = reply(query.to_wire(), KNOWN)
        assert answer is not None
        assert answer.rcode() == dns.rcode.NOTIMP


def test_extensions_are_answered() -> None:
    assert asked("gpu-box.internal", use_edns=0, want_dnssec=True).edns == 0


def test_what_is_no_question_gets_no_answer() -> None:
    """An answer that is sent here must not be answered, or two servers would talk for ever."""
    query = dns.message.make_query("gpu-box.internal", "A")
    for data in (b"", b"\0" * 11, bytes(12), dns.message.make_response(query).to_wire(), bytes(5000)):
        assert reply(data, KNOWN) is None


@given(st.binary(max_size=200))
def test_no_datagram_is_an_error(data: bytes) -> None:
    query = dns.message.make_query("gpu-box.internal", "A").to_wire()
    for each in (data, query[: len(data)] + data, query[:2] + data + query[2:]):
        answer = reply(each, KNOWN)
        assert answer is None or not answer.flags & dns.flags.RA


@pytest.fixture
def stub() -> Iterator[NameStub]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield NameStub(sock, lambda: KNOWN)


def test_it_answers_on_its_socket_and_counts(stub: NameStub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(stub.sock.getsockname())
        client.send(dns.message.make_query("gpu-box.internal", "A").to_wire())
        client.send(dns.message.make_query("example.com", "A").to_wire())
        client.send(b"nonsense")
        stub.on_readable()
        assert dns.message.from_wire(client.recv(512)).rcode() == dns.rcode.NOERROR
        assert dns.message.from_wire(client.recv(512)).rcode() == dns.rcode.REFUSED
        assert stub.counts == {"answered": 1, "refused": 1, "dropped": 1}
        for _ in range(MAX_READ + 5):
            client.send(b"flood")
        stub.on_readable()
        assert stub.counts["dropped"] == 1 + MAX_READ, "the rest waits for the next turn"


def test_another_host_is_not_answered(stub: NameStub) -> None:
    """Even if the kernel let it through (route_localnet)."""

    datagrams = [dns.message.make_query("gpu-box.internal", "A").to_wire()]

    class Foreign:
        def recvfrom(self, _: int) -> tuple[bytes, tuple[str, int]]:
            if not datagrams:
                raise BlockingIOError
            return datagrams.pop(), ("10.86.0.7", 5353)

        def sendto(self, *_: object) -> None:
            raise AssertionError("answered")

    stub.sock = Foreign()  # type: ignore[assignment]
    stub.on_readable()
    assert stub.counts["dropped"] == 1
