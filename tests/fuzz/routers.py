"""Targets for what a router says that is asked for a port: PCP, NAT-PMP, UPnP."""

from __future__ import annotations

import re
from functools import partial
from html import escape
from ipaddress import ip_address
from random import Random

from nconnect.errors import RemoteProtocolError
from nconnect.model import Address
from nconnect.nat.port_mapping import LIFETIME_S, MAX_LIFETIME_S, Mapping, PortMapper, PortRequest
from nconnect.nat.upnp_mapping import HttpCall, MSearch
from nconnect.wire import pcp, upnp
from tests.fuzz import oracles
from tests.fuzz.draw import Draw
from tests.nat import test_port_mapping as datagrams
from tests.nat import test_upnp_mapping as calls
from tests.wire.test_upnp import FOUND, IP1, ROUTER, URL, description, soap

Refused = RemoteProtocolError

# --- the codecs ---


def port_answers(data: bytes) -> None:
    """PCP and NAT-PMP, against a second reading of RFC 6887 and 6886."""
    draw = Draw(data)
    made = bytes([draw.of((2, 0, 2, 0, 1)), draw.of((128, 129, 130, 1, 255)), 0, draw.of((0, 0, 1, 8, 99))])
    made += draw.take(20 if made[0] == 2 else 12)
    if made[0] == 2 and made[1] & 1:
        made += draw.take(12) + bytes([draw.of((17, 6, 1)), 0, 0, 0]) + draw.take(4)
        made += draw.of((bytes(10) + b"\xff\xff", draw.take(12))) + draw.take(4) + draw.of((b"", bytes(4)))
    for datagram in (data, made, draw.changed(made)):
        oracles.agree(partial(_told, datagram), oracles.port_answer(datagram))


def _told(datagram: bytes) -> tuple[object, ...]:
    answer = pcp.decode(datagram)
    if isinstance(answer, pcp.Mapped):
        ports = answer.internal_port, answer.external_port
        rest = answer.external_address, answer.lifetime_s, answer.epoch_s, answer.nonce
        return answer.protocol, *ports, *rest
    if isinstance(answer, pcp.Told):
        return answer.external_address, answer.epoch_s
    assert answer.why.isprintable()
    return answer.is_pcp, answer.result, answer.lifetime_s, answer.protocol, answer.nonce


