"""Attacks on direct paths: at the port, by lies about where a peer is, and by a peer that was removed.

The internet forwards while such a row runs, so that the devices and the attacker reach one another.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from lab.attack.attack import Attack, Result
from lab.attack.outsider import DATAGRAMS_PER_S
from lab.attack.overheard import TCP, UDP, Overheard, Seen
from lab.attack.packets import ipv4, udp
from lab.attack.rows.flows import flow
from lab.attack.second_user import HOST, NAME, admit, second_user
from lab.attack.stage import (
    ATTACKER_ADDRESSES,
    ATTACKER_PREFIX6,
    EVIL_TUNNEL,
    FLOOD_PORT,
    NODE_FOR_ATTACKER,
    NODE_FOR_ATTACKER6,
    Stage,
)
from lab.netns import LabError, Namespace
from lab.ping import RoundTrips, round_trips
from lab.process import Process, until
from lab.sides import Side
from lab.world import (
    PROVIDER_LAN,
    PROVIDER_PEER,
    PROVIDER_TUNNEL,
    SERVER,
    USER_PEER,
    USER_TUNNEL,
    WAN_INTERFACE,
)
from nconnect.tunnel.paths.direct.budget import MAX_NAMED
from nconnect.tunnel.paths.direct.constants import AMPLIFICATION, HOUR_BYTES, SEARCH_BYTES, SEARCH_S
from nconnect.tunnel.paths.stream.door import PLACES
from nconnect.wire.direct import OVERHEAD_BYTES
from nconnect.wire.stream import OPEN_BYTES

PROVIDER_HOST, USER_HOST = "203.0.113.2", "198.51.100.2"
ONLY_UDP = "meta l4proto tcp drop"
USER_DIALS = 'iifname "provider" tcp flags & (syn|ack) == syn drop'  # so the listener is the provider's
FOUND_S = 20.0
MAY_GROW = 8_000_000

# The flood: (attack, who sent what was overheard, what it is counted as); the control is a flood of a socket
# that is read and no more. To the device a probe that is forged is like any other datagram that is.
FLOODS = (
    ("wrong_index", USER_HOST, "no_session"),
    ("stun", USER_HOST, "no_session"),
    ("recorded", USER_HOST, "replayed"),
    ("recorded", PROVIDER_HOST, "no_session"),  # reflected: what the provider sent
    ("bad_tag", USER_HOST, "not_authentic"),
)
FLOODS6 = (("wrong_index", USER_HOST, "no_session"), ("bad_tag", USER_HOST, "not_authentic"))
PROVIDER_HOST6, NODE_FOR_PROVIDER6 = "2001:db8:65::2", "2001:db8:65::1"
CONTROL_PORT = 9500
FLOOD_S = 5.0
PINGS = 150  # in 3 s
SLOWER_MS = 50.0  # than with the control: as `netns_tests/test_siege.py`
TRIES = 2  # a busy machine can spoil a measurement

KNOCK_S = 12.0

# What the hostile peer says about where it is.
VICTIM = "192.0.2.77"
LATER_VICTIM = "192.0.2.78"
SCANNED = "198.51.200."
NAMED_PORTS = range(20_000, 21_000)
FORBIDDEN = (
    (VICTIM, 53), (VICTIM, 443), (SERVER, 22), ("224.0.0.251", 20_001), ("239.1.2.3", 20_001),
    ("192.168.50.255", 20_001), ("255.255.255.255", 20_001), ("127.0.0.1", 20_001), ("169.254.1.1", 20_001),
    ("0.0.0.0", 20_001), (USER_TUNNEL, 20_001), (PROVIDER_TUNNEL, 20_001), (PROVIDER_HOST, 20_001),
    ("10.77.0.1", 20_001),
)  # fmt: skip
LIST = 8
LIST_S = 0.55  # from one list to the next: of quicker ones some are not read

FORGED_S = 6.0  # longer than until the relay carries
WITHIN_S = 1.0  # of the removal


# The way


@contextmanager
def _way_open(stage: Stage, *rules: str) -> Iterator[None]:
    """The internet forwards, except for what these nft rules drop."""
    internet = stage.world.internet
    stage.attacker.ip(f"route replace 203.0.113.0/24 via {NODE_FOR_ATTACKER}")
    chain = "\n".join(("type filter hook forward priority filter;", *rules))
    internet.nft(f"table ip between {{\nchain forward {{\n{chain}\n}}\n}}")
    internet.sysctl("net.ipv4.ip_forward", "1")
    try:
        yield
    finally:
        internet.sysctl("net.ipv4.ip_forward", "0")
        internet.nft("delete table ip between")


@contextmanager
def _way_open6(stage: Stage) -> Iterator[None]:
    """The attacker reaches the provider by IPv6 too."""
    world = stage.world
    world.provider.ip(f"address add {PROVIDER_HOST6}/64 dev {WAN_INTERFACE} nodad")
    world.provider.ip(f"route replace default via {NODE_FOR_PROVIDER6}")
    world.internet.ip(f"address add {NODE_FOR_PROVIDER6}/64 dev provider nodad")
    stage.attacker.ip(f"route replace default via {NODE_FOR_ATTACKER6}")
    world.internet.sysctl("net.ipv6.conf.all.forwarding", "1")
    try:
        yield
    finally:
        world.internet.sysctl("net.ipv6.conf.all.forwarding", "0")
        stage.attacker.ip("-6 route del default")
        world.internet.ip(f"address del {NODE_FOR_PROVIDER6}/64 dev provider")
        world.provider.ip("-6 route del default")
        world.provider.ip(f"address del {PROVIDER_HOST6}/64 dev {WAN_INTERFACE}")


@contextmanager
def _chat_by(stage: Stage, kind: str, *rules: str) -> Iterator[None]:
    """The chat goes by a direct path of this kind meanwhile."""
    user = stage.world.user_side
    with _way_open(stage, *rules):
        try:
            _switch(user, "on")
            _until_by(user, kind)
            yield
        finally:  # the relay carries before the way is closed
            _switch(user, "off")
            provider = stage.world.provider_side
            until(lambda: _direct(provider, USER_PEER)["state"] != "up", "the relay to carry again")


def _switch(user: Side, direct: str) -> None:
    text = re.sub(r'^direct = "\w+"$', f'direct = "{direct}"', user.config.read_text(), flags=re.MULTILINE)
    user.config.write_text(text)
    user.nconnect("reload")


def _direct(side: Side, name: str = PROVIDER_PEER) -> dict[str, Any]:
    """What the status says of the direct path to this peer."""
    return next(peer["direct"] for peer in side.status()["peers"] if peer["name"] == name)


def _until_by(side: Side, kind: str, timeout_s: float = FOUND_S) -> None:
    """Until the path to the provider, which has traffic, is of this kind."""

    def is_so() -> bool:
        side.namespace.run(["ping", "-n", "-c", "1", "-W", "1", SERVER])
        return bool(_direct(side)["kind"] == kind)

    until(is_so, f"a direct path by {kind}", timeout_s=timeout_s)


def _port(machine: Namespace) -> int:
    """Of direct paths: the one that is open for UDP and TCP."""
    udp_and_tcp = [set(re.findall(r":(\d+) ", machine.must("ss", "-Hln", kind))) for kind in ("-u", "-t")]
    (port,) = udp_and_tcp[0] & udp_and_tcp[1]
    return int(port)


def _outsider(
    stage: Stage, attack: str, port: int, seconds: float, overheard: bytes, host: str = PROVIDER_HOST
) -> Process:
    """A program on the attacker's machine (`lab.attack.outsider`) that has begun."""
    sources = ATTACKER_ADDRESSES
    if ":" in host:
        sources = tuple(f"{ATTACKER_PREFIX6}{n:x}" for n in range(2, 12))
    command = ["nice", "-n", "19", sys.executable, "-m", "lab.attack.outsider", attack, host]
    command += [str(port), str(seconds), overheard.hex(), *sources]
    found = stage.world.run_in(stage.attacker, command, attack)
    until(lambda: "ready" in found.text(), attack, process=found)
    return found


