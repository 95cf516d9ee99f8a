"""What is fuzzed: each target takes any bytes, and may raise nothing.

A parser's own error is caught here; whatever else it raises is a finding. Where there is a second way to say
what must hold (what was parsed is written and parsed again, a machine still works) a target checks it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from nconnect.config import parse as parse_config
from nconnect.control.server import ControlServer
from nconnect.errors import ConfigError, RemoteProtocolError
from nconnect.invite.book import Book
from nconnect.invite.token import Token
from nconnect.invite.welcome import Welcome
from nconnect.io import conntrack
from nconnect.io.http import Credentials, Request
from nconnect.io.netlink import read_attributes
from nconnect.ip import offload, packet
from nconnect.model import NknAddress
from nconnect.nkn.link import Link
from nconnect.tunnel.batch import read_records
from nconnect.wire import actions, invite, jsonrpc, nkn, protobuf, strict_json, tunnel, upgrade, websocket
from tests.control.fake import FakeBackend
from tests.node.fakes import FakeClient, make_node
from tests.sim.network import packet as genuine_packet
from tests.tunnel.hostile import attempt, batch_of, connected, in_box, initiation, sealed_by

Target = Callable[[bytes], None]


def protobuf_fields(data: bytes) -> None:
    try:
        for _, value in protobuf.fields(data):
            _ = value if isinstance(value, int) else bytes(value)
    except RemoteProtocolError:
        pass


def nkn_frames(data: bytes) -> None:
    try:
        message = nkn.decode_client_message(data)
    except RemoteProtocolError:
        return
    again = nkn.decode_client_message(message.encode())
    assert type(again) is type(message)


def nkn_payloads(data: bytes) -> None:
    for kind in (nkn.Message, nkn.Payload, nkn.TextData):
        try:
            found = kind.decode(data)
        except RemoteProtocolError:
            continue
        assert kind.decode(found.encode()) == found


def nkn_actions(data: bytes) -> None:
    for parse in (actions.parse_node_action, actions.parse_client_action):
        try:
            parse(data)
        except RemoteProtocolError:
            pass


def json_text(data: bytes) -> None:
    try:
        value = strict_json.load(data)
    except RemoteProtocolError:
        return
    assert strict_json.load(strict_json.dump(value)) == value


def rpc(data: bytes) -> None:
    try:
        jsonrpc.parse_response(data)
    except RemoteProtocolError:
        pass
    jsonrpc.parse_requests(data)
    try:
        node = jsonrpc.NodeInfo.from_json(strict_json.load(data))
    except RemoteProtocolError:
        return
    assert jsonrpc.NodeInfo.from_json(node.to_json()) == node


def node_addresses(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        host, port = jsonrpc.split_addr(text)
    except RemoteProtocolError:
        pass
    else:
        assert jsonrpc.split_addr(jsonrpc.join_addr(host, port)) == (host, port)
    try:
        address = NknAddress.parse(text)
    except ConfigError:
        return
    assert NknAddress.parse(str(address)) == address


def websocket_frames(data: bytes) -> None:
    """All at once, and byte by byte: the same."""
    view = memoryview(data)
    try:
        header = websocket.parse_header(view, max_payload=1 << 16)
    except RemoteProtocolError:
        return
    for size in range(min(len(data), 14)):
        try:
            part = websocket.parse_header(view[:size], max_payload=1 << 16)
        except RemoteProtocolError:
            raise AssertionError("a beginning is refused, and the whole is not") from None
        assert part is None or part == header
    try:
        websocket.parse_close(data)
    except RemoteProtocolError:
        pass


def websocket_upgrades(data: bytes) -> None:
    for end in (upgrade.ServerUpgrade(), upgrade.ClientUpgrade("host", "/", b"0" * 16)):
        try:
            for at in range(0, len(data), 7):
                if end.receive(data[at : at + 7]) is not None:
                    break
        except RemoteProtocolError:
            pass


def handshake_frames(data: bytes) -> None:
    try:
        frame = tunnel.decode_handshake(data)
        tunnel.Hello.decode(data)
    except RemoteProtocolError:
        return
    assert tunnel.decode_handshake(frame.encode()) == frame


def data_frames(data: bytes) -> None:
    try:
        found = tunnel.split_data_frame(memoryview(data))
    except RemoteProtocolError:
        return
    if found is not None:
        assert nkn.Message.decode(data).nonce == found[0]


def batches(data: bytes) -> None:
    try:
        packets, _ = read_records(memoryview(bytearray(data)))
    except RemoteProtocolError:
        return
    assert sum(map(len, packets)) <= len(data)


def packets(data: bytes) -> None:
    view = memoryview(bytearray(data))
    if not packet.is_well_formed(view):
        return
    packet.transport(view)
    packet.flow_hash(view)
    packet.is_forbidden_source(packet.source(view))
    packet.destination(view)
    packet.mark_congestion(view)
    assert packet.total_length(view) == len(view)


def super_packets(data: bytes) -> None:
    """What the checks let through can be split and cut, and each piece is a packet."""
    record = bytearray(data)
    if len(record) < 11 or not packet.is_well_formed(memoryview(record)[10:]):
        return
    if not offload.check(memoryview(record)):
        return
    for pieces in (offload.split(memoryview(record)), offload.cut(memoryview(record), 3000)):
        assert pieces
        for piece in pieces:
            assert packet.is_well_formed(memoryview(piece)[10:])
            assert offload.check(memoryview(bytearray(piece)))


def invitations(data: bytes) -> None:
    for parse in (invite.decode, invite.unwrap):
        try:
            parse(data)
        except RemoteProtocolError:
            pass
    try:
        Welcome.decode(data)
    except RemoteProtocolError:
        pass


def tokens(data: bytes) -> None:
    try:
        token = Token.parse(data.decode(errors="replace"))
    except ConfigError:
        return
    assert Token.parse(str(token)) == token


def invitation_books(data: bytes) -> None:
    try:
        book = Book.from_json(json.loads(data))
    except (ValueError, RecursionError, ConfigError):
        return
    Book.from_json(book.to_json())


def configurations(data: bytes) -> None:
    try:
        parse_config(
            data.decode(errors="replace"), interface="nc0", source="nc0.toml",
            read_seed_file=lambda _: "11" * 32, public_key_of=lambda seed: seed,
        )  # fmt: skip
    except ConfigError as error:
        if not error.problems or any("\n" in line for line in error.problems):
            raise AssertionError("not a line for each mistake") from error


def conntrack_lists(data: bytes) -> None:
    list(conntrack.parse(data.decode(errors="replace")))


def netlink_attributes(data: bytes) -> None:
    try:
        list(read_attributes(memoryview(data)))
    except (ValueError, OSError):
        pass  # the kernel wrote it: one clear error is enough


# --- machines ---


class _Tunnel:
    """A provider with a session, made anew after so many inputs that its replay window has moved on."""

    def __init__(self) -> None:
        self.sim, self.user, self.provider = connected()
        self.uses = 0

    @classmethod
    def get(cls) -> _Tunnel:
        found = _state.get("tunnel")
        if not isinstance(found, cls) or found.uses > 2000:
            found = _state["tunnel"] = cls()
        found.uses += 1
        return found


_state: dict[str, object] = {}


def handshake_machine(data: bytes) -> None:
    """Handshake frames in a genuine box, and genuine initiations with bytes changed."""
    used = _Tunnel.get()
    used.sim.now += 0.1
    before = len(used.provider.delivered)
    used.provider.receive(str(used.user.address), in_box(used.user, used.provider, b"nc\x01" + data))
    made = attempt(used.user, used.provider)
    frame = bytearray(made.frame)
    for at in range(0, len(data) - 1, 2):
        frame[data[at] % len(frame)] ^= data[at + 1]
    used.provider.receive(str(used.user.address), in_box(used.user, used.provider, bytes(frame)))
    assert len(used.provider.delivered) == before


def session_machine(data: bytes) -> None:
    """Any batch that the peer itself sealed: nothing but its own packets may come out."""
    used = _Tunnel.get()
    if used.user.peer(used.provider).session.current is None:
        _state.clear()
        return
    mine = genuine_packet("10.86.0.2", "192.168.50.10", data)
    changed = bytearray(mine)
    for at in range(0, min(len(data), 40) - 1, 2):
        changed[data[at] % len(changed)] = data[at + 1]
    before = len(used.provider.delivered)
    for batch in (data, batch_of(bytes(changed))):
        used.provider.receive(str(used.user.address), sealed_by(used.user, used.provider, batch))
    for record in used.provider.delivered[before:]:
        assert packet.source(memoryview(record)[10:]) == b"\x0a\x56\x00\x02"
    del used.provider.delivered[before:]
    used.user.sim.sent.clear()


def message_machine(data: bytes) -> None:
    """Any payload, from the peer and from a stranger."""
    used = _Tunnel.get()
    for source in (str(used.user.address), f"x.{'ab' * 32}", data[:40].decode(errors="replace")):
        used.provider.receive(source, data)
    assert initiation(used.user, used.provider, attempt(used.user, used.provider))


def node_machine(data: bytes) -> None:
    """Frames and actions of a client that has logged in, and of one that has not; others get through."""
    node = make_node()
    alice, bob, stranger = (
        FakeClient(node).log_in(),
        FakeClient(node, "bob", b"b" * 32).log_in(),
        FakeClient(node),
    )
    now = 0.0
    while data:
        what, size, body = data[0], data[1:2], data[2:]
        part, data = body[: size[0] if size else 0], body[size[0] if size else 0 :]
        who = stranger if what & 1 else alice
        if who.transport.closed is None:
            (who.text if what & 2 else who.binary)(part, now)
        now += (what >> 4) * 0.1
        node.handle_timeout(now)
    if now < 5 and bob.transport.closed is None:
        carol = FakeClient(node, "carol", b"c" * 32, now).log_in(now)
        carol.send(bob.address, b"hello", now=now)
        assert bob.payloads()[-1:] == [b"hello"]


def link_machine(data: bytes) -> None:
    """What a node says to a client that has just connected."""
    from tests.node.fakes import INFO, NODE

    link = Link(
        NODE, NknAddress("x", NODE.public_key), ("http://192.0.2.1:30003",), now=0.0, rng=lambda n: bytes(n)
    )
    link.start(0.0)
    _drain(link)
    link.resolved(INFO, 0.0, seed="http://192.0.2.1:30003")
    _drain(link)
    link.connected(0.0)
    _drain(link)
    now = 0.0
    while data:
        what, size, body = data[0], data[1:2], data[2:]
        part, data = body[: size[0] if size else 0], body[size[0] if size else 0 :]
        try:
            (link.receive_text if what & 1 else link.receive_binary)(part, now)
        except AssertionError:
            return  # the machine had told its shell to disconnect: nothing more is fed
        now += (what >> 4) * 0.1
        if _drain(link):
            return


def _drain(link: Link) -> bool:
    """Take all it wants done; whether it wants the connection closed."""
    names = []
    while (output := link.poll_output()) is not None:
        names.append(type(output).__name__)
    return "Disconnect" in names or "LinkDown" in names


def control_machine(data: bytes) -> None:
    """Any request of root's: answered in JSON, and never by a mistake of ours."""
    head, _, body = data.partition(b"\n")
    method, _, target = head.decode(errors="replace").partition(" ")
    server = ControlServer(FakeBackend(Path("/nowhere")), uid=1000)
    request = Request(method, target, (), body, "", Credentials(1, 0, 0))
    response = asyncio.run(server.handle(request))
    assert response.status in (200, 400, 404, 405, 409, 504), response
    json.loads(response.body)


PARSERS: tuple[Target, ...] = (
    protobuf_fields, nkn_frames, nkn_payloads, nkn_actions, json_text, rpc, node_addresses, websocket_frames,
    websocket_upgrades, handshake_frames, data_frames, batches, packets, super_packets, invitations, tokens,
    invitation_books, configurations, conntrack_lists, netlink_attributes,
)  # fmt: skip
MACHINES: tuple[Target, ...] = (
    handshake_machine, session_machine, message_machine, node_machine, link_machine, control_machine,
)  # fmt: skip
TARGETS: dict[str, Target] = {target.__name__: target for target in (*PARSERS, *MACHINES)}