_AT_ROUTER = re.compile(r"(?i)http:(//)?([^/?#@]*@)*192\.168\.1\.1(:0*([1-9]\d*)?)?([/?#][ -~]*)?")
_WORDS = (
    b"URLBase",
    b"service",
    b"serviceType",
    b"controlURL",
    b"UPnPError",
    b"errorCode",
    b"errorDescription",
    b"Fault",
)
_TEXTS = (
    IP1.encode(),
    b"/ctl",
    b"http://192.168.1.1/c",
    b"http://192.0.2.1/",
    b"//evil",
    b"http://192.168.1.1",
)
_HEADS = (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 404 No\r\n", b"NOTIFY * HTTP/1.1\r\n")


def upnp_documents(data: bytes) -> None:
    """No URL leads away from the router, nothing is expanded, and what is shown can be printed."""
    draw = Draw(data)
    head = (
        draw.of(_HEADS) + draw.of((b"LOCATION:", b"location : ", b"X: ")) + draw.of(_TEXTS) + draw.piece(30)
    )
    for datagram in (data, head, draw.changed(FOUND)):
        try:
            assert _AT_ROUTER.fullmatch(upnp.description_url(datagram, ROUTER))
            assert datagram.startswith(b"HTTP/1.")
            assert datagram.decode("latin-1").split()[1] == "200"
        except Refused:
            pass
    tree = _tree(draw, 6)
    urls = escape(draw.of(_TEXTS).decode() + draw.text(20)), draw.of(("", "", *map(bytes.decode, _TEXTS)))
    error = (
        f"<errorCode>{draw.number()}</errorCode><errorDescription>{escape(draw.text())}</errorDescription>"
    )
    documents = description((IP1, urls[0]), base=urls[1]), soap(f"<UPnPError>{error}</UPnPError>")
    for document in (data, tree, *documents, draw.changed(documents[0]), b"<!DOCTYPE a>" + tree):
        try:
            service = upnp.find_service(document, URL, ROUTER)
            assert _AT_ROUTER.fullmatch(service.url)
            assert service.type.startswith("urn:schemas-upnp-org:service:WAN")
        except Refused:
            pass
        try:
            answer = upnp.result(document, "AddPortMapping")
        except Refused:
            continue
        assert b"<!DOCTYPE" not in document or document is data, "a document type was taken"
        if isinstance(answer, upnp.Fault):
            assert 0 <= answer.code < 100_000
            assert answer.why.isprintable()
            assert 0 < len(answer.why) <= 100
        else:
            assert b"AddPortMappingResponse" in document or document is data


def _tree(draw: Draw, deepest: int) -> bytes:
    """XML of the words that are looked for."""
    if not deepest or not draw:
        return draw.of((*_TEXTS, b"725", b"&lt;\x7f", b"-1"))
    word = draw.of((*_WORDS, b"AddPortMappingResponse", b"NewExternalIPAddress"))
    inside = b"".join(_tree(draw, deepest - 1) for _ in range(draw.below(4)))
    return b"<" + word + b">" + inside + b"</" + word + b">"


# --- port mappings ---

_STRANGER = ip_address("192.0.2.66")
_OWN = datagrams.OWN
_PORT = datagrams.PORT


def port_mapper(data: bytes) -> None:
    """No mapping is believed that was not asked for; an honest router maps the port in the end."""
    draw = Draw(data)
    router = datagrams.Router()
    router.speaks_pcp, router.shift = draw.flag(), draw.of((0, 0, 5, -_PORT))
    own: Address = draw.of((_OWN, _OWN, datagrams.OWN6))
    outside = router.outside = own if own.version == 6 else datagrams.OUTSIDE
    if own.version == 6:
        router.speaks_pcp = True
    elif draw.below(4) == 3:
        router.outside = ip_address("224.0.0.1")
    now = datagrams.START
    mapper = PortMapper(PortRequest(ROUTER, own, _PORT), now=now, rng=Random(7).randbytes)
    source = (ROUTER, pcp.SERVER_PORT)
    nonces: dict[str, bytes] = {}  # by protocol, of what was asked by PCP
    pending: list[bytes] = []
    while True:
        sent = 0
        while (request := mapper.poll_output()) is not None:
            sent += 1
            pending += router.answer(request, now)
            if request[0] == 2:
                nonces[datagrams.PROTOCOLS[request[36]]] = request[24:36]
                assert request[40:42] == _PORT.to_bytes(2, "big")
        assert sent <= 6, "three by an answer, three by a timeout"
        del pending[:-8]
        if not draw:
            break
        datagram = draw.of((*pending[-2:], draw.piece(70)))
        if draw.flag() and datagram:
            datagram = draw.changed(datagram)
        before = dict(mapper.mappings)
        of = draw.of((source, source, source, (ROUTER, 9), (_STRANGER, pcp.SERVER_PORT)))
        assert mapper.receive(datagram, of, now) is (of == source)
        assert of == source or mapper.mappings == before
        assert own.version == 4 or all(m == (own, _PORT, "PCP") for m in _told_by(mapper))
        _check_believed(mapper.mappings, before, oracles.port_answer(datagram), nonces, now)
        assert mapper.problem.isprintable()
        if draw.flag():
            deadline = mapper.poll_timeout()
            assert deadline is not None
            now = max(now, deadline.at if draw.flag() else now + draw.number())
            mapper.handle_timeout(now)
            assert all(mapping.expires_at > now for mapping in mapper.mappings.values())
    router.outside, router.shift = outside, 0
    _until_it_is_mapped(mapper, router, now)


def _told_by(mapper: PortMapper) -> list[tuple[Address, int, str]]:
    return [(mapping.address, mapping.port, mapping.by) for mapping in mapper.mappings.values()]


def _check_believed(
    mappings: dict[str, Mapping],
    before: dict[str, Mapping],
    answer: tuple[object, ...] | None,
    nonces: dict[str, bytes],
    now: float,
) -> None:
    """What has come into force is in this answer, and was asked for."""
    for protocol, mapping in mappings.items():
        assert protocol in ("udp", "tcp")
        if before.get(protocol) == mapping:
            continue
        assert mapping.port
        assert not mapping.address.is_multicast
        assert now < mapping.renew_at <= mapping.expires_at <= now + MAX_LIFETIME_S
        assert answer is not None
        if mapping.by == "PCP":
            outer = (mapping.port, mapping.address)
            assert answer[:4] == (protocol, _PORT, *outer), "another mapping than the router tells"
            assert answer[6] == nonces[protocol], "a mapping of somebody else"
        else:
            assert answer[0] == mapping.address or answer[:3] == (protocol, _PORT, mapping.port)


def _ports(mapper: PortMapper) -> dict[str, int]:
    return {protocol: mapping.port for protocol, mapping in mapper.mappings.items()}


def _until_it_is_mapped(mapper: PortMapper, router: datagrams.Router, now: float) -> None:
    """From now on the router answers as it should."""
    for _ in range(80):
        while (request := mapper.poll_output()) is not None:
            for answer in router.answer(request, now):
                mapper.receive(answer, (ROUTER, pcp.SERVER_PORT), now)
        deadline = mapper.poll_timeout()
        assert deadline is not None
        assert deadline.at > now
        if not mapper.is_asking and _ports(mapper) == router.mapped and len(router.mapped) == 2:
            break
        now = deadline.at
        mapper.handle_timeout(now)
    assert _ports(mapper) == router.mapped
    assert len(router.mapped) == 2
    mapper.close()
    while (request := mapper.poll_output()) is not None:
        router.answer(request, now)
    assert router.mapped == {}


def upnp_mapper(data: bytes) -> None:
    """No mapping without a call for it that was answered, no call elsewhere; and all is given up."""
    draw = Draw(data)
    bench = calls.Bench()
    bench.faults = [draw.of((718, 725, 402, 606)) for _ in range(draw.below(4))]
    mapper, now = bench.mapper, calls.START
    asked: dict[str, int] = {}  # the outer port by protocol, of calls that no fault has answered
    while draw:
        output, before = mapper.poll_output(), dict(mapper.mappings)
        assert mapper.poll_output() is None, "one at a time"
        body = _body(output, bench) if output is not None else b""
        body = draw.of((draw.piece(80), body, body))
        body = draw.changed(body) if draw.flag() and body else body
        if isinstance(output, MSearch):
            source = draw.of((ROUTER, ROUTER, _OWN))
            assert mapper.receive(body, source, now) is (source == ROUTER)
            assert source == ROUTER or mapper.poll_output() is None
        elif output is not None:
            assert _AT_ROUTER.fullmatch(output.url)
            adding = _ADDING.search(output.body)
            if adding is not None:
                protocol = adding[2].decode().lower()
                asked[protocol] = int(adding[1])
            if draw.below(4):
                mapper.answered(body, now)
                if adding is not None and _is_refusal(body):
                    held = before.get(protocol)
                    asked |= {protocol: held.port if held else 0}
            else:
                mapper.failed("it is silent", now)
            for protocol, mapping in mapper.mappings.items():
                if before.get(protocol) != mapping:
                    assert mapping.port == asked[protocol]
                    assert b"AddPortMappingResponse" in body
                    assert mapping.expires_at == now + LIFETIME_S
        assert mapper.problem.isprintable()
        deadline = mapper.poll_timeout()
        assert deadline is not None
        now = max(now, deadline.at if draw.flag() else now + draw.number())
        mapper.handle_timeout(now)
    mapper.close()
    assert mapper.mappings == {}
    given_up = set()
    while (output := mapper.poll_output()) is not None:
        assert isinstance(output, HttpCall)
        call = _DELETING.search(output.body)
        assert call is not None
        given_up.add((call[2].decode().lower(), int(call[1])))
    assert given_up >= {each for each in asked.items() if each[1]}, "what may be mapped is given up"
    assert len(given_up) <= 2


_ADDING = re.compile(rb"AddPortMapping.*ExternalPort>(\d+)<.*Protocol>(\w+)<")
_DELETING = re.compile(rb"DeletePortMapping.*ExternalPort>(\d+)<.*Protocol>(\w+)<")


def _is_refusal(body: bytes) -> bool:
    try:
        return isinstance(upnp.result(body, "AddPortMapping"), upnp.Fault)
    except Refused:
        return False


def _body(output: MSearch | HttpCall, bench: calls.Bench) -> bytes:
    """What an honest router says."""
    return FOUND if isinstance(output, MSearch) else bench.answer(output)