def _counts(outsider: Process) -> dict[str, int]:
    """What it did, once it has ended."""
    if outsider.wait(KNOCK_S + FOUND_S):
        raise LabError(f"the attack failed:\n{outsider.tail()}")
    found: dict[str, int] = json.loads(outsider.text().splitlines()[-1])
    return found


# The rows


def _udp_flood(stage: Stage) -> Result:
    """The port is flooded by somebody who saw datagrams of the chat."""
    return _floods(stage, PROVIDER_HOST, FLOODS)


def _udp6_flood(stage: Stage) -> Result:
    """The same by IPv6, while the chat goes by IPv4."""
    with _way_open6(stage):
        return _floods(stage, PROVIDER_HOST6, FLOODS6)


def _floods(stage: Stage, host: str, floods: tuple[tuple[str, str, str], ...]) -> Result:
    side = stage.world.provider_side
    assert side.daemon is not None
    before = side.daemon.rss_bytes()
    slowest = 0.0
    with _chat_by(stage, "udp", ONLY_UDP):
        port = _port(stage.world.provider)
        stage.sink(stage.world.provider, "the control", CONTROL_PORT)
        for attack, seen_from, reason in floods:
            counted = side.drops(reason)
            name = f"{attack}, of {'the provider' if seen_from == PROVIDER_HOST else 'the user'}'s"
            for _ in range(TRIES):
                control, _ = _flooded(stage, attack, seen_from, port, host, CONTROL_PORT)
                found, counts = _flooded(stage, attack, seen_from, port, host, port)
                if counts["answers"]:
                    return Result(f"{name}: {counts['answers']} of {counts['sent']} were answered")
                if not found.lost and found.p99_ms <= control.p99_ms + SLOWER_MS:
                    break
            else:
                return Result(
                    f"{name}: a ping takes {found.p99_ms:.0f} ms (p99), {found.lost} of {PINGS} are lost;"
                    f" {control.p99_ms:.0f} ms and {control.lost} beside the same load"
                )
            if not side.drops(reason) > counted:
                return Result(f"{name} was not counted as {reason}")
            slowest = max(slowest, found.p99_ms - control.p99_ms)
        grown = side.daemon.rss_bytes() - before
        kind = _direct(stage.world.user_side)["kind"] or "the relay"
    if grown > MAY_GROW:
        return Result(f"the daemon grew by {grown / 1e6:.0f} MB")
    return Result(seen=f"ping p99 {slowest:+.0f} ms, chat by {kind}")


