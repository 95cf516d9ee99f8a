"""Any bytes from anybody, and genuine messages with something changed: never an exception, never a packet."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nconnect.errors import DropReason
from nconnect.wire.message import Message
from nconnect.wire.tunnel import DATA_HEADER
from tests.sim.network import Host, Simulation, packet
from tests.tunnel.hostile import attempt, batch_of, captured, connected, in_box, initiation, passes, sealed_by

SIM, USER, PROVIDER = connected()
KNOWN = str(USER.address)
SOURCE = st.one_of(
    st.just(KNOWN),
    st.just(f"__0__.{KNOWN}"),
    st.just(str(PROVIDER.address)),
    st.text(max_size=80),
    st.binary(min_size=32, max_size=32).map(lambda key: f"x.{key.hex()}"),
)
INDEX = PROVIDER.peer(USER).session.current.local_index  # type: ignore[union-attr]
COMMON = settings(max_examples=150)


def give(source: str, payload: bytes) -> int:
    """How many packets it delivered."""
    before = len(PROVIDER.delivered)
    PROVIDER.receive(source, payload)
    return len(PROVIDER.delivered) - before


def total(host: Host) -> int:
    return sum(host.dropped().values())


@COMMON
@given(SOURCE, st.binary(max_size=400))
def test_any_payload_from_any_source(source: str, payload: bytes) -> None:
    before = total(PROVIDER)
    assert give(source, payload) == 0
    assert total(PROVIDER) == before + 1


@COMMON
@given(
    SOURCE,
    st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, INDEX, 5]),
    st.integers(0, 2**64 - 1), st.binary(max_size=100),
)  # fmt: skip
def test_any_data_frame(
    source: str, version: int, kind: int, reserved: int, index: int, counter: int, sealed: bytes
) -> None:
    header = DATA_HEADER.pack(version, kind, reserved, index, counter)
    before = total(PROVIDER)
    assert give(source, Message(sealed, encrypted=True, nonce=header).encode()) == 0
    assert total(PROVIDER) == before + 1


@COMMON
@given(st.binary(max_size=250), st.booleans())
def test_any_data_in_a_genuine_box(data: bytes, ours: bool) -> None:
    before = total(PROVIDER)
    assert give(KNOWN, in_box(USER, PROVIDER, (b"nc\x01" if ours else b"") + data)) == 0
    assert total(PROVIDER) == before + 1


@COMMON
@given(st.binary(max_size=300))
def test_any_batch_that_the_peer_itself_sealed(batch: bytes) -> None:
    assert give(KNOWN, sealed_by(USER, PROVIDER, batch)) == 0


@COMMON
@given(st.binary(min_size=10, max_size=10), st.binary(max_size=60), st.integers(0, 60), st.integers(0, 255))
def test_any_packet_that_the_peer_itself_sealed(header: bytes, body: bytes, at: int, value: int) -> None:
    good = bytearray(packet("10.86.0.2", "192.168.50.10", body))
    good[:10] = header
    if 10 <= at < len(good):
        good[at] = value
    assert give(KNOWN, sealed_by(USER, PROVIDER, batch_of(bytes(good)))) in (0, 1)
    if PROVIDER.delivered:
        assert PROVIDER.delivered[-1][22:26] in (b"\x0a\x56\x00\x02",)


@COMMON
@given(st.data())
def test_a_genuine_message_with_something_changed(data: st.DataObject) -> None:
    genuine = data.draw(
        st.sampled_from(
            [
                sealed_by(USER, PROVIDER, batch_of(packet("10.86.0.2", "192.168.50.10"))),
                initiation(USER, PROVIDER, attempt(USER, PROVIDER)),
                captured(SIM, USER, boxed_ones=True)[0],
            ]
        )
    )
    changed = bytearray(genuine)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "insert", "delete"]))
        if action == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "cut":
            del changed[at + 1 :]
        elif action == "insert":
            changed.insert(at, data.draw(st.integers(0, 255)))
        else:
            del changed[at]
            if not changed:
                changed = bytearray(b"x")
    if bytes(changed) == genuine or _same(bytes(changed), genuine):
        return
    assert give(KNOWN, bytes(changed)) == 0


def _same(changed: bytes, genuine: bytes) -> bool:
    """Whether it still means the same (an unknown field, a field twice)."""
    try:
        return Message.decode(changed) == Message.decode(genuine)
    except Exception:
        return False


def test_genuine_packets_pass_after_all_that() -> None:
    assert set(PROVIDER.dropped()) <= {reason.value for reason in DropReason}
    fresh: tuple[Simulation, Host, Host] = (SIM, USER, PROVIDER)
    fresh[0].run(1)
    passes(*fresh)
    assert passes(*fresh)
    assert passes(SIM, PROVIDER, USER)
