"""Attacks on flows: by forged packets from the tunnel, and by too many flows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from lab.attack.attack import Attack, Result
from lab.attack.packets import ICMP, UDP, ipv4, udp, unreachable
from lab.attack.stage import EVIL, EVIL_TUNNEL, FLOOD_PORT, PORT, ROGUE, ROGUE_TUNNEL, Stage
from lab.netns import LabError, Namespace
from lab.process import until
from lab.sides import Side
from lab.world import SERVER, USER_TUNNEL

GATEWAY, OWN = "198.51.100.1", "198.51.100.2"  # on the user's own network
BOUND = 500
FLOWS = 4000
WITHIN_S = 1.0  # of the daemon's processor time: the machine may be busy with other things


def _keep_flows(stage: Stage) -> Result:
    """The peer opens 4,000 flows, and then loses its right to them."""
    side = stage.world.provider_side
    stage.programs["peer"].do("many_flows", str(FLOOD_PORT), str(FLOWS))
    opened = _flows(stage)
    if opened < FLOWS / 2:
        return Result(f"the row failed: {opened} flows were opened")
    daemon = side.daemon
    assert daemon is not None
    before_s = daemon.cpu_s()
    changed = side.try_nconnect("peer", "set", EVIL, "--allow", f"{SERVER}:{PORT}/tcp")
    took_s = daemon.cpu_s() - before_s
    left = _flows(stage)
    side.nconnect("peer", "set", EVIL, "--allow", f"{SERVER}:{PORT}/tcp,{SERVER}:{FLOOD_PORT}/udp")
    if changed.returncode:
        return Result(f"the change failed: {changed.stderr}")
    if left or took_s > WITHIN_S:
        return Result(f"{left} of {opened} flows are left after {took_s:.2f} s of work")
    return Result(seen=f"{opened} flows ended in {took_s:.2f} s of work")


def _fill_table(stage: Stage) -> Result:
    """The peer opens eight times as many flows as it may have."""
    side = stage.world.provider_side
    side.nconnect("peer", "set", EVIL, "--max-flows", str(BOUND))
    try:
        stage.programs["peer"].do("many_flows", str(FLOOD_PORT), str(FLOWS))
        until(lambda: side.drops("flow_limit") > 0, "the count")
        opened = _flows(stage)
    finally:
        side.nconnect("peer", "set", EVIL, "--max-flows", "0")
        stage.world.provider.run(["conntrack", "-D", "-f", "ipv4", "-p", "udp", "--orig-src", EVIL_TUNNEL])
    if opened > 2 * BOUND:  # flows that are opened during a count may exceed the bound until the next one
        return Result(f"{opened} flows are open, {BOUND} are allowed")
    return Result(seen=f"{opened} flows, then refused")


@contextmanager
def flow(far_machine: Namespace, host: str, user: Namespace) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A UDP flow of the user's to a program at `host`, answered once; both ends."""
    with (
        far_machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        user.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        for end in (far, near):
            end.settimeout(5)
        far.bind((host, 0))
        near.connect(far.getsockname())
        near.send(b"asked")
        far.connect(far.recvfrom(100)[1])
        far.send(b"answered")
        near.recv(100)
        yield far, near


def _harm(far: socket.socket, near: socket.socket) -> str:
    """What has arrived in the flow, or that it has ended; "" if it just goes on."""
    try:
        far.send(b"again")
        near.send(b"again")
        told = (near.recv(100), far.recv(100))
    except OSError as error:
        return f"the flow ended: {error}"
    return "" if told == (b"again", b"again") else f"{told} was taken for the answer"


def _tried(side: Side, reasons: tuple[str, ...], stage: Stage, program: str, packets: list[bytes]) -> str:
    """Send the packets, and return which of the reasons `side` counts."""
    before = {reason: side.drops(reason) for reason in reasons}
    stage.programs[program].do("seal", *(packet.hex() for packet in packets))

    def counted() -> list[str]:
        return [reason for reason in reasons if side.drops(reason) > before[reason]]

    try:
        until(lambda: bool(counted()), "a count", timeout_s=5)
    except LabError:
        return "nothing was counted"  # `_harm` tells whether that is bad
    return ", ".join(counted())


@contextmanager
def _pushed_gateway(stage: Stage) -> Iterator[None]:
    """The hostile provider's prefixes hold the user's gateway, whose route is skipped; rp_filter is off."""
    made = stage.world
    for name in ("all", "nc0", "wan0"):
        made.user.sysctl(f"net.ipv4.conf.{name}.rp_filter", "0")
    peer = ("peer", "set", ROGUE, "--allowed-ips")
    made.user_side.nconnect(*peer, f"10.66.0.0/24,{GATEWAY}/32")
    try:
        yield
    finally:
        made.user_side.nconnect(*peer, "10.66.0.0/24")


def _forge_answer(stage: Stage) -> Result:
    """The provider answers in place of the user's gateway."""
    made = stage.world
    with _pushed_gateway(stage), flow(made.internet, GATEWAY, made.user) as (far, near):
        body = udp(far.getsockname()[1], near.getsockname()[1], b"forged")
        packets = [ipv4(GATEWAY, to, UDP, body) for to in (OWN, USER_TUNNEL)]
        seen = _tried(made.user_side, ("refused", "spoofed_source"), stage, "provider", packets)
        return Result(_harm(far, near), seen)


def _end_outside(stage: Stage) -> Result:
    """The provider sends errors about a flow of the user's outside of the tunnel."""
    made = stage.world
    with _pushed_gateway(stage), flow(made.internet, GATEWAY, made.user) as (far, near):
        asked = ipv4(OWN, GATEWAY, UDP, udp(near.getsockname()[1], far.getsockname()[1], b"asked"))
        packets = [ipv4(ROGUE_TUNNEL, to, ICMP, unreachable(asked)) for to in (USER_TUNNEL, OWN)]
        seen = _tried(made.user_side, ("refused", "foreign_error"), stage, "provider", packets)
        return Result(_harm(far, near), seen)


def _end_anothers(stage: Stage) -> Result:
    """The peer sends errors that quote packets of another peer's flow."""
    made = stage.world
    with flow(made.server, SERVER, made.user) as (far, near):
        client, server = near.getsockname()[1], far.getsockname()[1]
        asked = ipv4(USER_TUNNEL, SERVER, UDP, udp(client, server, b"asked"))
        answered = ipv4(SERVER, USER_TUNNEL, UDP, udp(server, client, b"answered"))
        packets = [
            ipv4(EVIL_TUNNEL, USER_TUNNEL, ICMP, unreachable(asked)),
            ipv4(EVIL_TUNNEL, SERVER, ICMP, unreachable(answered)),
        ]
        seen = _tried(made.provider_side, ("foreign_error", "refused"), stage, "peer", packets)
        return Result(_harm(far, near), seen)


def _flows(stage: Stage) -> int:
    words = ["conntrack", "-L", "-f", "ipv4", "-p", "udp", "--orig-src", EVIL_TUNNEL]
    return stage.world.provider.run(words).stdout.count("udp ")


ROWS: tuple[Attack, ...] = (
    Attack("provider", "forged_answer", "an answer in place of the user's own gateway", _forge_answer, "C4"),
    Attack("provider", "error_outside", "ICMP errors about a flow outside of the tunnel", _end_outside, "C4"),
    Attack("peer", "error_of_another", "ICMP errors that quote another peer's flow", _end_anothers, "C5"),
    Attack("peer", "fill_conntrack", "eight times the flows that it may have", _fill_table, "C6"),
    Attack("peer", "flows_outlive_rights", "4,000 flows, kept after the right to them", _keep_flows, "C6"),
)