def _flooded(
    stage: Stage, attack: str, seen_from: str, port: int, host: str, at: int
) -> tuple[RoundTrips, dict[str, int]]:
    """Pings during a flood of the port `at`, and what became of the flood."""

    def is_chat(packet: Seen) -> bool:
        is_there = port in (packet.port, packet.source_port) and packet.source == seen_from
        return packet.protocol == UDP and is_there and OVERHEAD_BYTES < len(packet.payload) < 1400

    with Overheard(stage.world.internet, "provider", is_chat) as heard:
        until(lambda: heard.packets, "a datagram of the chat")
    outsider = _outsider(stage, attack, at, FLOOD_S, heard.packets[-1].payload, host)
    trips = round_trips(stage.world.user, SERVER, count=PINGS)
    counts = _counts(outsider)
    if counts["sent"] < FLOOD_S * DATAGRAMS_PER_S / 10:
        raise LabError(f"{attack}: only {counts['sent']} datagrams were sent")
    return trips, counts


def _forged_source(stage: Stage) -> Result:
    """Who is on the way lets what the user sends come from a victim: authentic, and only once."""
    world = stage.world

    def is_victims(packet: Seen) -> bool:
        return packet.protocol == UDP and VICTIM in (packet.source, packet.to)

    def came_from(host: str) -> int:
        return _bytes(heard.packets, lambda packet: packet.source == host)

    with _chat_by(stage, "udp", ONLY_UDP):
        port = _port(world.provider)
        world.internet.nft(
            "table ip forging {\nchain forward {\ntype filter hook forward priority filter;\n"
            f"ip saddr {USER_HOST} udp dport {port} ip saddr set {VICTIM}\n}}\n}}"
        )
        try:
            with Overheard(world.provider, WAN_INTERFACE, is_victims) as heard:
                time.sleep(FORGED_S)
        finally:
            world.internet.nft("delete table ip forging")
        forged, victims = came_from(VICTIM), _bytes(heard.packets, lambda packet: packet.to == VICTIM)
    if not forged:
        return Result("the row failed: nothing came in the victim's name")
    if victims > AMPLIFICATION * forged:
        return Result(f"{victims} bytes went to the victim for {forged} in its name")
    return Result(seen=f"{forged} bytes in its name, {victims} to it")


def _tcp6_strangers(stage: Stage) -> Result:
    """The same by IPv6: ten addresses of one /64."""
    with _way_open6(stage):
        return _tcp_strangers(stage, PROVIDER_HOST6)


