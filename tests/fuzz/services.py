"""Targets for the node, a link, the control socket, and the enrolment of invited devices."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

from nconnect.control.server import ControlServer
from nconnect.crypto.keys import Identity
from nconnect.invite.applicant import NotAdmitted
from nconnect.invite.book import Book
from nconnect.invite.registrar import Admission
from nconnect.io.http.http import Credentials, Request
from nconnect.model import NknAddress
from nconnect.nkn.link import Link
from nconnect.wire.actions import ClientSet, SetClient
from nconnect.wire.invite import unwrap
from nconnect.wire.message import Message
from nconnect.wire.nkn import InboundMessage, OutboundMessage
from nconnect.wire.sigchain import login_digest
from tests.control.fake import FakeBackend
from tests.fuzz.draw import Draw
from tests.invite.examples import (
    DEVICE,
    NOW,
    OTHER,
    OTHER_IDENTITY,
    TOKEN,
    WELCOME,
    Provider,
    applicant,
    asked,
    invitation,
    rng,
)  # fmt: skip
from tests.node.fakes import INFO, NODE, SALT, FakeClient, make_node

# --- node and link ---


def node_machine(data: bytes) -> None:
    """Frames and actions of a client that has logged in, and of one that has not; others get through."""
    node = make_node()
    alice, bob, stranger = (
        FakeClient(node).log_in(),
        FakeClient(node, "bob", b"b" * 32).log_in(),
        FakeClient(node, "eve", b"e" * 32),
    )
    draw, now = Draw(data), 0.0
    while draw:
        who, kind = draw.of((alice, stranger)), draw.below(6)
        part = draw.piece(200)
        if kind == 3:
            name = draw.of((bob.address, "bob", part.decode("latin-1")))
            part = OutboundMessage((name,) * (1 + draw.below(3)), (part,)).encode()
        elif kind == 4:
            part = _login(stranger, draw).encode().encode()
        if who.transport.closed is None:
            (who.text if kind in (1, 4) else who.binary)(part, now)
        now += draw.below(16) * 0.1
        node.handle_timeout(now)
    assert not stranger.transport.frames, "who is not logged in gets nothing"
    assert all(text.get("Action") != "setClient" or text.get("Error") for text in stranger.transport.texts)
    for message in bob.received():
        assert message.src == alice.address, "a client spoke in another's name"
    assert not alice.received() or {message.src for message in alice.received()} == {alice.address}
    if now < 5 and bob.transport.closed is None:
        carol = FakeClient(node, "carol", b"c" * 32, now).log_in(now)
        carol.send(bob.address, b"hello", now=now)
        assert bob.payloads()[-1:] == [b"hello"]


def _login(client: FakeClient, draw: Draw) -> SetClient:
    """A login with one thing wrong in it."""
    signature = client.identity.sign(login_digest(client.challenge, SALT))
    good = SetClient(client.address, SALT, signature)
    other = Identity(b"a" * 32)
    return draw.of(
        (
            dataclasses.replace(good, address=f"alice.{other.public_key.hex()}"),
            dataclasses.replace(good, salt=b"t" * 32),
            dataclasses.replace(good, signature=bytes(64)),
            dataclasses.replace(good, signature=other.sign(login_digest(client.challenge, SALT))),
            dataclasses.replace(good, signature=client.identity.sign(login_digest(bytes(32), SALT))),
        )
    )


def link_machine(data: bytes) -> None:
    """What a node says to a client that has just connected, at every step of the login."""
    link = Link(
        NODE, NknAddress("x", NODE.public_key), ("http://192.0.2.1:30003",), now=0.0, rng=lambda n: bytes(n)
    )
    link.start(0.0)
    _drain(link)
    link.resolved(INFO, 0.0, seed="http://192.0.2.1:30003")
    _drain(link)
    link.connected(0.0)
    _drain(link)
    draw, now = Draw(data), 0.0
    challenged = False
    while draw:
        what, node = draw.below(8), None
        if what == 6 and not challenged:
            text, challenged = b'{"Action":"authChallenge","Challenge":"' + b"33" * 32 + b'"}', True
        elif what == 7:
            node = draw.of((INFO, None, dataclasses.replace(INFO, public_key="ab" * 32)))
            text = ClientSet(node, b"\x01").encode().encode()
        else:
            text = draw.piece(200)
        is_text = what & 1 or what >= 6
        frame = InboundMessage("a", text).encode() if what == 2 else text
        message = (link.receive_text if is_text else link.receive_binary)(text if is_text else frame, now)
        names = _drain(link)
        if "LinkUp" in names:
            assert challenged, "up without a login"
            assert node in (None, INFO), "up at a node of another key"
        if message is not None:
            assert challenged, "a message before the login was asked for"
            assert what != 2 or bytes(message.payload) == text
        now += draw.below(16) * 0.1
        if "Disconnect" in names or "LinkDown" in names:
            return


def _drain(link: Link) -> list[str]:
    """Take all it wants done."""
    names = []
    while (output := link.poll_output()) is not None:
        names.append(type(output).__name__)
    return names


# --- control socket, invitations ---


def control_machine(data: bytes) -> None:
    """Any request of root's: answered in JSON, and never by a mistake of ours; of others': refused."""
    draw = Draw(data)
    paths = (
        "/v1/status",
        "/v1/wait",
        "/v1/ping",
        "/v1/pending",
        "/v1/reload",
        "/v1/down",
        "/",
        draw.text(20),
    )
    head, _, body = data.partition(b"\n")
    method, _, target = head.decode(errors="replace").partition(" ")
    seconds = draw.of(("-1", "nan", "inf", "1e999", "1", "x", "1e9"))
    content = draw.of(
        ({"peer": "laptop"}, {"peer": "laptop", "timeout_s": draw.of((1, True, "1", None, [], -1))})
    )
    backend = FakeBackend(Path("/nowhere"))
    server = ControlServer(backend, uid=1000)
    own = Credentials(1, draw.of((0, 1000)), 0)
    likely = f"{draw.of(paths)}?timeout_s={seconds}"
    for request in (
        Request(method, target, (), body, "", own),
        Request(draw.of(("GET", "POST")), likely, (), json.dumps(content).encode(), "", own),
    ):
        response = asyncio.run(server.handle(request))
        assert response.status in (200, 400, 404, 405, 409, 504), response
        json.loads(response.body)
        asked_so_far = len(backend.asked)
        for credentials in (None, Credentials(1, draw.of((1, 999, 65534)), 0)):
            refused = asyncio.run(server.handle(dataclasses.replace(request, credentials=credentials)))
            assert refused.status == 403
            assert len(backend.asked) == asked_so_far, "somebody else was served"
    for entry in backend.asked:
        assert not isinstance(entry, tuple) or 0 <= entry[-1] <= 1e6


def invitation_machine(data: bytes) -> None:
    """Applications and answers with bytes changed, of others, too late: none lets anybody in."""
    draw = Draw(data)
    state = draw.below(4)
    book = invitation(expires_at=NOW - 1 if state == 1 else NOW + 3600)
    provider = Provider(book)
    if state == 2:
        provider.book.revoke("laptop", NOW)
    device = applicant()
    genuine = asked(device)
    thief = applicant(dataclasses.replace(TOKEN, secret=draw.take(16)), OTHER_IDENTITY, OTHER)
    for payload, source in (
        (data, DEVICE), (asked(thief), OTHER), (genuine, OTHER),
        (asked(applicant(TOKEN, OTHER_IDENTITY, DEVICE)), DEVICE),
    ):  # fmt: skip
        judged = provider.judge(payload, source)
        is_told = (
            state in (1, 2) and payload not in (data, genuine) and source is DEVICE
        )  # it holds the token
        assert judged is None or (is_told and isinstance(judged, bytes)), "let in, or answered"
    message = Message.decode(genuine)
    changed = draw.changed(bytes(message.payload))
    if changed != bytes(message.payload):
        judged = provider.judge(Message(changed).encode())
        # What is around the application, such as the message's id, is not part of it.
        assert judged is None or unwrap(changed) == unwrap(message.payload)
    judged = provider.judge(genuine)
    if state in (1, 2):
        assert isinstance(judged, bytes)
        return
    assert isinstance(judged, Admission), "the genuine one is let in"
    grant = judged.grant(WELCOME, rng(3))
    answer = Message.decode(grant)
    spoilt = draw.changed(bytes(answer.payload))
    try:
        for source, payload in ((DEVICE, grant), (OTHER, grant)):
            assert device.receive(str(source), payload) is None
        if spoilt != bytes(answer.payload):
            got = device.receive(device.dest, Message(spoilt).encode())
            assert got is None or got == WELCOME
            if got is not None:
                return
        assert device.receive(device.dest, data) is None
    except NotAdmitted:
        raise AssertionError("a forged refusal was believed") from None
    assert device.receive(device.dest, grant) == WELCOME
    assert isinstance(provider.book, Book)