def _tcp_strangers(stage: Stage, host: str = PROVIDER_HOST) -> Result:
    """Connections to the port that say nothing, noise, or an OPEN of the user's; the user comes again."""
    world, side, user = stage.world, stage.world.provider_side, stage.world.user_side
    assert side.daemon is not None

    def is_opening(packet: Seen) -> bool:
        ends = (packet.source, packet.to)
        return packet.protocol == TCP and ends == (USER_HOST, PROVIDER_HOST) and bool(packet.payload)

    with Overheard(world.internet, "provider", is_opening) as heard, _chat_by(stage, "tcp", USER_DIALS):
        port = _port(world.provider)
        opening = next(packet.payload for packet in heard.packets if packet.port == port)
        if len(opening) != OPEN_BYTES:
            return Result(f"the row failed: {len(opening)} bytes came first")
        before, size = side.status()["drops"], side.daemon.rss_bytes()
        files = _open_files(side.daemon)
        outsider = _outsider(stage, "knock", port, KNOCK_S, opening, host)
        _switch(user, "off")
        until(lambda: _direct(user)["kind"] is None, "the user's stream to end")
        began = time.monotonic()
        _switch(user, "on")
        try:
            _until_by(user, "tcp", KNOCK_S - 2)
        except LabError:
            return Result("no stream of the user's opens")
        took_s = time.monotonic() - began
        files = _open_files(side.daemon) - files
        counts = _counts(outsider)
        grown = side.daemon.rss_bytes() - size
        after = side.status()["drops"]
    missed = [
        reason
        for reason in ("malformed", "no_session", "replayed", "handshake_flood")
        if after.get(reason, 0) <= before.get(reason, 0)
    ]
    achieved = ""
    if counts["answered_bytes"] or counts["left"]:
        achieved = f"{counts['answered_bytes']} bytes were answered, {counts['left']} connections stay open"
    elif files > PLACES + 8 or grown > MAY_GROW:
        achieved = f"the daemon keeps {files} connections, and grew by {grown / 1e6:.0f} MB"
    elif missed:
        achieved = f"nothing was counted as {', '.join(missed)}"
    return Result(achieved, f"no byte to {counts['connections']}, the user's in {took_s:.1f} s")


def _open_files(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def _scan(stage: Stage) -> Result:
    """The peer says that it is where it is not: at services, groups, the provider's LAN, at a victim."""
    side = stage.world.provider_side
    own = {PROVIDER_HOST, PROVIDER_LAN, PROVIDER_TUNNEL, "127.0.0.1"}

    def is_named(packet: Seen) -> bool:
        there = packet.to, packet.port
        is_its_own = packet.protocol in (TCP, UDP) and packet.source in own
        return is_its_own and (packet.port in NAMED_PORTS or there in FORBIDDEN)

    revision = 0

    def tell(*named: tuple[str, int]) -> None:
        nonlocal revision
        revision += 1
        peer = stage.programs["peer"]
        peer.do("seal", ipv4(EVIL_TUNNEL, SERVER, 17, udp(40_000, FLOOD_PORT, b"busy")).hex())
        peer.do("candidates", str(revision), *(f"HOST {host} {port}" for host, port in named))
        time.sleep(LIST_S)

    counted = side.drops("bad_candidate")
    with Overheard(stage.world.provider, "", is_named) as sent:
        for at in range(0, len(FORBIDDEN), LIST - 1):
            tell((LATER_VICTIM, 20_002), *FORBIDDEN[at : at + LIST - 1])
        time.sleep(SEARCH_S + 0.5)  # the next is a search of its own
        for n in range(7):
            tell(*((VICTIM, 20_100 + LIST * n + m) for m in range(LIST)))
        searched = _bytes(sent.packets, lambda p: p.to == VICTIM and p.protocol == UDP)
        time.sleep(SEARCH_S / 2)
        tell(*((SERVER, 20_200 + m) for m in range(LIST)))
        for n in range(9):
            tell(*((f"{SCANNED}{LIST * n + m}", 20_300) for m in range(LIST)))
        time.sleep(1.0)
    wrong = {(p.to, p.port) for p in sent.packets if (p.to, p.port) in FORBIDDEN}
    hosts = {p.to for p in sent.packets}
    most = max((_bytes(sent.packets, lambda p, host=host: p.to == host) for host in hosts), default=0)  # type: ignore[misc]
    achieved = ""
    if wrong:
        achieved = f"the provider sent something to {', '.join(f'{h}:{p}' for h, p in sorted(wrong))}"
    elif searched > SEARCH_BYTES or most > HOUR_BYTES:
        achieved = f"{searched} bytes went to a victim in a search, and {most} in all"
    elif len(hosts) > MAX_NAMED:
        achieved = f"the provider scanned {len(hosts)} addresses"
    elif not searched or LATER_VICTIM not in hosts:
        achieved = "the row failed: nothing was probed"
    elif side.drops("bad_candidate") == counted:
        achieved = "nothing was counted as bad_candidate"
    return Result(achieved, f"{searched} bytes in a search, {len(hosts)} addresses")


def _bytes(packets: list[Seen], wanted: Callable[[Seen], bool]) -> int:
    return sum(packet.size for packet in packets if wanted(packet))


def _revoked(stage: Stage) -> Result:
    """A user who is removed goes on sending, and so does the server that it talks to."""
    side = stage.world.provider_side
    seen = []
    with _way_open(stage), second_user(stage) as (_, user):
        for kind in ("tcp", "udp"):
            if kind == "udp":
                stage.world.internet.nft(f"add rule ip between forward {ONLY_UDP}")
                admit(side, user)
            _until_by(user, kind, 2 * FOUND_S)
            last_s, accepted = _after_removal(stage, user, kind)
            if last_s > WITHIN_S or accepted:
                return Result(f"{kind}: the last packet passes {last_s:.2f} s after the removal {accepted}")
            seen.append(f"{kind} {last_s:.2f} s")
    return Result(seen=f"the last packet: {', '.join(seen)}")


def _after_removal(stage: Stage, user: Side, kind: str) -> tuple[float, str]:
    """(seconds from the removal to the last packet, either way; what the daemon still accepts)."""
    world, side = stage.world, stage.world.provider_side
    with flow(world.server, SERVER, user.namespace) as (far, near), _Talk(near, far) as talk:
        until(lambda: min(talk.came.values()) > 20, "a flow")
        if _direct(user)["kind"] != kind:
            raise LabError(f"the flow goes by {_direct(user)['kind']}")
        refused = side.status()["drops"].get("no_session", 0)
        side.nconnect("peer", "remove", NAME)
        removed_at = time.monotonic()
        time.sleep(WITHIN_S)
        streams = world.provider.must("ss", "-Htn", "state", "established", "dst", HOST)
        accepted = "and its stream is open" if streams else ""
        if kind == "udp" and side.status()["drops"].get("no_session", 0) == refused:
            accepted = "and its datagrams are accepted"
        time.sleep(WITHIN_S)
        return max(0.0, max(talk.last_at.values()) - removed_at), accepted


class _Talk:
    """A datagram each 10 ms from both ends of a flow, while a `with` block runs."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._ends = {"near": near, "far": far}
        self.came = dict.fromkeys(self._ends, 0)
        self.last_at = dict.fromkeys(self._ends, 0.0)  # time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="talk", daemon=True)

    def __enter__(self) -> Self:
        for end in self._ends.values():
            end.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(0.01):
            for name, end in self._ends.items():
                with suppress(OSError):  # the way is closed
                    end.send(b"still here")
                with suppress(OSError):
                    while end.recv(100):
                        self.came[name] += 1
                        self.last_at[name] = time.monotonic()


ROWS: tuple[Attack, ...] = (
    Attack("stranger", "direct_udp_flood", "10,000 datagrams a second to the port", _udp_flood, bound_s=200),
    Attack("stranger", "direct_udp6_flood", "the same by IPv6", _udp6_flood, bound_s=120),
    Attack(
        "node", "direct_forged_source", "the user's datagrams come from a victim", _forged_source, bound_s=120
    ),
    Attack("stranger", "direct_tcp_strangers", "connections without a proof", _tcp_strangers, bound_s=90),
    Attack("stranger", "direct_tcp6_strangers", "the same by IPv6", _tcp6_strangers, bound_s=90),
    Attack("peer", "direct_candidates_scan", "lists of others' addresses", _scan),
    Attack("peer", "direct_revoked", "packets of a peer that was removed", _revoked, bound_s=150),
)
